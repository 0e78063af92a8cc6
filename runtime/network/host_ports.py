"""Ports of the host that lead to a pod (hostPort), by address translation; no process listens for them.

Each pod that asks for ports has a table of its own, named after it, so that to open and to close them is one
message each, what is left after a crash is found by name, and no rule of anybody else is ever touched:

    prerouting, output  to this node (or to host_ip), the host port: to the pod's address and container port
    postrouting         from another pod, from the pod itself or from 127.0.0.1 through that port: with the bridge's
                        address, or the answer would come from an address that nobody asked

*127.0.0.1*: a packet of the loopback's leaves the node by the bridge, which the kernel allows where the link has
``route_localnet``.  That would let pods speak to the node's own 127.0.0.1 (CVE-2020-8558), so what comes from the
bridge with such an address is dropped before anything else looks at it, by a chain that is there first.

IPv4 only, as the built-in network is.  A host has 1,024 tables' worth of hooks for this, far more than a node's pods.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from kernel import conntrack, nftables
from runtime.errors import InvalidArgument, Unsupported, WrongState
from runtime.sandbox.config import PortMapping
from runtime.sandbox.state import Sandbox

LOOPBACK = IPv4Network("127.0.0.0/8")
EVERY_ADDRESS = ("", "0.0.0.0")
#: NF_IP_PRI_RAW, NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC
RAW_PRIORITY, DESTINATION_NAT_PRIORITY, SOURCE_NAT_PRIORITY = -300, -100, 100

logger = logging.getLogger(__name__)


class HostPorts:
    """The ports of this host that pods behind *bridge* have.  *prefix* is what the tables' names begin with."""

    def __init__(self, prefix: str, *, bridge: str, subnet: IPv4Network) -> None:
        self._prefix = f"{prefix}-pod-"  # longer than any name of a bridge after "kernelet-": nobody else's
        self._guard_table = f"{prefix}-guard"
        self._bridge = bridge
        self._subnet = subnet
        self._lock = threading.Lock()
        self._claims: dict[str, Sandbox] = {}

    def claim(self, sandbox: Sandbox) -> None:
        """Have the ports of *sandbox* for it alone; again, it does nothing.

        Raises WrongState, naming who has one; Unsupported for an IPv6 address, InvalidArgument for a port named twice.
        """
        wanted = sandbox.config.port_mappings
        if not wanted:
            return
        with self._lock:
            if sandbox.id in self._claims:
                return
            for index, mapping in enumerate(wanted):
                if ":" in mapping.host_ip:
                    raise Unsupported(f"{_name(mapping)}: pods of the built-in network have no IPv6 address")
                if any(_overlap(mapping, other) for other in wanted[:index]):
                    raise InvalidArgument(f"{_name(mapping)}: is asked for twice by the same pod")
                self._require_free(mapping)
            self._claims[sandbox.id] = sandbox

    def open(self, owner: str, address: IPv4Address) -> None:
        """Lead the ports that *owner* claimed to *address*, all of them at once."""
        claimed = self._claims.get(owner)
        if claimed is None:
            return
        self._guard()
        nftables.delete_table(self._table(owner))  # of an earlier attempt
        self._rules(self._table(owner), claimed.config.port_mappings, address).commit()

    def close(self, owner: str, address: IPv4Address | None) -> None:
        """Take the ports back that led to *address*; connections that are open lose their way with the pod."""
        if owner in self._claims:
            nftables.delete_table(self._table(owner))
            if address is not None:
                _forget_connections(address)
            with self._lock:
                self._claims.pop(owner, None)

    def sweep(self, alive: Collection[Sandbox]) -> None:
        """Close the ports of all that are not *alive*; those that are have claimed theirs."""
        mine = {sandbox.id: sandbox for sandbox in alive if sandbox.config.port_mappings}
        for table in nftables.tables():
            if table.startswith(self._prefix) and table.removeprefix(self._prefix) not in mine:
                nftables.delete_table(table)
        with self._lock:
            self._claims = mine

    def shutdown(self) -> None:
        """Remove what is there for all pods."""
        nftables.delete_table(self._guard_table)

    def _table(self, owner: str) -> str:
        return f"{self._prefix}{owner}"

    def _require_free(self, mapping: PortMapping) -> None:
        for holder in self._claims.values():
            if any(_overlap(mapping, other) for other in holder.config.port_mappings):
                config = holder.config
                raise WrongState(f"{_name(mapping)}: pod {config.namespace}/{config.name} has it ({holder.id[:13]})")
        if _has_listener(mapping):
            raise WrongState(f"{_name(mapping)}: a process on this node listens there; stop it, or use another port")

    def _guard(self) -> None:
        """See to it that answers to 127.0.0.1 are let in from the bridge, and nothing else of the loopback's."""
        rules = nftables.Batch()
        rules.add_table(self._guard_table)
        rules.add_chain(self._guard_table, "prerouting", kind="filter", hook="prerouting", priority=RAW_PRIORITY)
        rules.flush_chain(self._guard_table, "prerouting")
        for of_the_loopback in (nftables.source_in(LOOPBACK), nftables.destination_in(LOOPBACK)):
            rules.add_rule(self._guard_table, "prerouting", nftables.input_is(self._bridge), of_the_loopback, nftables.drop())
        rules.commit()
        Path(f"/proc/sys/net/ipv4/conf/{self._bridge}/route_localnet").write_text("1")

    def _rules(self, table: str, mappings: Sequence[PortMapping], address: IPv4Address) -> nftables.Batch:
        rules = nftables.Batch()
        rules.add_table(table)
        for chain in ("prerouting", "output"):
            rules.add_chain(table, chain, kind="nat", hook=chain, priority=DESTINATION_NAT_PRIORITY)
            for mapping in mappings:
                asked = nftables.destination_port_is(mapping.protocol, mapping.host_port)
                rules.add_rule(table, chain, _to_host(mapping), asked, nftables.redirect_to(address, mapping.container_port))
        rules.add_chain(table, "postrouting", kind="nat", hook="postrouting", priority=SOURCE_NAT_PRIORITY)
        to_pod = nftables.destination_in(IPv4Network(address))
        rules.add_rule(table, "postrouting", nftables.source_in(LOOPBACK), to_pod, nftables.masquerade())
        for mapping in mappings:
            through = nftables.was_redirected_from(mapping.protocol, mapping.host_port)
            rules.add_rule(table, "postrouting", nftables.source_in(self._subnet), to_pod, through, nftables.masquerade())
        return rules


