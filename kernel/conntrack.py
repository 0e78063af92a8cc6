"""Connections that the packet filter remembers (conntrack), asked for by an address and forgotten one by one.

A datagram has no end: as long as its sender goes on, the kernel leads it where the first one went, whatever the rules say
by then.  ctnetlink, encoded here: pyroute2 has no filters for it, and a busy node remembers a hundred thousand.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from kernel.netlink_socket import HEADER, NLM_F_ACK, NLM_F_DUMP, Request, Socket

# linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
NETLINK_NETFILTER = 12
GET, DELETE = 1 << 8 | 1, 1 << 8 | 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_FILTER = 1, 2, 25
CTA_TUPLE_IP, CTA_IP_V4_SRC = 1, 1
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
CTA_FILTER_F_CTA_IP_SRC = 1 << 0
NESTED = 1 << 15
FAMILY = struct.pack("BBH", socket.AF_INET, 0, 0)  # struct nfgenmsg


def forget_answered_by(address: IPv4Address) -> int:
    """Forget the connections whose other end is *address*, however it was asked for; how many there were.

    In the calling thread's network namespace.  Raises OSError.
    """
    source = _attribute(CTA_IP_V4_SRC, address.packed)
    tuple_ = _attribute(CTA_TUPLE_REPLY | NESTED, _attribute(CTA_TUPLE_IP | NESTED, source))
    flags = {CTA_FILTER_ORIG_FLAGS: 0, CTA_FILTER_REPLY_FLAGS: CTA_FILTER_F_CTA_IP_SRC}
    wanted = b"".join(_attribute(kind, struct.pack("=I", value)) for kind, value in flags.items())
    query = _Message(FAMILY + tuple_ + _attribute(CTA_FILTER | NESTED, wanted))
    forgotten = 0
    with Socket(NETLINK_NETFILTER) as netlink:
        for answer in netlink.ask(Request(query, GET, NLM_F_DUMP, "list connections", str(address))):
            found = dict(_attributes(answer[HEADER.size + len(FAMILY) :]))
            exact = _Message(FAMILY + _attribute(CTA_TUPLE_ORIG | NESTED, found[CTA_TUPLE_ORIG]))
            with contextlib.suppress(FileNotFoundError):  # it has just ended by itself
                netlink.execute(Request(exact, DELETE, NLM_F_ACK, "forget connection", str(address)))
                forgotten += 1
    return forgotten


class _Message:
    """What ``Request`` wants of a message: a header to fill in, then its bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._header: dict[str, int] = {}
        self.data = b""

    def __getitem__(self, name: str) -> dict[str, int]:
        return self._header

    def encode(self) -> None:
        header = self._header
        length = HEADER.size + len(self._content)
        self.data = HEADER.pack(length, header["type"], header["flags"], header["sequence_number"], 0) + self._content


def _attribute(kind: int, content: bytes) -> bytes:
    padding = bytes(-len(content) % 4)
    return struct.pack("=HH", 4 + len(content), kind) + content + padding


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    while len(content) >= 4:
        length, kind = struct.unpack_from("=HH", content)
        yield kind & ~NESTED, content[4:length]
        content = content[max(4, (length + 3) & ~3) :]
