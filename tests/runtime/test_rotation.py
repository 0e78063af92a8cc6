"""A kubelet rotates the log of a container that writes as fast as it can; no line is lost, none is there twice.

And what becomes of a log whose disk is full.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel import mount
from runtime.node import Node
from tests.support import wait, wishes
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

#: A line is a number and a filler: 64 KiB hold some sixty of them, so that each rotation falls into a burst.
WRITER = ["awk", 'BEGIN { pad = sprintf("%1000s", ""); for (n = 0; ; n++) print n pad }']
#: And its sum at the end is known by the number of the last one.
ROTATIONS = 200


def numbers(logs: list[Path]) -> Iterator[int]:
    """The numbers of the lines in *logs*, one after the other; pieces of a line are put together."""
    line = b""
    for path in logs:
        for entry in path.read_bytes().splitlines():
            _, stream, tag, content = entry.split(b" ", 3)
            assert stream == b"stdout"
            line += content
            if tag == b"F":
                assert len(line) > 1000, line[:80]
                yield int(line)
                line = b""


@contextmanager
def written(log: Path, node: Node) -> Iterator[str]:
    """A container that writes to *log*; killed at the end."""
    container = wishes.run(node, node.run_sandbox(wishes.sandbox(network="node")), wishes.container(WRITER, log=log))
    wait.until(lambda: log.exists() and log.stat().st_size, 10)
    yield container
    node.stop_container(container, 0)


def rotate(node: Node, container: str, log: Path, number: int) -> Path:
    """As a kubelet does it."""
    old = log.with_name(f"{log.name}.{number:03}")
    log.rename(old)
    node.reopen_log(container)
    assert log.exists()
    return old


def check(logs: list[Path]) -> None:
    expected = 0
    for number in numbers(logs):
        assert number == expected
        expected += 1
    assert expected > ROTATIONS


def test_rotations_at_full_speed(node: Node, tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    with written(log, node) as container:
        old = []
        for number in range(ROTATIONS):
            old.append(rotate(node, container, log, number))
            before = old[-1].stat().st_size
            wait.until(lambda: log.stat().st_size > 0, 5, "the new log to be written")
            assert old[-1].stat().st_size == before, "something was written to the old log after the answer"
    check([*old, log])


def test_rotations_while_the_monitor_is_killed(node: Node, tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    kills = 8
    with written(log, node) as container:
        old = []
        for number in range(kills * 4):
            if number % 4 == 2:
                monitor = node.monitor_pid
                os.kill(monitor, signal.SIGKILL)
            # Also while there is none: the file has its new name before anybody could open it again.
            old.append(rotate(node, container, log, number))
            wait.until(lambda: log.stat().st_size > 0, 10, "the new log to be written")
    check([*old, log])


def test_a_full_disk_is_told_when_it_begins_and_when_it_ends(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mount.new_filesystem("tmpfs", [("size", str(1 << 20))]) as small:
        mount.attach(small, disk)
    log, ballast = disk / "0.log", disk / "ballast"
    try:
        ballast.write_bytes(bytes(700_000))
        script = 'n=0; while :; do echo "$n $(printf %0200d 0)"; n=$((n+1)); done'
        pod = node.run_sandbox(wishes.sandbox(network="node"))
        container = wishes.run(node, pod, wishes.container(["sh", "-c", script], log=log))

        def told(text: str) -> list[str]:
            return [record.getMessage() for record in caplog.records if text in record.getMessage()]

        wait.until(lambda: told("cannot be written"), 20)
        full = log.stat().st_size
        ballast.unlink()
        wait.until(lambda: told("is written again"), 20)
        wait.until(lambda: log.stat().st_size > full, 20)
        node.stop_container(container, 0)
        found = [int(line.split()[0]) for line in wishes.lines(log)]
    finally:
        mount.unmount(disk)
    assert told("cannot be written") == [
        f"container {container[:13]}: its log cannot be written, what it says is lost: no space left on device"
    ]
    [again] = told("is written again")
    lost = int(again.split("; ")[1].split()[0])
    [gap] = [number for number, later in itertools.pairwise(found) if later != number + 1]
    assert found[found.index(gap) + 1] - gap - 1 == lost
    assert found[0] == 0


def test_all_is_in_the_log_when_a_container_is_said_to_have_exited(node: Node, tmp_path: Path) -> None:
    pod = node.run_sandbox(wishes.sandbox(network="node"))
    for number in range(10):
        log = tmp_path / f"{number}.log"
        script = "awk 'BEGIN { for (n = 0; n < 20000; n++) print n }'; echo -n \"no newline\""
        container = wishes.run(node, pod, wishes.container(["sh", "-c", script], log=log))
        node._context.inventory.wait_until(lambda of=container: node.find_container(of).state == "exited", 20)
        content = log.read_bytes()
        assert content.endswith(b" stdout P no newline\n")
        assert content.count(b"\n") == 20001
        node.remove_container(container)
