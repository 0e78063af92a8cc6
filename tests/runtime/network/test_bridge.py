"""The bridge network, with real packets, on a node of its own."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from kernel import mount
from kernel.netlink import Netlink
from runtime.errors import AddressesExhausted, NotReady
from runtime.network import Addresses, Network
from runtime.network.bridge import IP_FORWARD, BridgeNetwork, node_link
from runtime.sandbox import namespaces
from runtime.store import Store
from tests.support import network
from tests.support.bridge import IDS, Node, node, sandbox
from tests.support.requires import program, requires

pytestmark = requires("root")


def test_it_keeps_the_promise_of_a_network(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    kept: Network = BridgeNetwork(store, state_dir=tmp_path)
    assert kept.addresses("nobody") is None
    store.close()


def test_a_pod_gets_address_prefix_and_default_route(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            assert here.attach(IDS[0]) == Addresses("10.85.0.2", gateway="10.85.0.1")
            assert here.network.addresses(IDS[0]) == Addresses("10.85.0.2", gateway="10.85.0.1")
            assert network.address_of(here.pin(IDS[0]), "eth0") == [IPv4Interface("10.85.0.2/16")]
            assert network.gateways_of(here.pin(IDS[0])) == [IPv4Address("10.85.0.1")]
            assert network.links_in() == {"lo", "bridge0", "kl01010101010"}
            with here.inside(IDS[0]) as pod, Netlink(pod) as there:
                eth0 = there.link("eth0")
                assert eth0.is_up
                assert eth0.hardware_address == "0a:58:0a:55:00:02"

    network.in_a_node(test)


def test_pods_reach_each_other_and_the_node(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 2) as here:
            first, second = here.attach(IDS[0]), here.attach(IDS[1])
            with here.inside(IDS[0]) as one, here.inside(IDS[1]) as two, network.listen(two) as listener:
                assert network.ping(one, second.ip)
                assert network.ping(two, first.ip)
                assert network.ping(None, first.ip)
                assert network.peer_of_a_connection(listener, one, second.ip) == first.ip
                assert network.peer_of_a_connection(listener, None, second.ip) == "10.85.0.1"
                with network.listen() as nodes:
                    assert network.peer_of_a_connection(nodes, one, "10.85.0.1") == first.ip

    network.in_a_node(test)


def test_a_pod_reaches_the_world_with_the_nodes_address(tmp_path: Path) -> None:
    def test() -> None:
        ends = IPv4Interface("192.0.2.1/24"), IPv4Interface("192.0.2.2/24")
        with network.outside_world(*ends) as world:
            with Netlink(world) as there:
                assert there.default_gateways() == [], "it could not answer a pod's own address"
            with node(tmp_path, 1, kept={"uplink"}) as here:
                here.attach(IDS[0])
                with here.inside(IDS[0]) as pod, network.listen(world) as listener:
                    assert network.peer_of_a_connection(listener, pod, "192.0.2.2") == "192.0.2.1"
                    assert network.ping(pod, "192.0.2.2")

    network.in_a_node(test)


def test_the_first_packet_after_attach_arrives(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 8) as here:
            for sandbox_id in IDS[:8]:
                ip = here.attach(sandbox_id).ip
                with here.inside(sandbox_id) as pod, network.listen(pod) as listener:
                    assert network.ping(pod, "10.85.0.1")  # one packet, never sent again
                    assert network.peer_of_a_connection(listener, None, ip) == "10.85.0.1"

    network.in_a_node(test)


def test_a_neighbour_that_comes_and_goes_does_not_disturb_a_connection(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 3) as here:
            ip = here.attach(IDS[0]).ip
            with Netlink() as links:
                before = links.link("bridge0").hardware_address
                with here.connection_to(IDS[0], ip) as (client, server):
                    for sandbox_id in IDS[1:3]:
                        here.attach(sandbox_id)
                        client.sendall(b"x")
                        assert server.recv(1) == b"x"
                        here.network.detach(sandbox_id)
                        server.sendall(b"y")
                        assert client.recv(1) == b"y"
                assert links.link("bridge0").hardware_address == before == "0a:58:0a:55:00:01"

    network.in_a_node(test)


def test_attaching_again_returns_the_same_and_keeps_connections(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            first = here.attach(IDS[0])
            with here.connection_to(IDS[0], first.ip) as (client, server):
                assert here.attach(IDS[0]) == first
                # A daemon that was restarted does not remember having made the bridge.
                assert here.restarted().attach(sandbox(IDS[0]), here.pin(IDS[0])) == first
                client.sendall(b"still here")
                assert server.recv(10) == b"still here"
            assert json.loads((here.paths.run_dir / "network.json").read_text()) == {"ip_forward": "0"}

    network.in_a_node(test)


def test_a_half_attached_pod_is_completed(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            first = here.attach(IDS[0])
            with here.inside(IDS[0]) as pod, Netlink() as links:
                links.delete_link(node_link(IDS[0]))  # as after a crash when only the address was recorded
                assert here.attach(IDS[0]) == first
                assert network.ping(pod, "10.85.0.1")
                links.delete_link(node_link(IDS[0]))
                bridge = links.link("bridge0").index  # and as after one when the pair was made
                links.create_veth(node_link(IDS[0]), master=bridge, peer_name="eth0", peer_namespace=pod)
                assert here.attach(IDS[0]) == first
                assert network.ping(pod, "10.85.0.1")

    network.in_a_node(test)


def test_a_pod_whose_namespace_was_made_anew_is_connected_again(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            first = here.attach(IDS[0])
            with here.inside(IDS[0]):  # somebody still holds the old one, so its end of the pair lives on
                namespaces.remove(here.paths, IDS[0])
                namespaces.create(here.paths, IDS[0], network=True, ipc=False, hostname=None, sysctls={})
                assert here.attach(IDS[0]) == first
                with here.inside(IDS[0]) as pod:
                    assert network.ping(pod, "10.85.0.1")

    network.in_a_node(test)


def test_many_pods_at_once(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 32) as here, ThreadPoolExecutor(16) as threads:
            found = list(threads.map(here.attach, IDS))
            assert {addresses.ip for addresses in found} == {f"10.85.0.{last}" for last in range(2, 34)}
            assert len(network.links_in()) == 2 + 32
            with here.inside(IDS[0]) as one:
                assert all(network.ping(one, addresses.ip) for addresses in found[1:])
            list(threads.map(here.network.detach, IDS))
            assert network.links_in() == {"lo", "bridge0"}

    network.in_a_node(test)


def test_first_pods_at_the_same_moment_make_one_bridge(tmp_path: Path) -> None:
    def test() -> None:
        for attempt in range(5):
            with node(tmp_path / str(attempt), 8) as here, ThreadPoolExecutor(8) as threads:
                together = threading.Barrier(8)

                def attach(sandbox_id: str, here: Node = here, together: threading.Barrier = together) -> Addresses:
                    together.wait()
                    return here.attach(sandbox_id)

                assert len({addresses.ip for addresses in threads.map(attach, IDS[:8])}) == 8
                assert len(network.links_in()) == 2 + 8
                list(threads.map(here.network.detach, IDS[:8]))

    network.in_a_node(test)


def test_detaching_is_idempotent_and_needs_neither_namespace_nor_link(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 2) as here:
            here.network.detach(IDS[0])
            here.attach(IDS[0])
            here.attach(IDS[1])
            namespaces.remove(here.paths, IDS[0])
            here.network.detach(IDS[0])
            here.network.detach(IDS[0])
            with Netlink() as links:
                links.delete_link(node_link(IDS[1]))
            here.network.detach(IDS[1])
            assert here.network.addresses(IDS[0]) is here.network.addresses(IDS[1]) is None
            assert network.links_in() == {"lo", "bridge0"}

    network.in_a_node(test)


def test_a_failed_attach_leaves_no_link_and_no_address(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            with pytest.raises(FileNotFoundError):
                here.network.attach(sandbox(IDS[0]), here.paths.run_dir / "no such namespace")
            mount.unmount(here.pin(IDS[0]))  # a plain file now
            with pytest.raises(OSError, match="net") as caught:
                here.attach(IDS[0])
            assert caught.value.__notes__ == ["in setns(2)"]
            assert here.network.addresses(IDS[0]) is None
            assert network.links_in() == {"lo", "bridge0"}

    network.in_a_node(test)


def test_a_failure_after_the_pair_was_made_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(101, "add default route via 10.85.0.1: Network is unreachable", "eth0")

    def test() -> None:
        with node(tmp_path, 2) as here:
            here.attach(IDS[0])
            with monkeypatch.context() as broken:
                broken.setattr(Netlink, "configure", refuse)
                with pytest.raises(OSError, match="unreachable"):
                    here.attach(IDS[1])
                with pytest.raises(OSError, match="unreachable"):
                    here.attach(IDS[0])
            assert network.links_in() == {"lo", "bridge0", node_link(IDS[0])}
            assert here.network.addresses(IDS[1]) is None
            with here.inside(IDS[0]) as pod:
                assert network.ping(pod, "10.85.0.1"), "a second attach that fails leaves what works"

    network.in_a_node(test)


def test_an_interface_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here, here.inside(IDS[0]) as pod, Netlink() as links:
            links.create_veth("foreign", peer_name="eth0", peer_namespace=pod)
            with pytest.raises(NotReady, match="has an eth0 that is not ours"):
                here.attach(IDS[0])
            assert network.address_of(here.pin(IDS[0]), "eth0") == []
            links.delete_link("foreign")

    network.in_a_node(test)


def test_a_link_of_the_bridges_name_that_is_no_bridge_is_an_error(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here, network.new_namespace() as other, Netlink() as links:
            links.create_veth("bridge0", peer_name="other", peer_namespace=other)
            with pytest.raises(NotReady, match="bridge0 on this node is not a bridge"):
                here.attach(IDS[0])
            links.delete_link("bridge0")

    network.in_a_node(test)


def test_a_full_subnet_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 6, subnet=IPv4Network("10.85.0.0/29")) as here:
            for sandbox_id in IDS[:5]:
                here.attach(sandbox_id)
            with pytest.raises(AddressesExhausted, match=r"10\.85\.0\.0/29"):
                here.attach(IDS[5])
            assert node_link(IDS[5]) not in network.links_in()

    network.in_a_node(test)


def test_a_sweep_takes_what_belongs_to_nobody_and_nothing_else(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 3) as here, network.new_namespace() as other, Netlink() as links:
            for sandbox_id in IDS[:3]:
                here.attach(sandbox_id)
            links.create_bridge("bridge1", hardware_address="0a:58:0a:01:00:01")
            links.create_veth(node_link("ab" * 32), master=links.link("bridge1").index, peer_name="eth0", peer_namespace=other)
            links.create_veth("klingon0", peer_name="eth1", peer_namespace=other)
            links.delete_link(node_link(IDS[2]))  # an address without a link
            here.network.sweep([sandbox(IDS[0])])
            assert network.links_in() == {"lo", "bridge0", "bridge1", node_link(IDS[0]), node_link("ab" * 32), "klingon0"}
            assert here.store.rows("SELECT owner FROM addresses") == [(IDS[0],)]
            with here.inside(IDS[0]) as pod:
                assert network.ping(pod, "10.85.0.1")
            here.network.shutdown()
            assert "bridge0" in network.links_in(), "a pod is there"
            for name in (node_link("ab" * 32), "klingon0", "bridge1"):
                links.delete_link(name)

    network.in_a_node(test)


def test_a_sweep_finds_links_whose_bridge_is_gone(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here, Netlink() as links:
            here.attach(IDS[0])
            links.delete_link("bridge0")
            here.network.sweep([])
            assert network.links_in() == {"lo"}

    network.in_a_node(test)


def test_a_bridge_that_was_deleted_comes_back_with_the_next_pod(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 2) as here, Netlink() as links:
            here.attach(IDS[0])
            links.delete_link("bridge0")
            ip = here.attach(IDS[1]).ip
            assert network.ping(None, ip)

    network.in_a_node(test)


def test_shutdown_does_nothing_twice_or_before_the_first_pod(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            here.network.shutdown()
            here.attach(IDS[0])
            here.network.detach(IDS[0])
            here.network.shutdown()
            here.network.shutdown()

    network.in_a_node(test)


def test_forwarding_that_was_on_before_stays_on(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1, forwarding="1") as here:
            here.attach(IDS[0])
            assert not (here.paths.run_dir / "network.json").exists()

    network.in_a_node(test)


def test_forwarding_is_restored_after_a_crash_in_between(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            here.attach(IDS[0])
            here.network.detach(IDS[0])
            here.restarted().shutdown()
            assert IP_FORWARD.read_text() == "0\n"

    network.in_a_node(test)


@requires("nft")
def test_the_rules_are_those_that_nft_shows(tmp_path: Path) -> None:
    def test() -> str:
        with node(tmp_path, 1) as here:
            here.attach(IDS[0])
            here.network.detach(IDS[0])
            return subprocess.check_output([program("nft"), "list", "ruleset"], text=True)

    expected = """
        table ip kernelet-bridge0 {
            chain postrouting {
                type nat hook postrouting priority srcnat; policy accept;
                ip saddr 10.85.0.0/16 oifname != "bridge0" masquerade
            }
        }"""
    assert network.in_a_node(test).split() == expected.split()
