"""A runner that waits for its program: what it gets, and how it ends when there is none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kernel import process
from kernel.fd import Fd, eventfd, memory, open_path, pipe, take_from
from kernel.program import PROGRAM_FD, REPORT_FD, Program, Vector, runner_image
from kernel.report import Report
from runtime.container.descriptors import Descriptor
from runtime.monitor.launch import Launcher
from runtime.monitor.spare import SOCKET, Spare
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

ABOVE = 100


@dataclass
class Bench:
    """A spare, and what was made for it."""

    spare: Spare
    null: Fd
    output: Fd
    files: list[Fd] = field(default_factory=list)

    def give(self, steps: Program, **more: Fd) -> Report:
        """Hand *steps* over, with *more* files under the names f20, f21 …"""
        report = Report(len(steps.all_steps))
        code = memory("program", steps.pack())
        self.files += [code, report.memory]
        given = {int(name[1:]): file for name, file in more.items()}
        assert self.spare.hand_over({PROGRAM_FD: code, REPORT_FD: report.memory, **given})
        return report


@pytest.fixture
def bench() -> Iterator[Bench]:
    reader, writer = pipe()
    with memory("kernelet-runner", runner_image()) as image, open_path("/dev/null", os.O_RDWR) as null, reader:
        with image.duplicate(ABOVE) as runner, writer, writer.duplicate(ABOVE) as output:
            made = Bench(Spare(runner, {0: null, 1: output, 2: null}, null), null, reader)
        yield made
        made.spare.end()
        for file in made.files:
            file.close()


def test_its_program_finds_every_descriptor_at_its_number(bench: Bench) -> None:
    steps = Program("list")
    arguments = Vector((b"sh", b"-c", b"for n in 9 13 20 21; do readlink /proc/$$/fd/$n; done; ls /proc/$$/fd"))
    steps.call("execve", "/bin/busybox", arguments, Vector(()), why="look")
    with open_path("/proc/self/comm") as one, eventfd() as two, open_path("/bin/busybox") as three:
        bench.give(steps, f9=one, f20=two, f21=three)
        process.reap(bench.spare.pid)
    said = os.read(bench.output.fileno(), 4096).decode().split()
    assert said[0].endswith("/comm")
    assert said[1:4] == [
        "/dev/null",
        "anon_inode:[eventfd]",
        "/bin/busybox" if not os.path.islink("/bin") else "/usr/bin/busybox",
    ]
    # What it was not given is the null device, and the socket is gone.  14 is the listing itself.
    assert sorted(map(int, said[4:])) == [*range(22)]


def test_its_report_is_that_of_the_program(bench: Bench) -> None:
    steps = Program("two")
    steps.call("umask", 0o77, why="one")
    steps.call("umask", 0o22, why="two")
    report = bench.give(steps)
    process.reap(bench.spare.pid)
    assert report.read().results[1] == 0o77


def test_the_pidfd_of_its_clone_is_where_a_monitor_looks_for_it_before_the_clone_runs(bench: Bench) -> None:
    steps = Program("clone")
    steps.clone((), cgroup=None, why="a child")
    steps.call("write", 1, "here", 4, why="it runs")
    steps.call("ppoll", 0, 0, 0, 0, 0, why="and stays")
    steps.afterwards("ppoll", 0, 0, 0, 0, 0, why="as if it were not its turn yet")
    report = bench.give(steps, f5=bench.null, f13=bench.null)
    assert os.read(bench.output.fileno(), 4) == b"here"
    pid = report.read().pid
    with take_from(bench.spare.pidfd, Descriptor.INIT) as pidfd:
        assert f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{pidfd.fileno()}").read_text()
        assert process.send_signal(pidfd, signal.SIGKILL)


def test_what_lies_too_high_is_not_for_it(bench: Bench) -> None:
    assert not bench.spare.hand_over({SOCKET: bench.null})


def test_one_that_was_killed_takes_nothing(bench: Bench) -> None:
    process.send_signal(bench.spare.pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, bench.spare.pidfd.fileno(), os.WEXITED | os.WNOWAIT)
    assert not bench.spare.hand_over({PROGRAM_FD: bench.null})


def test_it_ends_when_nobody_is_left_to_give_it_a_program(bench: Bench) -> None:
    bench.spare.forsake()
    _, status = os.waitpid(bench.spare.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 112  # there is no program


def test_a_launcher_without_room_has_none_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher()
    monkeypatch.setattr("runtime.monitor.spare.process.spawn_above", _refuse)
    launcher.prepare()
    assert not launcher.is_prepared
    monkeypatch.undo()
    launcher.prepare()
    assert launcher.is_prepared
    launcher.close()


def _refuse(*_: object) -> int:
    raise BlockingIOError
