"""Which address a pod gets: the next free one after the last that was given, round and round.

Going on rather than starting over leaves an address unused for as long as the subnet allows, so that
what still speaks to a pod that is gone does not reach another.  The rows of the table ``addresses``
are the truth; where to go on is kept in memory, and after a restart is behind the highest in use.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network

from runtime.errors import AddressesExhausted
from runtime.store import Durable, Store


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    """The node's own address in *subnet*: the first."""
    return subnet[1]


def next_free(subnet: IPv4Network, taken: Container[IPv4Address], last: IPv4Address | None) -> IPv4Address | None:
    """The first free address of *subnet* after *last*, from the start again at the end; None when all are taken.

    Never the network's own address, the gateway, or the broadcast address.
    """
    first, count = int(subnet[2]), subnet.num_addresses - 3
    start = 0 if last is None or last not in subnet else int(last) + 1 - first
    candidates = (IPv4Address(first + (start + step) % count) for step in range(count))
    return next((address for address in candidates if address not in taken), None)


class _Taken:
    """The addresses that have an owner, asked for one by one."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __contains__(self, address: object) -> bool:
        return self._db.execute("SELECT 1 FROM addresses WHERE address = ?", (str(address),)).fetchone() is not None


class AddressPool:
    """The addresses of one subnet, each owned by one sandbox, in the database, not synced: links end with a boot."""

    def __init__(self, store: Store, subnet: IPv4Network) -> None:
        if subnet.prefixlen > 29:
            raise ValueError(f"subnet {subnet}: a pod network needs at least 8 addresses (a prefix of /29 or shorter)")
        self._store = store
        self._subnet = subnet
        self._last = max(self._all().values(), default=None)

    def allocate(self, owner: str) -> IPv4Address:
        """The address of *owner*, a new one if it has none.  Raises AddressesExhausted, naming the subnet."""
        with self._store.transaction(Durable.LATER) as db:
            known = self.find(owner)
            if known is not None:
                return known
            free = next_free(self._subnet, _Taken(db), self._last)
            if free is None:
                raise AddressesExhausted(
                    f"pod subnet {self._subnet}: all of its {self._subnet.num_addresses - 3} addresses are in use"
                )
            db.execute("INSERT INTO addresses VALUES (?, ?)", (str(free), owner))
            self._last = free
            return free

    def release(self, owner: str) -> None:
        """Give back what *owner* has."""
        with self._store.transaction(Durable.LATER) as db:
            db.execute("DELETE FROM addresses WHERE owner = ?", (owner,))

    def find(self, owner: str) -> IPv4Address | None:
        """The address of *owner*, if it has one."""
        rows = self._store.rows("SELECT address FROM addresses WHERE owner = ?", owner)
        found = (IPv4Address(str(address)) for (address,) in rows)
        return next((address for address in found if address in self._subnet), None)

    def owners(self) -> set[str]:
        """Who has an address."""
        return set(self._all())

    def _all(self) -> dict[str, IPv4Address]:
        rows = self._store.rows("SELECT owner, address FROM addresses")
        parsed = ((str(owner), IPv4Address(str(address))) for owner, address in rows)
        return {owner: address for owner, address in parsed if address in self._subnet}
