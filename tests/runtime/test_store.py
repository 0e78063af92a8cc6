"""Records are written whole or not at all, and a failed write is not the last one."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import WrongState
from runtime.store import MIGRATIONS, Durable, Store
from tests.support import wait


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def put(store: Store, *ids: str) -> None:
    with store.transaction() as db:
        for each in ids:
            db.execute("INSERT INTO sandboxes VALUES (?, ?)", (each, b"{}"))


def ids(store: Store) -> list[object]:
    return [row[0] for row in store.rows("SELECT id FROM sandboxes ORDER BY id")]


def test_what_was_committed_is_there_for_the_next(opened: Store, path: Path) -> None:
    put(opened, "a", "b")
    other = Store(path)
    assert ids(other) == ["a", "b"]
    other.close()
    assert opened.rows("SELECT id FROM sandboxes WHERE id = ?", "a") == [("a",)]


def test_an_exception_takes_everything_back(opened: Store) -> None:
    with pytest.raises(ZeroDivisionError), opened.transaction() as db:
        db.execute("INSERT INTO sandboxes VALUES ('a', x'')")
        raise ZeroDivisionError
    assert ids(opened) == []
    put(opened, "b")
    assert ids(opened) == ["b"]


def test_a_statement_that_fails_takes_everything_back(opened: Store) -> None:
    put(opened, "a")
    with pytest.raises(sqlite3.IntegrityError):
        put(opened, "b", "a")
    assert ids(opened) == ["a"]


def test_after_a_full_disk_the_next_write_works(opened: Store) -> None:
    """SQLite's own limit of pages stands for the disk's."""
    [(pages,)] = opened.rows("PRAGMA page_count")
    opened.rows(f"PRAGMA max_page_count={pages}")
    with pytest.raises(OSError, match="No space left on device"), opened.transaction() as db:
        db.execute("INSERT INTO sandboxes VALUES ('large', zeroblob(1000000))")
    opened.rows("PRAGMA max_page_count=100000")
    put(opened, "a")
    assert ids(opened) == ["a"]


def test_after_a_commit_that_failed_the_next_write_works(opened: Store) -> None:
    """A deferred constraint is looked at by COMMIT, which then fails and leaves the transaction open."""
    with opened.transaction() as db:
        db.execute("PRAGMA defer_foreign_keys=0")
        db.execute("CREATE TABLE parents (id PRIMARY KEY)")
        db.execute("CREATE TABLE children (parent REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)")
    opened.rows("PRAGMA foreign_keys=ON")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"), opened.transaction() as db:
        db.execute("INSERT INTO children VALUES ('orphan')")
    put(opened, "a")
    assert ids(opened) == ["a"]
    assert opened.rows("SELECT * FROM children") == []


def test_many_threads_write_one_after_another(opened: Store) -> None:
    def work(number: int) -> None:
        for step in range(10):
            put(opened, f"{number}-{step}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids(opened)) == 80


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were brought to the disk, in order."""
    files: list[str] = []

    def fdatasync(number: int) -> None:
        files.append(os.readlink(f"/proc/self/fd/{number}"))
        real(number)

    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return files


def test_what_is_committed_is_on_the_disk_when_it_returns(opened: Store, path: Path, synced: list[str]) -> None:
    assert opened.rows("PRAGMA journal_mode") == [("wal",)]
    assert opened.rows("PRAGMA synchronous") == [(1,)]  # NORMAL: what SQLite does not do at a commit, we do
    put(opened, "a")
    put(opened, "b")
    assert synced == [f"{path}-wal"] * 2


def test_what_can_wait_is_brought_to_the_disk_soon_and_together(opened: Store, path: Path, synced: list[str]) -> None:
    for durable in (Durable.SOON, Durable.LATER, Durable.SOON):
        with opened.transaction(durable) as db:
            db.execute("PRAGMA user_version")
    wait.until(lambda: synced, 5, "the log to be synced")
    put(opened, "a")
    assert len(synced) in (2, 3)  # 3 where the thread slept for longer than the machine


def test_what_means_nothing_after_a_boot_asks_nothing_of_the_disk(opened: Store, synced: list[str]) -> None:
    with opened.transaction(Durable.LATER) as db:
        db.execute("INSERT INTO sandboxes VALUES ('a', x'')")
    assert synced == []


def test_those_who_wait_for_the_disk_wait_together(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs, first, go = [], threading.Event(), threading.Event()

    def slow(number: int) -> None:
        syncs.append(number)
        first.set()
        assert go.wait(10)

    monkeypatch.setattr(os, "fdatasync", slow)
    threads = [threading.Thread(target=put, args=(opened, f"{number}")) for number in range(8)]
    threads[0].start()
    assert first.wait(10)
    for thread in threads[1:]:
        thread.start()
    wait.until(lambda: len(ids(opened)) == 8, 10, "everybody to have written")
    go.set()
    for thread in threads:
        thread.join()
    assert len(syncs) == 2


def test_a_disk_that_fails_is_told_to_who_waits_for_it(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_number: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        put(opened, "a")
    monkeypatch.undo()
    put(opened, "b")
    assert ids(opened) == ["a", "b"]


def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    store = Store(path)
    assert store.rows("PRAGMA user_version") == [(len(MIGRATIONS),)]
    store.rows(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    store.close()
    with pytest.raises(WrongState, match="written by a newer kernelet"):
        Store(path)


def test_a_file_that_is_no_database_is_told_with_a_way_out(path: Path) -> None:
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(WrongState, match=rf"^open the database {path}: file is not a database; with the file moved away"):
        Store(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(WrongState, match="unable to open database file"):
        Store(path)


def test_an_older_database_is_migrated_with_its_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(path)
    put(store, "a")
    store.close()
    monkeypatch.setattr("runtime.store.MIGRATIONS", (*MIGRATIONS, ("ALTER TABLE sandboxes ADD COLUMN more TEXT",)))
    again = Store(path)
    assert again.rows("SELECT id, more FROM sandboxes") == [("a", None)]
    again.close()


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(path).close()
    monkeypatch.setattr("runtime.store.MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE extra (x)", "NONSENSE")))
    with pytest.raises(sqlite3.OperationalError):
        Store(path)
    monkeypatch.undo()
    store = Store(path)
    assert store.rows("SELECT name FROM sqlite_master WHERE name = 'extra'") == []
    store.close()
