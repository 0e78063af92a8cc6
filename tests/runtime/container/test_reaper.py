"""The exit file: what the kernel said, as code and time."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.fd import eventfd, open_path, pipe
from kernel.program import Program, Vector
from runtime.container import reaper
from runtime.container.descriptors import EXIT_FILE, EXIT_SIZE, Descriptor
from runtime.container.reaper import read_exit, read_exit_behind
from tests.support.requires import requires

EXITED, KILLED, DUMPED = 1, 2, 3


def content(code: int, status: int, seconds: int = 0, nanoseconds: int = 0) -> bytes:
    """siginfo_t as waitid(2) fills it, then struct timespec."""
    siginfo = struct.pack("<iii4xiIi", 17, 0, code, 4711, 0, status).ljust(128, b"\0")
    return siginfo + struct.pack("<qq", seconds, nanoseconds)


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [(EXITED, 0, 0), (EXITED, 7, 7), (EXITED, 255, 255), (KILLED, 9, 137), (KILLED, 15, 143), (DUMPED, 11, 139)],
)
def test_an_end_is_a_code_as_a_shell_tells_it(code: int, status: int, expected: int) -> None:
    assert read_exit(content(code, status))[0] == expected


@given(st.integers(0, 1 << 34), st.integers(0, 999_999_999))
def test_the_time_is_in_nanoseconds(seconds: int, nanoseconds: int) -> None:
    assert read_exit(content(EXITED, 0, seconds, nanoseconds))[1] == seconds * 1_000_000_000 + nanoseconds


def test_half_a_file_is_an_error_and_no_code() -> None:
    with pytest.raises(ValueError, match="has 144 bytes, not 143"):
        read_exit(content(EXITED, 0)[: EXIT_SIZE - 1])


@requires("root", "busybox")
@pytest.mark.parametrize(("command", "expected"), [("exit 5", 5), ("kill -9 $$", 137), ("kill -SEGV $$", 139)])
def test_a_real_reaper_leaves_it_whole_and_wakes_who_waits(tmp_path: Path, command: str, expected: int) -> None:
    from kernel import process
    from kernel.fd import memory
    from kernel.program import runner_image
    from kernel.report import Report

    steps = Program("a short life")
    steps.clone((), cgroup=None, why="a child")
    steps.call("execve", "/bin/busybox", Vector((b"sh", b"-c", command.encode())), Vector(()), why="end somehow")
    reaper.stay_behind(steps)
    report = Report(len(steps.all_steps))
    ready_reader, ready = pipe()
    with (
        memory("runner", runner_image()) as image,
        memory("program", steps.pack()) as code,
        report.memory,
        ready_reader,
        ready,
        open_path("/dev/null", os.O_RDWR) as null,
        open_path(tmp_path, os.O_DIRECTORY) as run_dir,
        eventfd() as done,
    ):
        files = dict.fromkeys(range(13), null) | {3: code, 4: report.memory, 6: ready, 8: done, Descriptor.RUN_DIR: run_dir}
        lifted = {number: file.duplicate(200) for number, file in files.items()}
        with image.duplicate(200) as runner:
            pid = process.spawn(runner.fileno(), "runner", {number: file.fileno() for number, file in lifted.items()})
        for file in lifted.values():
            file.close()
        try:
            assert os.eventfd_read(done.fileno()) == 1
            found = read_exit((tmp_path / EXIT_FILE).read_bytes())
            assert found[0] == expected
            assert abs(found[1] - (tmp_path / EXIT_FILE).stat().st_mtime_ns) < 5_000_000_000
            assert os.listdir(tmp_path) == [EXIT_FILE]
            assert read_exit_behind(report.memory) == found
            outcome = report.read()
            assert (outcome.failed, outcome.reaper_failed) == (None, None)
            assert not process.has_ended(pid)  # it holds the streams until it is told to go
            with pytest.raises(ProcessLookupError):
                os.kill(outcome.pid, 0)
        finally:
            os.kill(pid, 9)
            process.reap(pid)
