"""Connections that the kernel remembers: those of one address are forgotten, and no others."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

from kernel import conntrack, nftables
from tests.support import network
from tests.support.requires import requires

pytestmark = requires("root")


def remembered() -> set[str]:
    """The ends that were asked for, of all connections (nf_conntrack's own file, of the thread's namespace)."""
    lines = Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()
    return {line.split(" dst=")[1].split()[0] for line in lines}


def test_those_that_an_address_answers_are_forgotten() -> None:
    def test() -> None:
        batch = nftables.Batch()  # a rule that needs them is what makes the kernel remember connections
        batch.add_table("t")
        batch.add_chain("t", "output", kind="nat", hook="output", priority=-100)
        led = nftables.destination_port_is("udp", 1000), nftables.redirect_to(IPv4Address("127.0.0.3"), 2000)
        batch.add_rule("t", "output", *led)
        batch.commit()
        with ExitStack() as opened:
            for address, port in (("127.0.0.2", 1000), ("127.0.0.3", 7), ("127.0.0.4", 7)):
                client = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                client.sendto(b"x", (address, port))
            assert remembered() == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}
            assert conntrack.forget_answered_by(IPv4Address("127.0.0.3")) == 2
            assert remembered() == {"127.0.0.4"}
            assert conntrack.forget_answered_by(IPv4Address("127.0.0.3")) == 0
        nftables.delete_table("t")

    network.in_a_node(test)
