"""Interfaces of the host's that move into a container, in network namespaces of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kernel import namespace
from kernel._linux import lib
from kernel.fd import Fd
from kernel.netlink import Netlink
from runtime.container import net_devices
from runtime.container.net_devices import move_all
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec.schema import NetDevice
from tests.support import network
from tests.support.requires import program, requires

pytestmark = requires("root", "ip")


@contextmanager
def container() -> Iterator[tuple[int, Fd]]:
    """A process in a network namespace of its own: its pid, and the namespace."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        namespace.unshare(lib.CLONE_NEWNET)
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    try:
        with namespace.open_namespace(pid, "net") as opened:
            yield pid, opened
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def ip(*arguments: str) -> str:
    return subprocess.check_output([program("ip"), *arguments], stderr=subprocess.STDOUT, text=True)


def seen_in(opened: Fd, name: str) -> tuple[list[str], list[str]]:
    """The flags and the global addresses of *name*, as ip(8) sees them in there."""
    (link,) = json.loads(namespace.in_namespace(opened, "net", lambda: ip("-j", "addr", "show", "dev", name)))
    addresses = [f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"] if each["scope"] == "global"]
    return link["flags"], addresses


def make_pair(name: str, peer: str) -> None:
    with Netlink() as here, namespace.open_namespace("thread-self", "net") as ours:
        here.create_veth(name, peer_name=peer, peer_namespace=ours)


def test_it_is_moved_renamed_and_up_with_its_addresses() -> None:
    def test() -> None:
        make_pair("card0", "card1")
        for address in ("192.0.2.7/24", "198.51.100.1/32"):
            ip("addr", "add", address, "dev", "card0")
        ip("addr", "add", "192.0.2.9/24", "dev", "card0", "valid_lft", "100", "preferred_lft", "100")  # learned, not given
        ip("addr", "add", "169.254.1.1/16", "dev", "card0", "scope", "link")
        with container() as (pid, theirs):
            move_all({"card0": NetDevice(name="eth0"), "card1": NetDevice()}, pid)
            flags, addresses = seen_in(theirs, "eth0")
            assert "UP" in flags
            assert sorted(addresses) == ["192.0.2.7/24", "198.51.100.1/32"]
            assert "UP" in seen_in(theirs, "card1")[0]
            with Netlink() as here:
                assert [link.name for link in here.links()] == ["lo"]

    network.in_a_node(test)


@requires("ipv6")
def test_addresses_of_ipv6_go_with_it_but_for_those_of_the_link() -> None:
    def test() -> None:
        make_pair("card0", "card1")
        ip("-6", "addr", "add", "2001:db8::5/64", "dev", "card0", "nodad")
        ip("-6", "addr", "add", "2001:db8::6/128", "dev", "card0", "valid_lft", "100", "preferred_lft", "100")
        ip("-6", "addr", "add", "fe80::77/64", "dev", "card0", "nodad")
        with container() as (pid, theirs):
            move_all({"card0": NetDevice()}, pid)
            assert seen_in(theirs, "card0")[1] == ["2001:db8::5/64"]
            assert "fe80::77" not in namespace.in_namespace(theirs, "net", lambda: ip("-6", "addr"))

    network.in_a_node(test)


def test_the_rules_of_an_address_go_with_it() -> None:
    def test() -> None:
        make_pair("card0", "card1")
        ip("addr", "add", "192.0.2.7/24", "dev", "card0", "metric", "77", "noprefixroute")
        with container() as (pid, theirs):
            move_all({"card0": NetDevice()}, pid)
            shown = namespace.in_namespace(theirs, "net", lambda: ip("addr", "show", "dev", "card0"))
            assert "noprefixroute" in shown
            assert "metric 77" in shown

    network.in_a_node(test)


def test_when_one_cannot_go_those_before_it_are_back_as_they_were() -> None:
    def test() -> None:
        make_pair("card0", "card1")
        ip("addr", "add", "192.0.2.7/24", "dev", "card0")
        with container() as (pid, theirs):
            with pytest.raises(InvalidSpec, match=r"^linux\.netDevices\.card9: there is no network interface of that name"):
                move_all({"card0": NetDevice(name="eth0"), "card9": NetDevice()}, pid)
            with Netlink(theirs) as there, Netlink() as here:
                assert [link.name for link in there.links()] == ["lo"]
                assert str(here.lasting_addresses(here.link("card0"))[0]) == "192.0.2.7/24"
                assert here.link("card0").is_up

    network.in_a_node(test)


def test_a_name_that_is_taken_there_and_a_link_that_does_not_go_are_named() -> None:
    def test() -> None:
        make_pair("card0", "card1")
        with container() as (pid, _):
            with pytest.raises(InvalidSpec, match=r"card0: the container has an interface that is called lo already"):
                move_all({"card0": NetDevice(name="lo")}, pid)
            with pytest.raises(Unsupported, match=r"^linux\.netDevices\.lo: move link to another namespace, as home: "):
                move_all({"lo": NetDevice(name="home")}, pid)
            with Netlink() as here:
                assert here.link("lo").is_up
                assert here.link("card0").is_up

    network.in_a_node(test)


def test_without_a_namespace_of_its_own_there_is_nowhere_to_move_to() -> None:
    with pytest.raises(InvalidSpec, match="no network namespace of its own"):
        net_devices.move_all({"lo": NetDevice()}, os.getpid())
