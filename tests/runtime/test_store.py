"""Records are written whole or not at all, and a failed write is not the last one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import WrongState
from runtime.store import MIGRATIONS, Store


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
    with pytest.raises(sqlite3.OperationalError, match="full"), opened.transaction() as db:
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


def test_a_power_cut_loses_nothing_that_was_committed(opened: Store) -> None:
    assert opened.rows("PRAGMA journal_mode") == [("wal",)]
    assert opened.rows("PRAGMA synchronous") == [(2,)]  # FULL


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
