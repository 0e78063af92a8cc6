"""The disk of some logs hangs, for real (``tests.support.fuse``): their containers wait, and nothing else does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import log_opener
from runtime.errors import MonitorLost, NotReady
from runtime.monitor.disk import HANG_SECONDS
from runtime.node import Node
from tests.support import fuse, wait, wishes
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "filesystem fuse")

COUNT = 'n=0; while :; do echo "$n"; n=$((n+1)); done'


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[fuse.Server]:
    with fuse.mounted(tmp_path / "disk") as server:
        yield server


@pytest.fixture
def pod(node: Node) -> str:
    return node.run_sandbox(wishes.sandbox(network="node"))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon waits for an open for a shorter time."""
    for name in ("HANG_SECONDS", "SHORT_SECONDS"):
        monkeypatch.setattr(log_opener, name, 0.3)


def monitor_of(node: Node) -> int:
    """Its pid, 0 while there is none that knows what there is."""
    try:
        return node.monitor_pid if node._context.monitor.is_settled else 0
    except MonitorLost:
        return 0


def within(seconds: float, act: Callable[[], object]) -> None:
    begun = time.monotonic()
    act()
    assert time.monotonic() - begun < seconds


def test_all_else_goes_on(node: Node, pod: str, tmp_path: Path, disk: fuse.Server) -> None:
    hanging = wishes.run(node, pod, wishes.container(["sh", "-c", COUNT], log=tmp_path / "disk/h/0.log"))
    good = wishes.run(node, pod, wishes.container(["sh", "-c", COUNT], log=tmp_path / "good.log"))
    wait.until(lambda: len(wishes.lines(tmp_path / "disk/h/0.log")) > 100)
    disk.hang()
    wait.until(lambda: disk.waits)
    size = (tmp_path / "good.log").stat().st_size
    for number in range(3):
        within(2, lambda: node.exec_sync(good, ["true"], 5))
        within(2, lambda: node.exec_sync(hanging, ["true"], 5))
        log = tmp_path / f"{number}.log"
        more = wishes.run(node, pod, wishes.container(["echo", "here"], log=log))
        assert wishes.finish(node, more, 3) == 0
        assert wishes.lines(log) == ["here"]
    wait.until(lambda: (tmp_path / "good.log").stat().st_size > size)
    (tmp_path / "good.log").rename(tmp_path / "good.old")
    within(2, lambda: node.reopen_log(good))
    wait.until(lambda: (tmp_path / "good.log").stat().st_size)
    within(3, lambda: node.stop_container(good, 0))
    disk.go_on()
    count = len(wishes.lines(tmp_path / "disk/h/0.log"))
    wait.until(lambda: len(wishes.lines(tmp_path / "disk/h/0.log")) > count)
    node.stop_container(hanging, 0)
    found = wishes.lines(tmp_path / "disk/h/0.log")
    assert found == [str(number) for number in range(len(found))]


def test_an_end_is_told_and_a_rotation_refused_in_time_and_nothing_is_lost(
    node: Node, pod: str, tmp_path: Path, disk: fuse.Server, caplog: pytest.LogCaptureFixture
) -> None:
    logs = [tmp_path / f"disk/{name}" for name in ("ends.log", "stays.log")]
    ends, stays = (wishes.run(node, pod, wishes.container(["sh", "-c", COUNT], log=log)) for log in logs)
    wait.until(lambda: all(len(wishes.lines(log)) > 100 for log in logs))
    disk.hang(fuse.WRITE)
    wait.until(lambda: disk.waits)
    begun = time.monotonic()
    ender = threading.Thread(target=node.stop_container, args=(ends, 0))
    ender.start()
    with pytest.raises(TimeoutError, match="has not answered"):
        node.reopen_log(stays)
    ender.join()
    assert HANG_SECONDS - 1 < time.monotonic() - begun < HANG_SECONDS + 3
    ended = node.find_container(ends)
    assert (ended.exit_code, ended.reason) == (137, "Error")
    assert "hangs: what it said last is written when that answers again" in ended.message
    within(1, lambda: node.stop_container(stays, 0))  # now it is known
    wait.until(lambda: "the disk of logs does not answer" in caplog.text)
    disk.go_on()
    wait.until(lambda: "the disk of logs answers again" in caplog.text)
    node.remove_container(ends)
    for log in logs:
        found = wishes.lines(log)
        assert found == [str(number) for number in range(len(found))]


