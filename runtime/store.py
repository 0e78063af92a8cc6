"""Records that survive a reboot: one SQLite database, versioned and migrated.

WAL with synchronous=NORMAL: a commit writes to the log, and the log is brought to the disk by ourselves, as FULL would do
it at each commit, but for all at once that wait for it, and outside the lock.  *Measured*: 0.03 ms a commit, 0.3 with the
disk (5 to 20 on a spinning one), and a pod's way to its running container has four.
One connection, one lock: callers do their slow work outside and hold the store for a commit only.

A full disk is emptied by removing pods and images, and that is written here too: so the log has its room from the
beginning, for some hundred commits of which none can reach the database itself, and a file beside it is there to be
given up when the log itself cannot be made.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from kernel.fd import Fd, open_path
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
    sqlite3.SQLITE_IOERR: "",
}

#: What the disk says through SQLite, as the kernel says it.
_OF_THE_DISK = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}
#: Of a result code, what is left without its details.
_PRIMARY = 0xFF

#: SQLite goes back to the log's beginning at 4 MiB, if the database takes what is in it.
LOG_BYTES = 6 << 20

#: Seconds that a commit of which nobody waits for the disk lets others come along.
LINGER_SECONDS = 0.02


class Durable(enum.Enum):
    """When what is committed is safe from a power cut; from the end of this process it always is."""

    NOW = enum.auto()  # before the transaction returns: images, and what was said to be gone
    SOON = enum.auto()  # in some milliseconds: records of what itself ends with the power
    LATER = enum.auto()  # whenever another one is: what means nothing after a boot


class Store:
    """The database.  Use ``with store.transaction() as db`` to write, ``store.rows(...)`` to read."""

    def __init__(self, path: Path) -> None:
        """Raises WrongState for a file that is no database, is damaged, or that a newer version has written."""
        self._lock = threading.RLock()
        self._path = path
        room = path.with_suffix(".room")
        try:
            try:
                self._open()
            except sqlite3.Error:
                if not room.exists():
                    raise
                room.unlink()  # there was none left to open it
                self._open()
        except sqlite3.Error as error:
            code = error.sqlite_errorcode & _PRIMARY
            if code not in _NOT_OURS:
                raise
            raise WrongState(f"open the database {path}: {error}{_NOT_OURS[code]}") from error
        self._log = _Log(Path(f"{path}-wal"))
        _have_room(Path(f"{path}-wal"), LOG_BYTES)
        _have_room(room, LOG_BYTES)

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("PRAGMA busy_timeout=5000")
            self._migrate()
        except BaseException:
            self._connection.close()
            raise

    @contextlib.contextmanager
    def transaction(self, durable: Durable = Durable.NOW) -> Iterator[sqlite3.Connection]:
        """All that is executed inside is committed together, or not at all when an exception leaves.

        Raises OSError when the disk is full or broken; also when all is committed, and the disk does not take it.
        """
        with self._lock, self._disk_errors():
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
            written = self._log.has_grown()
        if durable is Durable.NOW:
            self._log.sync(written)
        elif durable is Durable.SOON:
            self._log.sync_soon()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """What is the disk's fault is an OSError, as it is everywhere else."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = _OF_THE_DISK.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY)
            if code is None:
                raise
            raise OSError(code, os.strerror(code), os.fspath(self._path)) from error

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite has done it itself after some errors
            self._connection.execute("ROLLBACK")

    def rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        """All rows of a SELECT."""
        with self._lock, self._disk_errors():
            return self._connection.execute(query, parameters).fetchall()

    def probe(self) -> None:
        """Write something that changes nothing, down to the disk.  Raises sqlite3.Error or OSError when that cannot be."""
        with self.transaction() as db:
            db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    def close(self) -> None:
        self._log.close()
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
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in (*MIGRATIONS[number], f"PRAGMA user_version={number + 1}", "COMMIT"):
                self._connection.execute(statement)


def _have_room(path: Path, size_bytes: int) -> None:
    """Have the file's blocks now, as far as there are some.  SQLite takes zeros at the log's end for its end."""
    with open_path(path, os.O_RDWR | os.O_CREAT) as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, size_bytes)


class _Log:
    """Brings SQLite's write-ahead log to the disk; the file stays the same one for as long as the database is open.

    Whoever comes while another is at it waits for the next turn, which is for all that have come by then.
    """

    def __init__(self, path: Path) -> None:
        self._file: Fd = open_path(path, os.O_RDONLY)
        self._turn = threading.Lock()
        self._written = self._synced = 0
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def has_grown(self) -> int:
        """Note a commit; returns its number.  The store's lock is held."""
        self._written += 1
        return self._written

    def sync(self, number: int) -> None:
        """Return when the commit of that *number* is on the disk.  Raises OSError; what was not written then is not safe."""
        with self._turn:
            if self._synced < number:
                written = self._written
                os.fdatasync(self._file.fileno())
                self._synced = written

    def sync_soon(self) -> None:
        """Have it done by a thread, after a moment in which others may come."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._sync_behind, name="store", daemon=True)
            self._thread.start()
        self._wanted.set()

    def close(self) -> None:
        """Let the thread end; the last commits are synced when SQLite closes the database."""
        self._closing.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        self._file.close()

    def _sync_behind(self) -> None:
        while True:
            self._wanted.wait()
            if self._closing.wait(LINGER_SECONDS):
                return
            self._wanted.clear()
            with contextlib.suppress(OSError):  # who waits for the next commit is told, and the daemon's health is
                self.sync(self._written)
