"""Ports of the host that lead to a pod, with real packets, on a node of its own."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from kernel import namespace, nftables
from kernel.fd import Fd
from runtime.errors import InvalidArgument, Unsupported, WrongState
from runtime.sandbox.config import PortMapping
from tests.support import network
from tests.support.bridge import IDS, Node, node, sandbox
from tests.support.requires import program, requires

pytestmark = requires("root")

WEB = PortMapping(container_port=80, host_port=8080)
OUTSIDE = IPv4Interface("192.0.2.1/24"), IPv4Interface("192.0.2.2/24")
FILTERS_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@contextmanager
def answering(here: Node, sandbox_id: str, port: int = 80) -> Iterator[socket.socket]:
    """A listener on *port* in a pod."""
    with here.inside(sandbox_id) as pod, network.listen(pod, port) as listener:
        yield listener


def seen_from(listener: socket.socket, source: Fd | None, address: str, port: int = 8080) -> str:
    """Whom the pod's *listener* sees when *source* connects to a port of the host, a word having gone each way."""
    with network.connect(source, address, port) as client:
        server, (peer, _) = listener.accept()
        with server:
            client.sendall(b"ping")
            assert server.recv(4) == b"ping"
            server.sendall(b"pong")
            assert client.recv(4) == b"pong"
            assert client.getpeername() == (address, port)
    return str(peer)


def test_the_node_reaches_it_on_127_0_0_1_and_on_its_addresses(tmp_path: Path) -> None:
    def test() -> None:
        with network.outside_world(*OUTSIDE), node(tmp_path, 1, kept={"uplink"}) as here:
            here.attach(IDS[0], WEB)
            with answering(here, IDS[0]) as listener:
                assert seen_from(listener, None, "127.0.0.1") == "10.85.0.1"
                assert seen_from(listener, None, "127.0.0.2") == "10.85.0.1"
                assert seen_from(listener, None, "10.85.0.1") == "10.85.0.1"
                assert seen_from(listener, None, "192.0.2.1") == "192.0.2.1"

    network.in_a_node(test)


def test_the_world_reaches_it_and_is_seen_as_what_it_is(tmp_path: Path) -> None:
    def test() -> None:
        with network.outside_world(*OUTSIDE) as world, node(tmp_path, 1, kept={"uplink"}) as here:
            here.attach(IDS[0], WEB)
            with answering(here, IDS[0]) as listener:
                assert seen_from(listener, world, "192.0.2.1") == "192.0.2.2"
                assert network.refuses(world, "192.0.2.1", 80)

    network.in_a_node(test)


@pytest.mark.parametrize("filtered", ["0", "1"], ids=["bridged", "bridged-and-filtered"])
def test_pods_reach_it_and_a_pod_reaches_itself(tmp_path: Path, filtered: str) -> None:
    """With br_netfilter a packet for a pod of the same bridge does not come up to where routing is."""

    def test() -> None:
        if FILTERS_BRIDGED.exists():
            FILTERS_BRIDGED.write_text(filtered)
        with node(tmp_path, 2) as here:
            first = here.attach(IDS[0], WEB)
            second = here.attach(IDS[1])
            with answering(here, IDS[0]) as listener, here.inside(IDS[0]) as one, here.inside(IDS[1]) as two:
                assert seen_from(listener, two, "10.85.0.1") == "10.85.0.1"
                assert seen_from(listener, one, "10.85.0.1") == "10.85.0.1"
                assert seen_from(listener, two, first.ip, 80) == second.ip, "what asks the pod itself is not touched"

    network.in_a_node(test)


def test_datagrams_find_the_way_and_their_answers_back(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            here.attach(IDS[0], PortMapping(protocol="udp", container_port=53, host_port=5353))

            with (
                here.inside(IDS[0]) as pod,
                namespace.in_namespace(pod, "net", datagrams_at_53) as server,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            ):
                for end in (server, client):
                    end.settimeout(5)
                client.connect(("127.0.0.1", 5353))
                client.send(b"who?")
                said, peer = server.recvfrom(16)
                server.sendto(said[::-1], peer)
                assert client.recv(16) == b"?ohw"

    network.in_a_node(test)


def test_who_goes_on_sending_datagrams_reaches_the_next_pod(tmp_path: Path) -> None:
    """The kernel remembers where the first one went for as long as others follow."""

    def test() -> None:
        with node(tmp_path, 2) as here, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", 5353))
            for sandbox_id in IDS[:2]:
                here.attach(sandbox_id, PortMapping(protocol="udp", container_port=53, host_port=5353))
                with here.inside(sandbox_id) as pod, namespace.in_namespace(pod, "net", datagrams_at_53) as server:
                    server.settimeout(5)
                    client.send(sandbox_id.encode())
                    assert server.recv(100) == sandbox_id.encode()
                here.network.detach(sandbox_id)

    network.in_a_node(test)


def datagrams_at_53() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("0.0.0.0", 53))
    return opened


