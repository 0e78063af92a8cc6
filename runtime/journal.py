"""Intents before acts.

Before anything is done to the node a row says who is about to do what; when the act is over, in the
same transaction as the record it leads to, the row goes.  A row found at start names an owner whose
resources, all derivable from its id, must be undone.  Undoing twice does no harm.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from runtime.store import Durable, Store


@dataclass(frozen=True, slots=True)
class Intent:
    owner: str
    act: str
    begun_at_ns: int


class Journal:
    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, owner: str, act: str) -> None:
        """Write that *owner* is about to *act*.

        No disk is waited for: after a power cut nothing is left in the kernel, and what is left on disk without a record has an
        owner's name and is swept by it.  What others keep elsewhere (the addresses of CNI plugins) has a row of its own.
        """
        with self._store.transaction(Durable.LATER) as db:
            db.execute("INSERT OR REPLACE INTO journal VALUES (?, ?, ?)", (owner, act, time.time_ns()))

    def finish(self, db: sqlite3.Connection, owner: str, act: str) -> None:
        """Take the row away, inside the transaction *db* that records the outcome."""
        db.execute("DELETE FROM journal WHERE owner = ? AND act = ?", (owner, act))

    def undone(self, owner: str, act: str) -> None:
        """Take the row away after the act was undone."""
        with self._store.transaction() as db:
            self.finish(db, owner, act)

    def open_intents(self) -> list[Intent]:
        """What was begun and not finished, oldest first."""
        rows = self._store.rows("SELECT owner, act, begun_at_ns FROM journal ORDER BY begun_at_ns")
        return [Intent(str(owner), str(act), int(str(at))) for owner, act, at in rows]
