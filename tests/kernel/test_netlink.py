"""Links, addresses and routes, by what ``ip`` and the kernel say about them afterwards."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from kernel.netlink import Netlink
from tests.support import network
from tests.support.requires import program, requires

pytestmark = requires("root", "ip")


def ip(*arguments: str) -> Any:
    """What ``ip -j -d`` answers."""
    return json.loads(subprocess.check_output([program("ip"), "-j", "-d", *arguments]))


def test_a_bridge_is_what_ip_sees() -> None:
    def test() -> None:
        with Netlink() as here:
            here.create_bridge("bridge0", hardware_address="0a:58:0a:01:00:01")
            here.set_up("bridge0")
            here.set_address(here.link("bridge0"), IPv4Interface("10.1.0.1/20"))
            assert here.addresses(here.link("bridge0")) == [IPv4Interface("10.1.0.1/20")]
            assert here.addresses(here.link("lo")) == [IPv4Interface("127.0.0.1/8")]
        (seen,) = ip("addr", "show", "bridge0")
        assert seen["linkinfo"]["info_kind"] == "bridge"
        assert "UP" in seen["flags"]
        assert seen["address"] == "0a:58:0a:01:00:01"
        address = seen["addr_info"][0]
        assert (address["local"], address["prefixlen"], address["broadcast"]) == ("10.1.0.1", 20, "10.1.15.255")

    network.in_a_node(test)


def test_a_pair_is_made_with_one_end_in_the_bridge_and_the_other_in_the_pod() -> None:
    def test() -> None:
        with network.new_namespace() as pod, Netlink() as here, Netlink(pod) as there:
            here.create_bridge("bridge0", hardware_address="0a:58:0a:01:00:01")
            bridge = here.link("bridge0")
            here.create_veth(
                "left", master=bridge.index, peer_name="eth0", peer_namespace=pod, peer_hardware_address="0a:58:0a:01:00:02"
            )
            left, right = here.link("left"), there.link("eth0")
            assert (left.kind, left.master, left.is_up) == ("veth", bridge.index, True)
            assert (right.kind, right.is_up, right.hardware_address) == ("veth", False, "0a:58:0a:01:00:02")
            assert {link.name for link in here.links()} == {"lo", "bridge0", "left"}
            assert [link.name for link in here.links("veth")] == ["left"]
            assert [link.name for link in here.links("bridge")] == ["bridge0"]
            assert ip("link", "show", "left")[0]["master"] == "bridge0"
            assert here.delete_link("left")
            assert there.find_link("eth0") is None
            assert not here.delete_link("left")

    network.in_a_node(test)


def test_setting_an_address_or_the_default_route_again_does_no_harm() -> None:
    def test() -> None:
        with Netlink() as here:
            here.create_bridge("bridge0", hardware_address="0a:58:0a:01:00:01")
            bridge = here.link("bridge0")
            for _ in range(2):
                here.configure("bridge0", bridge.index, IPv4Interface("10.1.0.1/24"), IPv4Address("10.1.0.9"))
            assert here.link("bridge0").is_up
            assert here.addresses(bridge) == [IPv4Interface("10.1.0.1/24")]
            assert here.default_gateways() == [IPv4Address("10.1.0.9")]
        (default,) = [route for route in ip("route") if route["dst"] == "default"]
        assert (default["gateway"], default["dev"]) == ("10.1.0.9", "bridge0")

    network.in_a_node(test)


def test_a_failure_names_the_link_what_was_attempted_and_the_kernels_reason() -> None:
    def test() -> None:
        with Netlink() as here:
            here.create_bridge("bridge0", hardware_address="0a:58:0a:01:00:01")
            with pytest.raises(FileExistsError, match=r"create bridge: File exists: 'bridge0'"):
                here.create_bridge("bridge0", hardware_address="0a:58:0a:01:00:01")
            with pytest.raises(OSError, match=r"set link up: No such device: 'nothing'") as caught:
                here.set_up("nothing")
            assert caught.value.errno == errno.ENODEV
            with pytest.raises(OSError, match=r"add default route via 9\.9\.9\.9: .* \(Nexthop has invalid gateway\): 'lo'"):
                here.configure("lo", 1, IPv4Interface("10.2.0.1/24"), IPv4Address("9.9.9.9"))
            with pytest.raises(OSError, match=r"find link: No such device: 'nothing'"):
                here.link("nothing")
            assert (here.index_of("nothing"), here.index_of("lo")) == (None, 1)
            assert here.find_link("lo") is not None, "the socket is in step after failures"

    network.in_a_node(test)


def test_a_dump_of_many_links_is_whole() -> None:
    def test() -> None:
        names = {f"pair{number}" for number in range(60)}
        with network.new_namespace() as pod, Netlink() as here, Netlink(pod) as there:
            for name in names:
                here.create_veth(name, peer_name=f"{name}p", peer_namespace=pod)
            assert {link.name for link in here.links("veth")} == names
            assert len(there.links("veth")) == 60

    network.in_a_node(test)


def test_first_use_by_many_threads_beside_a_running_loop() -> None:
    # In an interpreter that has not imported pyroute2: the import and its lazy tables are what could race.
    script = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from kernel import namespace
from kernel._linux import lib
from kernel.netlink import Netlink

def work(number):
    with Netlink() as here:
        here.create_bridge(f"b{number}", hardware_address=f"0a:58:0a:01:00:{number:02x}")
        return here.link(f"b{number}").hardware_address

async def main():
    assert not any(name.startswith("pyroute2") for name in sys.modules)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(16) as pool:
        found = await asyncio.gather(*(loop.run_in_executor(pool, work, number) for number in range(1, 33)))
    assert found == [f"0a:58:0a:01:00:{number:02x}" for number in range(1, 33)], found
    with Netlink() as here:  # in the loop's own thread, too
        assert len(here.links("bridge")) == 32
        for number in range(1, 33):
            here.delete_link(f"b{number}")

namespace.unshare(lib.CLONE_NEWNET)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@requires("strace")
def test_work_in_another_namespace_makes_threads_and_no_process() -> None:
    script = """
from kernel import namespace
from kernel._linux import lib
from kernel.netlink import Netlink
with namespace.open_namespace("thread-self", "net") as here, Netlink(here) as there:
    print([link.name for link in there.links()])
"""
    command = [program("strace"), "-f", "-qq", "-e", "trace=fork,vfork,clone,clone3,execve", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    calls = [line for line in done.stderr.splitlines() if "clone" in line or "fork" in line or "execve" in line]
    assert "'lo'" in done.stdout
    made = [line for line in calls if "execve" not in line and "resumed" not in line]
    assert made, "the thread that enters the namespace"
    assert all("CLONE_THREAD" in line for line in made), made
    assert sum("execve" in line for line in calls) == 1, calls


def test_nothing_stays_open() -> None:
    before = (set(os.listdir("/proc/self/fd")), threading.active_count())
    with Netlink() as here, ThreadPoolExecutor(4) as pool:
        assert here.find_link("lo") is not None
        list(pool.map(lambda _: asyncio.run(asyncio.to_thread(links)), range(8)))
    assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == before


def links() -> set[str]:
    return network.links_in()