def test_an_sctp_association_is_led_to_the_pod(tmp_path: Path) -> None:
    """Its first chunk is made by hand: this kernel may know no such sockets."""

    def test() -> None:
        with network.outside_world(*OUTSIDE) as world, node(tmp_path, 1, kept={"uplink"}) as here:
            here.attach(IDS[0], PortMapping(protocol="sctp", container_port=36412, host_port=7777))

            def raw() -> socket.socket:
                return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)

            with (
                here.inside(IDS[0]) as pod,
                namespace.in_namespace(pod, "net", raw) as server,
                namespace.in_namespace(world, "net", raw) as client,
            ):
                server.settimeout(5)
                client.sendto(sctp_init(1234, 7777), ("192.0.2.1", 0))
                packet = server.recv(1500)[20:]
                assert struct.unpack_from("!HH", packet) == (1234, 36412)
                assert packet[12] == 1, "INIT"

    network.in_a_node(test)


def sctp_init(source: int, destination: int) -> bytes:
    """An INIT chunk in a packet (RFC 9260, 3.1 and 3.3.2)."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x01020304, 65536, 1, 1, 7)
    header = struct.pack("!HHI", source, destination, 0)
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk


def crc32c(content: bytes) -> int:
    """Castagnoli's checksum, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_a_host_ip_is_the_only_address_that_answers(tmp_path: Path) -> None:
    def test() -> None:
        with network.outside_world(*OUTSIDE) as world, node(tmp_path, 2, kept={"uplink"}) as here:
            here.attach(IDS[0], PortMapping(container_port=80, host_port=8080, host_ip="192.0.2.1"))
            here.attach(IDS[1], PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1"))
            with answering(here, IDS[0]) as first, answering(here, IDS[1]) as second:
                assert seen_from(first, world, "192.0.2.1") == "192.0.2.2"
                assert seen_from(first, None, "192.0.2.1") == "192.0.2.1"
                assert seen_from(second, None, "127.0.0.1") == "10.85.0.1"
                assert network.refuses(None, "10.85.0.1", 8080)

    network.in_a_node(test)


@requires("ip")
def test_pods_cannot_speak_to_the_loopback_of_the_node(tmp_path: Path) -> None:
    """CVE-2020-8558: what answers on 127.0.0.1 alone is not for pods, though the bridge routes such addresses now."""

    def test() -> None:
        with node(tmp_path, 1) as here:
            here.attach(IDS[0], WEB)
            with here.inside(IDS[0]) as pod, socket.create_server(("127.0.0.1", 9999)) as secret:
                secret.settimeout(0.3)

                def route() -> None:
                    """Root in the pod may do this: 127.0.0.1 is no longer the pod's own."""
                    for words in (
                        "route add table 9 127.0.0.1 via 10.85.0.1 dev eth0 src 10.85.0.2",
                        "rule add pref 1 lookup 9",
                        "rule add pref 2 lookup local",
                        "rule del pref 0",
                    ):
                        subprocess.run([program("ip"), *words.split()], check=True)
                    Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")

                namespace.in_namespace(pod, "net", route)
                assert network.refuses(pod, "127.0.0.1", 9999)
                with pytest.raises(TimeoutError):
                    secret.accept()
                nftables.delete_table("kernelet-bridge0-guard")  # so that this test is known to have knocked at the door
                with network.connect(pod, "127.0.0.1", 9999), secret.accept()[0]:
                    pass

    network.in_a_node(test)


def test_two_pods_that_want_one_port_are_told(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 3) as here:
            here.attach(IDS[0], WEB)
            for again in (WEB, PortMapping(container_port=81, host_port=8080, host_ip="127.0.0.1")):
                with pytest.raises(WrongState, match=r"host port 8080/tcp( on 127\.0\.0\.1)?: pod default/pod-01 has it \(01010"):
                    here.attach(IDS[1], again)
            assert here.network.addresses(IDS[1]) is None
            here.attach(IDS[2], PortMapping(protocol="udp", container_port=80, host_port=8080))
            here.network.detach(IDS[0])
            here.attach(IDS[1], WEB)

    network.in_a_node(test)


def test_what_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            with pytest.raises(Unsupported, match=r"host port 8080/tcp on ::1: .* no IPv6 address"):
                here.attach(IDS[0], PortMapping(container_port=80, host_port=8080, host_ip="::1"))
            with pytest.raises(InvalidArgument, match=r"host port 8080/tcp: is asked for twice"):
                here.attach(IDS[0], WEB, WEB)
            with network.listen(port=8080), pytest.raises(WrongState, match=r"8080/tcp: a process on this node listens there"):
                here.attach(IDS[0], WEB)
            here.attach(IDS[0], WEB)

    network.in_a_node(test)


def test_a_stopped_pod_answers_no_more_and_leaves_nothing(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            here.attach(IDS[0], WEB)
            with answering(here, IDS[0]) as listener:
                seen_from(listener, None, "127.0.0.1")
                here.network.detach(IDS[0])
                assert network.refuses(None, "127.0.0.1", 8080)
                assert set(nftables.tables()) == {"kernelet-bridge0", "kernelet-bridge0-guard"}
                here.network.detach(IDS[0])

    network.in_a_node(test)


def test_a_restarted_daemon_knows_who_has_what_and_takes_the_rest_back(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 3) as here:
            other = PortMapping(container_port=80, host_port=8081)
            here.attach(IDS[0], WEB)
            here.attach(IDS[1], other)
            restarted = here.restarted()
            restarted.sweep([sandbox(IDS[0], WEB)])
            assert nftables.tables().count(f"kernelet-bridge0-pod-{IDS[0]}") == 1
            assert f"kernelet-bridge0-pod-{IDS[1]}" not in nftables.tables()
            with answering(here, IDS[0]) as listener:
                seen_from(listener, None, "127.0.0.1")
            with pytest.raises(WrongState, match="pod default/pod-01 has it"):
                restarted.attach(sandbox(IDS[2], WEB), here.pin(IDS[2]))
            restarted.attach(sandbox(IDS[2], other), here.pin(IDS[2]))
            for sandbox_id in (IDS[0], IDS[2]):
                restarted.detach(sandbox_id)

    network.in_a_node(test)


@requires("nft")
def test_rules_of_others_are_not_touched(tmp_path: Path) -> None:
    def test() -> None:
        theirs = "kernelet-bridge00-pod-x kernelet-other-pod-y kernelet-bridge0x nat filter".split()
        for table in theirs:
            subprocess.run([program("nft"), "add", "table", "ip", table], check=True)
        try:
            with node(tmp_path, 1) as here:
                here.attach(IDS[0], WEB)
                here.network.sweep([])
                here.network.shutdown()
                assert sorted(nftables.tables()) == sorted(theirs)
                for table in theirs:
                    nftables.delete_table(table)
        finally:
            for table in theirs:
                nftables.delete_table(table)

    network.in_a_node(test)


@requires("nft")
def test_nft_reads_the_rules_as_they_were_meant(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            here.attach(IDS[0], PortMapping(container_port=80, host_port=8080, host_ip="192.0.2.7"), WEB_UDP)
            table = f"kernelet-bridge0-pod-{IDS[0]}"
            listed = subprocess.check_output([program("nft"), "list", "table", "ip", table], text=True)
            for line in (
                "type nat hook prerouting priority dstnat; policy accept;",
                "type nat hook output priority -100; policy accept;",
                "ip daddr 192.0.2.7 tcp dport 8080 dnat to 10.85.0.2:80",
                "fib daddr type local udp dport 8080 dnat to 10.85.0.2:80",
                "ip saddr 127.0.0.0/8 ip daddr 10.85.0.2 masquerade",
            ):
                assert line in listed, listed

    network.in_a_node(test)


WEB_UDP = PortMapping(protocol="udp", container_port=80, host_port=8080)
