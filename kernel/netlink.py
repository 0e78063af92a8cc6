"""Links, addresses and routes (rtnetlink(7)), over the socket of ``netlink_socket``.

pyroute2 knows how the messages are laid out.  It takes 0.1 s to import and waits for the first request; a daemon
calls ``preload()``.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from kernel.fd import Fd
from kernel.netlink_socket import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    Socket,
)

# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 20, 22, 24, 26
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1
IFF_UP = 0x1
# linux/if_addr.h: without an end; and what whoever gives one chooses: nodad, home, managetempaddr, noprefixroute, mcautojoin
IFA_F_PERMANENT, IFA_F_CHOSEN = 0x80, 0x02 | 0x10 | 0x100 | 0x200 | 0x400


def preload() -> None:
    """Import pyroute2 now rather than at the first request (0.1 s, 19 MB)."""
    import pyroute2.netlink.nfnetlink.nftsocket
    import pyroute2.netlink.rtnl.ifaddrmsg
    import pyroute2.netlink.rtnl.ifinfmsg
    import pyroute2.netlink.rtnl.rtmsg  # noqa: F401


@dataclass(frozen=True, slots=True)
class Link:
    """A network device; *master* is the index of the bridge it is a port of, 0 for none."""

    index: int
    name: str
    kind: str
    master: int
    is_up: bool
    hardware_address: str


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link as the kernel describes it, so that another link, or the same one elsewhere, can be given it."""

    family: int
    prefix_length: int
    attributes: tuple[tuple[str, object], ...]

    def __str__(self) -> str:
        found = dict(self.attributes)
        return f"{found.get('IFA_LOCAL') or found.get('IFA_ADDRESS')}/{self.prefix_length}"