def _forget_connections(address: IPv4Address) -> None:
    """Who goes on sending datagrams is to reach the next pod that has the port.  One that cannot keeps no pod from ending."""
    try:
        conntrack.forget_answered_by(address)
    except OSError as error:
        logger.warning("connections to %s through ports of the host are remembered until they time out: %s", address, error)


def _to_host(mapping: PortMapping) -> list[nftables.Expression]:
    if mapping.host_ip in EVERY_ADDRESS:
        return nftables.destination_is_local()
    return nftables.destination_in(IPv4Network(mapping.host_ip))


def _overlap(one: PortMapping, other: PortMapping) -> bool:
    addresses = {one.host_ip, other.host_ip}
    same_address = len(addresses) == 1 or not addresses.isdisjoint(EVERY_ADDRESS)
    return same_address and (one.protocol, one.host_port) == (other.protocol, other.host_port)


def _has_listener(mapping: PortMapping) -> bool:
    """Whether somebody has bound the port, who would never hear of it again.  Not asked for SCTP, which kernels may lack."""
    if mapping.protocol == "sctp":
        return False
    kind = socket.SOCK_STREAM if mapping.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if mapping.protocol == "tcp":  # a connection that is over (TIME_WAIT) is no listener
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((mapping.host_ip, mapping.host_port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:  # an address that comes and goes
                return False
            return error.errno == errno.EADDRINUSE
    return False


def _name(mapping: PortMapping) -> str:
    where = f" on {mapping.host_ip}" if mapping.host_ip not in EVERY_ADDRESS else ""
    return f"host port {mapping.host_port}/{mapping.protocol}{where}"
