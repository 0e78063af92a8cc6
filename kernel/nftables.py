"""Packet filter rules (nftables): a typed builder, and batches that happen whole or not at all.

A rule is a list of small machine instructions: load something into a register, mask it, compare, act.
The functions below each return the instructions for one condition or action, in the words of nft(8);
``Batch`` sends tables, chains and rules in one transaction, in the calling thread's network namespace.

pyroute2 lays out the messages, with two things done here instead: each of its own rule calls is a
transaction by itself, and its ``ipv4addr`` makes wrong masks for prefixes that are not whole bytes.
Family ip only; ``nft -j list ruleset`` is what the tests hold the result against.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Any, Literal

from kernel.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, Request, Socket

# linux/netfilter/nfnetlink.h and nf_tables.h
SUBSYSTEM = 10 << 8
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN = (SUBSYSTEM | number for number in range(5))
NEWRULE, DELRULE = SUBSYSTEM | 6, SUBSYSTEM | 8
NETWORK_HEADER, SOURCE_OFFSET = 1, 12
META_OIFNAME = 7
EQUAL, NOT_EQUAL = 0, 1
REGISTER = 1
IFNAMSIZ = 16
NETLINK_NETFILTER = 12  # linux/netlink.h

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}

Expression = dict[str, Any]


def source_in(network: IPv4Network) -> list[Expression]:
    """``ip saddr NETWORK``"""
    mask, nothing = network.netmask.packed, bytes(4)
    return [
        _expression("payload", DREG=REGISTER, BASE=NETWORK_HEADER, OFFSET=SOURCE_OFFSET, LEN=4),
        _expression("bitwise", SREG=REGISTER, DREG=REGISTER, LEN=4, MASK=_data(mask), XOR=_data(nothing)),
        _compare(EQUAL, network.network_address.packed),
    ]


def output_is_not(link: str) -> list[Expression]:
    """``oifname != LINK``; by name, so that it holds for a link that is made anew."""
    return [
        _expression("meta", DREG=REGISTER, KEY=META_OIFNAME),
        _compare(NOT_EQUAL, link.encode().ljust(IFNAMSIZ, b"\0")),
    ]


def masquerade() -> list[Expression]:
    """``masquerade``: the packet leaves with the address of the link it leaves by."""
    return [_expression("masq")]


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
    """The names of the tables of family ip."""
    return [name for (name,) in _list("table", GETTABLE, "NFTA_TABLE_NAME")]


def chains(table: str) -> list[str]:
    """The names of the chains in *table*."""
    return [name for owner, name in _list("chain", GETCHAIN, "NFTA_CHAIN_TABLE", "NFTA_CHAIN_NAME") if owner == table]


def _list(what: str, kind: int, *attributes: str) -> list[tuple[str, ...]]:
    with Socket(NETLINK_NETFILTER) as netlink:
        answers = netlink.ask(Request(_message(what), kind, NLM_F_DUMP, f"list {what}s", "nftables"))
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


def _compare(operator: int, content: bytes) -> Expression:
    return _expression("cmp", SREG=REGISTER, OP=operator, DATA=_data(content))
