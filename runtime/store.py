"""Records that survive a reboot: one SQLite database, versioned and migrated.

WAL with synchronous=FULL: a row that was committed is there after a power cut (0.3 ms a commit, 0.03 without).
One connection, one lock: callers do their slow work outside and hold the store for a commit only.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import WrongState

#: Statement lists by version: number N takes a database from N to N+1.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Journal: an open row is an act that may have left something on the node (runtime/journal.py).
        "CREATE TABLE journal (owner TEXT NOT NULL, act TEXT NOT NULL, begun_at_ns INTEGER NOT NULL,"
        " PRIMARY KEY (owner, act)) WITHOUT ROWID",
        # Records are JSON documents owned by the package that writes them.
        "CREATE TABLE sandboxes (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE containers (id TEXT PRIMARY KEY, sandbox_id TEXT NOT NULL, record BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE addresses (address TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID",
        # Images: id is the digest of the config; a name points at one image.
        "CREATE TABLE images (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE image_names (name TEXT PRIMARY KEY, image_id TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE layers (chain_id TEXT PRIMARY KEY, diff_id TEXT NOT NULL, size_bytes INTEGER NOT NULL,"
        " inodes INTEGER NOT NULL) WITHOUT ROWID",
    ),
    (
        # What CNI plugins were told and answered, from before the first one is started until all have taken it back.
        "CREATE TABLE attachments (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    ),
)

_ANEW = "; with the file moved away the node begins anew: pods are forgotten, images pulled again"
#: What a person must mend, and how.
_NOT_OURS = {
    sqlite3.SQLITE_NOTADB: _ANEW,
    sqlite3.SQLITE_CORRUPT: _ANEW,
    sqlite3.SQLITE_CANTOPEN: "",
    sqlite3.SQLITE_READONLY: "",
    sqlite3.SQLITE_FULL: "",
}

SYNCED, UNSYNCED = "PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL"


class Store:
    """The database.  Use ``with store.transaction() as db`` to write, ``store.rows(...)`` to read."""

    def __init__(self, path: Path) -> None:
        """Raises WrongState for a file that is no database, is damaged, or that a newer version has written."""
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._prepare()
        except sqlite3.Error as error:
            if error.sqlite_errorcode not in _NOT_OURS:
                raise
            raise WrongState(f"open the database {path}: {error}{_NOT_OURS[error.sqlite_errorcode]}") from error

    def _prepare(self) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(SYNCED)
            self._connection.execute("PRAGMA busy_timeout=5000")
            self._migrate()
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """All that is executed inside is committed together, or not at all when an exception leaves.

        Unless *synced*, it survives the end of this process, and a power cut only once a later one was synced.
        """
        with self._lock:
            self._connection.execute(SYNCED if synced else UNSYNCED)
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._roll_back()
                raise
            try:
                self._connection.execute("COMMIT")
            except BaseException:  # a full disk: without this, nothing could be written ever again
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite has done it itself after some errors
            self._connection.execute("ROLLBACK")

    def rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        """All rows of a SELECT."""
        with self._lock:
            return self._connection.execute(query, parameters).fetchall()

    def probe(self) -> None:
        """Write something that changes nothing, down to the disk.  Raises sqlite3.Error when that cannot be."""
        with self.transaction() as db:
            db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise WrongState(
                f"the database is of version {version}, written by a newer kernelet; this one knows {len(MIGRATIONS)}: "
                "install the newer one again"
            )
        for number in range(version, len(MIGRATIONS)):
            with self.transaction() as db:
                for statement in MIGRATIONS[number]:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={number + 1}")
