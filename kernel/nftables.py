"""Packet filter rules (nftables): a typed builder, and batches that happen whole or not at all.

A rule is a list of small machine instructions: load something into a register, mask it, compare, act.
The functions below each return the instructions for one condition or action, in the words of nft(8);
``Batch`` sends tables, chains and rules in one transaction, in the calling thread's network namespace.

pyroute2 lays out the messages, with two things done here instead: each of its own rule calls is a
transaction by itself, and its ``ipv4addr`` makes wrong masks for prefixes that are not whole bytes.
Family ip only; ``nft -j list ruleset`` is what the tests hold the result against.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

from kernel.netlink_socket import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, Request, Socket

# linux/netfilter/nfnetlink.h and nf_tables.h
SUBSYSTEM = 10 << 8
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN = (SUBSYSTEM | number for number in range(5))
NEWRULE, DELRULE = SUBSYSTEM | 6, SUBSYSTEM | 8
NETWORK_HEADER, SOURCE_OFFSET, DESTINATION_OFFSET = 1, 12, 16
TRANSPORT_HEADER, DESTINATION_PORT_OFFSET = 2, 2
META_IIFNAME, META_OIFNAME, META_L4PROTO = 6, 7, 16
EQUAL, NOT_EQUAL = 0, 1
VERDICT_REGISTER, REGISTER, SECOND_REGISTER = 0, 1, 2
NF_DROP = 0
NFT_FIB_F_DADDR = 1 << 1
NFT_NAT_DNAT = 1
NFT_CT_STATUS, NFT_CT_PROTO_DST, IP_CT_DIR_ORIGINAL = 2, 12, 0
IPS_DST_NAT = 1 << 5  # linux/netfilter/nf_conntrack_common.h
RTN_LOCAL = 2  # linux/rtnetlink.h
IFNAMSIZ = 16
NETLINK_NETFILTER = 12  # linux/netlink.h

#: What a kernel without nfnetlink, and one without nf_tables, says to whoever only asks.
_ABSENT = (errno.EPROTONOSUPPORT, errno.EINVAL)

#: What goes by ports; the numbers are IANA's.
Protocol = Literal["tcp", "udp", "sctp"]
PROTOCOLS: dict[Protocol, int] = {"tcp": 6, "udp": 17, "sctp": 132}

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}

Expression = dict[str, Any]


def source_in(network: IPv4Network) -> list[Expression]:
    """``ip saddr NETWORK``"""
    return _address_in(network, SOURCE_OFFSET)


def destination_in(network: IPv4Network) -> list[Expression]:
    """``ip daddr NETWORK``"""
    return _address_in(network, DESTINATION_OFFSET)


def destination_is_local() -> list[Expression]:
    """``fib daddr type local``: an address of this node, the loopback's included."""
    # pyroute2 takes the result for a set of flags, of which these two make 3: NFT_FIB_RESULT_ADDRTYPE.
    address_type = frozenset({"NFT_FIB_RESULT_UNSPEC", "NFT_FIB_RESULT_OIF"})
    return [
        _expression("fib", DREG=REGISTER, RESULT=address_type, FLAGS=NFT_FIB_F_DADDR),
        _compare(EQUAL, RTN_LOCAL.to_bytes(4, sys.byteorder)),
    ]


def destination_port_is(protocol: Protocol, port: int) -> list[Expression]:
    """``tcp dport PORT``"""
    return [
        *_protocol_is(protocol),
        _expression("payload", DREG=REGISTER, BASE=TRANSPORT_HEADER, OFFSET=DESTINATION_PORT_OFFSET, LEN=2),
        _compare(EQUAL, port.to_bytes(2, "big")),
    ]


def was_redirected_from(protocol: Protocol, port: int) -> list[Expression]:
    """``meta l4proto PROTOCOL ct status dnat ct original proto-dst PORT``: where the connection was going at first."""
    return [
        *_protocol_is(protocol),
        _expression("ct", DREG=REGISTER, KEY=NFT_CT_STATUS),
        _masked(IPS_DST_NAT.to_bytes(4, sys.byteorder)),
        _compare(NOT_EQUAL, bytes(4)),
        _expression("ct", DREG=REGISTER, KEY=NFT_CT_PROTO_DST, DIRECTION=IP_CT_DIR_ORIGINAL),
        _compare(EQUAL, port.to_bytes(2, "big")),
    ]


def input_is(link: str) -> list[Expression]:
    """``iifname LINK``; by name, so that it holds for a link that is made anew."""
    return [_expression("meta", DREG=REGISTER, KEY=META_IIFNAME), _compare(EQUAL, _link_name(link))]


def output_is_not(link: str) -> list[Expression]:
    """``oifname != LINK``; by name, so that it holds for a link that is made anew."""
    return [_expression("meta", DREG=REGISTER, KEY=META_OIFNAME), _compare(NOT_EQUAL, _link_name(link))]


def masquerade() -> list[Expression]:
    """``masquerade``: the packet leaves with the address of the link it leaves by."""
    return [_expression("masq")]


def redirect_to(address: IPv4Address, port: int) -> list[Expression]:
    """``dnat to ADDRESS:PORT``"""
    return [
        _expression("immediate", DREG=REGISTER, DATA=_data(address.packed)),
        _expression("immediate", DREG=SECOND_REGISTER, DATA=_data(port.to_bytes(2, "big"))),
        _expression("nat", TYPE=NFT_NAT_DNAT, FAMILY=socket.AF_INET, REG_ADDR_MIN=REGISTER, REG_PROTO_MIN=SECOND_REGISTER),
    ]