class Netlink(Socket):
    """The links, addresses and routes of one network namespace.  Use it in ``with``."""

    def __init__(self, namespace: Fd | None = None) -> None:
        super().__init__(socket.NETLINK_ROUTE, namespace)

    def create_bridge(self, name: str, *, hardware_address: str) -> None:
        """Make a bridge.  With an address of its own it does not take over that of a port, which would
        change as pods come and go and leave the others' neighbour tables wrong for seconds."""
        kind = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", hardware_address), _link_kind("bridge")]
        self.execute(Request(_link(*kind), RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, "create bridge", name))

    def create_veth(
        self, name: str, *, master: int = 0, peer_name: str, peer_namespace: Fd, peer_hardware_address: str | None = None
    ) -> None:
        """Make a pair of devices: *name* here, up and a port of the link *master*; the peer in another namespace, down.

        One message does it all, so no half-made pair can be left.  The peer cannot be made up at once: the
        kernel opens it before it knows its other end (ENOTCONN).
        """
        peer: list[tuple[str, object]] = [("IFLA_IFNAME", peer_name), ("IFLA_NET_NS_FD", peer_namespace.fileno())]
        if peer_hardware_address:
            peer.append(("IFLA_ADDRESS", peer_hardware_address))
        attributes = [("IFLA_IFNAME", name), _link_kind("veth", ("VETH_INFO_PEER", {"attrs": peer}))]
        if master:
            attributes.append(("IFLA_MASTER", master))
        flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
        self.execute(Request(_link(*attributes, up=True), RTM_NEWLINK, flags, f"create veth pair with {peer_name}", name))

    def set_hairpin(self, name: str) -> None:
        """Let the bridge that *name* is a port of send a frame back to where it came from.

        Where bridged packets are filtered as routed ones are (br_netfilter), a pod that is led to itself needs it.
        """
        about = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_MODE", 1)]})]
        message = _link(("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": about}))
        self.execute(Request(message, RTM_NEWLINK, NLM_F_ACK, "let the bridge send back to", name))

    def set_up(self, name: str) -> None:
        self.execute(Request(_link(("IFLA_IFNAME", name), up=True), RTM_NEWLINK, NLM_F_ACK, "set link up", name))

    def set_down(self, name: str) -> None:
        message = _link(("IFLA_IFNAME", name))
        message["change"] = IFF_UP
        self.execute(Request(message, RTM_NEWLINK, NLM_F_ACK, "set link down", name))

    def move_link(self, link: Link, namespace: Fd, name: str) -> None:
        """Move *link* to *namespace* and call it *name* there, at once; it is down there, and has lost its addresses.

        Raises OSError: EEXIST when there is one of that name, EINVAL for a link that is bound to its namespace.
        """
        message = _link(("IFLA_NET_NS_FD", namespace.fileno()), ("IFLA_IFNAME", name))
        message["index"] = link.index
        self.execute(Request(message, RTM_NEWLINK, NLM_F_ACK, f"move link to another namespace, as {name}", link.name))

    def lasting_addresses(self, link: Link) -> list[Address]:
        """The addresses of *link* that mean the same elsewhere: global, and given for good, not learned from the network."""
        found = []
        for message in self._addresses(link, socket.AF_UNSPEC):
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            if message["scope"] == RT_SCOPE_UNIVERSE and flags & IFA_F_PERMANENT:
                kept = ("IFA_LOCAL", "IFA_ADDRESS", "IFA_BROADCAST", "IFA_RT_PRIORITY")
                attributes = [(name, message.get_attr(name)) for name in kept if message.get_attr(name) is not None]
                attributes += [("IFA_FLAGS", flags & IFA_F_CHOSEN)]
                found.append(Address(message["family"], message["prefixlen"], tuple(attributes)))
        return found

    def add_address(self, link: Link, address: Address) -> None:
        """Give *link* an address that was found somewhere else."""
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

        message = ifaddrmsg()
        message["family"], message["index"], message["prefixlen"] = address.family, link.index, address.prefix_length
        message["attrs"] = list(address.attributes)
        flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
        self.execute(Request(message, RTM_NEWADDR, flags, f"add address {address}", link.name))

    def set_address(self, link: Link, address: IPv4Interface) -> None:
        """Give *link* an address with its prefix; once more does no harm."""
        self.execute(_new_address(link.name, link.index, address))

    def configure(self, name: str, index: int, address: IPv4Interface, gateway: IPv4Address) -> None:
        """Give a link its address, set it up, and send what no other route wants through *gateway*, in one message.

        Once more does no harm; a default route there is is replaced.
        """
        up = Request(_link(("IFLA_IFNAME", name), up=True), RTM_NEWLINK, NLM_F_ACK, "set link up", name)
        self.execute(_new_address(name, index, address), up, _new_default_route(name, index, gateway))

    def delete_link(self, name: str) -> bool:
        """Delete a link, a veth with its peer; whether there was one.

        The kernel waits for its readers (RCU): 16 to 24 ms, most of them not under its network lock.
        """
        try:
            self.execute(Request(_link(("IFLA_IFNAME", name)), RTM_DELLINK, NLM_F_ACK, "delete link", name))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        return True

    def links(self, kind: str | None = None) -> list[Link]:
        """All links, or those of one kind ("veth", "bridge")."""
        attributes = [] if kind is None else [_link_kind(kind)]
        answers = self.ask(Request(_link(*attributes), RTM_GETLINK, NLM_F_DUMP, "list links", ""))
        return [link for link in map(_decode_link, answers) if kind in (None, link.kind)]

    def link(self, name: str) -> Link:
        """The link called *name*; raises OSError (ENODEV) when there is none."""
        return _decode_link(self.ask(Request(_link(("IFLA_IFNAME", name)), RTM_GETLINK, 0, "find link", name))[0])

    def find_link(self, name: str) -> Link | None:
        """The link called *name*, if there is one."""
        try:
            return self.link(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def addresses(self, link: Link) -> list[IPv4Interface]:
        """The IPv4 addresses of *link*."""
        messages = self._addresses(link, socket.AF_INET)
        return [IPv4Interface((each.get_attr("IFA_LOCAL"), each["prefixlen"])) for each in messages]

    def _addresses(self, link: Link, family: int) -> list[Any]:
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

        message = ifaddrmsg()
        message["family"] = family
        answers = self.ask(Request(message, RTM_GETADDR, NLM_F_DUMP, "list addresses", link.name))
        return [message for message in (_decode(ifaddrmsg, answer) for answer in answers) if message["index"] == link.index]

    def default_gateways(self) -> list[IPv4Address]:
        """The gateways of the default routes."""
        answers = self.ask(Request(_route(), RTM_GETROUTE, NLM_F_DUMP, "list routes", ""))
        decoded = [_decode(type(_route()), answer) for answer in answers]
        default = [message for message in decoded if message["dst_len"] == 0 and message.get_attr("RTA_GATEWAY")]
        return [IPv4Address(message.get_attr("RTA_GATEWAY")) for message in default]


def _new_address(name: str, index: int, address: IPv4Interface) -> Request:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    message = ifaddrmsg()
    message["family"], message["index"], message["prefixlen"] = socket.AF_INET, index, address.network.prefixlen
    ip, broadcast = str(address.ip), str(address.network.broadcast_address)
    message["attrs"] = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip), ("IFA_BROADCAST", broadcast)]
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return Request(message, RTM_NEWADDR, flags, f"set address {address}", name)


def _new_default_route(name: str, index: int, gateway: IPv4Address) -> Request:
    message = _route()
    message["table"], message["proto"] = RT_TABLE_MAIN, RTPROT_STATIC
    message["scope"], message["type"] = RT_SCOPE_UNIVERSE, RTN_UNICAST
    message["attrs"] = [("RTA_GATEWAY", str(gateway)), ("RTA_OIF", index)]
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return Request(message, RTM_NEWROUTE, flags, f"add default route via {gateway}", name)


def _link(*attributes: tuple[str, object], up: bool = False) -> Any:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    message = ifinfmsg()
    message["flags"] = message["change"] = IFF_UP if up else 0
    message["attrs"] = list(attributes)
    return message


def _link_kind(kind: str, *data: tuple[str, object]) -> tuple[str, object]:
    about: list[tuple[str, object]] = [("IFLA_INFO_KIND", kind)]
    if data:
        about.append(("IFLA_INFO_DATA", {"attrs": list(data)}))
    return ("IFLA_LINKINFO", {"attrs": about})


def _route() -> Any:
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    message = rtmsg()
    message["family"] = socket.AF_INET
    return message


def _decode(kind: Any, content: bytes) -> Any:
    message = kind(content)
    message.decode()
    return message


def _decode_link(content: bytes) -> Link:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    message = _decode(ifinfmsg, content)
    about = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(about.get_attr("IFLA_INFO_KIND") if about else None) or "",
        master=message.get_attr("IFLA_MASTER") or 0,
        is_up=bool(message["flags"] & IFF_UP),
        hardware_address=message.get_attr("IFLA_ADDRESS") or "",
    )