def test_a_monitor_that_is_killed_in_a_write_has_a_successor_at_once(
    node: Node, pod: str, tmp_path: Path, disk: fuse.Server, soon: None
) -> None:
    hanging, good = tmp_path / "disk/0.log", tmp_path / "good.log"
    on_disk, beside = (wishes.run(node, pod, wishes.container(["sh", "-c", COUNT], log=log)) for log in (hanging, good))
    wait.until(lambda: len(wishes.lines(hanging)) > 100)
    for only in ((fuse.WRITE,), ()):  # with a log that can be opened meanwhile, and with one that cannot
        disk.hang(*only)
        wait.until(lambda: disk.waits)
        killed = node.monitor_pid
        os.kill(killed, signal.SIGKILL)
        wait.until(lambda of=killed: monitor_of(node) not in (0, of), 3, "the next monitor")
        within(2, lambda: node.exec_sync(beside, ["true"], 5))
        assert Path(f"/proc/{killed}").exists(), "the write of the killed monitor did not hang"
        size = good.stat().st_size
        wait.until(lambda of=size: good.stat().st_size > of)
        disk.go_on()
        # By its bytes: what the killed one has written of its batch may end in the middle of a line until it is taken back.
        size = hanging.stat().st_size
        wait.until(lambda of=size: hanging.stat().st_size > of + 100_000, 10)
        wait.until(lambda of=killed: not Path(f"/proc/{of}").exists())
    for container, log in ((on_disk, hanging), (beside, good)):
        node.stop_container(container, 0)
        found = wishes.lines(log)
        assert found == [str(number) for number in range(len(found))]


def test_an_open_that_hangs_stops_nobody(node: Node, pod: str, tmp_path: Path, disk: fuse.Server, soon: None) -> None:
    hanging, old = tmp_path / "disk/0.log", tmp_path / "disk/0.log.old"
    container = wishes.run(node, pod, wishes.container(["sh", "-c", COUNT], log=hanging))
    beside = wishes.run(node, pod, wishes.container(["sleep", "100"], log=tmp_path / "good.log"))
    wait.until(lambda: len(wishes.lines(hanging)) > 100)
    hanging.rename(old)
    disk.hang(fuse.OPEN, fuse.CREATE)
    with pytest.raises(OSError, match="its disk does not answer"):
        node.reopen_log(container)
    with pytest.raises(OSError, match="its disk does not answer"):  # it is under way, and no other is begun
        within(0.2, lambda: node.reopen_log(container))
    with pytest.raises(NotReady, match="its disk does not answer"):
        node.create_container(pod, wishes.container(["true"], log=tmp_path / "disk/new.log"))
    within(2, lambda: node.exec_sync(beside, ["true"], 5))
    opening = [thread for thread in threading.enumerate() if thread.name == "open log"]
    assert len(opening) == 2
    disk.go_on()
    for thread in opening:
        thread.join()
    assert hanging.exists()
    node.reopen_log(container)
    wait.until(lambda: len(wishes.lines(hanging)) > 100)
    node.stop_container(container, 0)
    found = wishes.lines(old) + wishes.lines(hanging)
    assert found == [str(number) for number in range(len(found))]


def test_a_log_that_moves_to_another_disk_goes_on_there(node: Node, pod: str, tmp_path: Path, disk: fuse.Server) -> None:
    log, place = tmp_path / "logs/0.log", tmp_path / "logs"
    container = wishes.run(node, pod, wishes.container(["sh", "-c", COUNT], log=log))
    wait.until(lambda: log.read_text().count("\n") > 100)  # the last line may be half there
    place.rename(tmp_path / "before")
    place.symlink_to(tmp_path / "disk")
    node.reopen_log(container)
    wait.until(lambda: log.read_text().count("\n") > 100)  # the last line may be half there
    node.stop_container(container, 0)
    found = wishes.lines(tmp_path / "before/0.log") + wishes.lines(log)
    assert found == [str(number) for number in range(len(found))]