def drop() -> list[Expression]:
    """``drop``"""
    verdict = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", NF_DROP)]})]}
    return [_expression("immediate", DREG=VERDICT_REGISTER, DATA=verdict)]


class Batch:
    """Changes that the kernel makes together: ``add_*`` and ``delete_*``, then ``commit()``."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def add_table(self, table: str) -> None:
        """Make the table unless it is there."""
        self._add("table", NEWTABLE, NLM_F_CREATE, "create table", table, NAME=table)

    def delete_table(self, table: str) -> None:
        """Delete the table and all in it."""
        self._add("table", DELTABLE, 0, "delete table", table, NAME=table)

    def add_chain(self, table: str, chain: str, *, kind: Literal["nat", "filter"], hook: str, priority: int) -> None:
        """Make a chain that the kernel runs at *hook*, lower *priority* first; unless it is there."""
        place = {"attrs": [("NFTA_HOOK_HOOKNUM", HOOKS[hook]), ("NFTA_HOOK_PRIORITY", priority)]}
        self._add("chain", NEWCHAIN, NLM_F_CREATE, f"create chain {chain}", table, TABLE=table, NAME=chain, HOOK=place, TYPE=kind)

    def flush_chain(self, table: str, chain: str) -> None:
        """Delete the rules of a chain."""
        self._add("rule", DELRULE, 0, f"flush chain {chain}", table, TABLE=table, CHAIN=chain)

    def add_rule(self, table: str, chain: str, *parts: Sequence[Expression]) -> None:
        """Append a rule: conditions, then an action."""
        expressions = [expression for part in parts for expression in part]
        flags = NLM_F_CREATE | NLM_F_APPEND
        self._add("rule", NEWRULE, flags, f"add rule to chain {chain}", table, TABLE=table, CHAIN=chain, EXPRESSIONS=expressions)

    def commit(self) -> None:
        """Have it all done, or none of it: then OSError says which change was refused."""
        begin = Request(_border(), BATCH_BEGIN, 0, "begin nftables batch", "nftables")
        end = Request(_border(), BATCH_END, 0, "commit nftables batch", "nftables")
        with Socket(NETLINK_NETFILTER) as netlink:
            netlink.execute(begin, *self._requests, end)

    def _add(self, what: str, kind: int, flags: int, attempt: str, subject: str, /, **attributes: object) -> None:
        self._requests.append(Request(_message(what, **attributes), kind, flags | NLM_F_ACK, attempt, subject))


def delete_table(table: str) -> bool:
    """Delete a table and all in it; whether there was one."""
    batch = Batch()
    batch.delete_table(table)
    try:
        batch.commit()
    except FileNotFoundError:
        return False
    return True


def tables() -> list[str]:
    """The names of the tables of family ip; none where the kernel has no nftables."""
    return [name for (name,) in _list("table", GETTABLE, "NFTA_TABLE_NAME")]


def chains(table: str) -> list[str]:
    """The names of the chains in *table*."""
    return [name for owner, name in _list("chain", GETCHAIN, "NFTA_CHAIN_TABLE", "NFTA_CHAIN_NAME") if owner == table]


def _list(what: str, kind: int, *attributes: str) -> list[tuple[str, ...]]:
    try:
        with Socket(NETLINK_NETFILTER) as netlink:
            answers = netlink.ask(Request(_message(what), kind, NLM_F_DUMP, f"list {what}s", "nftables"))
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return []
    found = []
    for answer in answers:
        message = type(_message(what))(answer)
        message.decode()
        found.append(tuple(str(message.get_attr(attribute)) for attribute in attributes))
    return found


def _message(what: str, /, **attributes: object) -> Any:
    from pyroute2.netlink.nfnetlink import nftsocket

    message = getattr(nftsocket, f"nft_{what}_msg")()
    message["nfgen_family"] = socket.AF_INET
    message["attrs"] = [(f"NFTA_{what.upper()}_{name}", value) for name, value in attributes.items()]
    return message


def _border() -> Any:
    from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg

    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    return message


def _expression(name: str, /, **values: object) -> Expression:
    data = [(f"NFTA_{name.upper()}_{key}", value) for key, value in values.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": data})]}


def _data(content: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", content)]}


def _address_in(network: IPv4Network, offset: int) -> list[Expression]:
    return [
        _expression("payload", DREG=REGISTER, BASE=NETWORK_HEADER, OFFSET=offset, LEN=4),
        _masked(network.netmask.packed),
        _compare(EQUAL, network.network_address.packed),
    ]


def _protocol_is(protocol: Protocol) -> list[Expression]:
    return [_expression("meta", DREG=REGISTER, KEY=META_L4PROTO), _compare(EQUAL, bytes([PROTOCOLS[protocol]]))]


def _masked(mask: bytes) -> Expression:
    nothing = _data(bytes(len(mask)))
    return _expression("bitwise", SREG=REGISTER, DREG=REGISTER, LEN=len(mask), MASK=_data(mask), XOR=nothing)


def _link_name(link: str) -> bytes:
    return link.encode().ljust(IFNAMSIZ, b"\0")


def _compare(operator: int, content: bytes) -> Expression:
    return _expression("cmp", SREG=REGISTER, OP=operator, DATA=_data(content))
