"""What a daemon finds wrong with itself: a monitor that does not answer, a database that cannot be written."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import health
from runtime.node import Node
from tests.support import wait
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2")


def test_a_node_is_well(node: Node) -> None:
    assert node.faults() == []


def test_a_monitor_that_stands_still_is_a_fault(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.2)
    os.kill(node.monitor_pid, signal.SIGSTOP)
    try:
        [fault] = node.faults()
    finally:
        os.kill(node.monitor_pid, signal.SIGCONT)
    assert fault == "monitor: the monitor has not answered for 0 s"
    wait.until(lambda: node.faults() == [], 5)


def test_one_that_was_killed_is_replaced_before_it_is_a_fault(node: Node) -> None:
    os.kill(node.monitor_pid, signal.SIGKILL)
    assert node.faults() == []


def test_a_database_that_cannot_be_written_is_a_fault_but_a_full_disk_is_not(
    make_node: Callable[[], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node()
    store = node._store
    store.rows("PRAGMA query_only=1")
    assert node.faults() == ["database: attempt to write a readonly database"]
    store.rows("PRAGMA query_only=0")
    [(pages,)] = store.rows("PRAGMA page_count")
    store.rows(f"PRAGMA max_page_count={pages}")
    with pytest.raises(OSError, match="No space left"), store.transaction() as db:
        db.execute("CREATE TABLE more (x)")
        db.execute("INSERT INTO more VALUES (zeroblob(1000000))")
    assert node.faults() == []


def test_the_probe_reaches_the_disk(node: Node) -> None:
    log = Path(f"{node.paths.database}-wal")
    before = log.stat()
    node._store.probe()
    after = log.stat()
    assert (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size)
