"""Processes: spawned with nothing of ours, known by descriptor, reaped once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernel import process
from kernel.fd import Fd, memory, open_path, pipe
from tests.support import child, wait
from tests.support.requires import requires

BUSYBOX = Path("/bin/busybox")


def spawn(name: str, descriptors: Mapping[int, Fd]) -> int:
    with memory("image", BUSYBOX.read_bytes()) as image:
        lifted = {there: here.duplicate(100) for there, here in descriptors.items()}
        with image.duplicate(100) as high:
            pid = process.spawn(high.fileno(), name, {there: here.fileno() for there, here in lifted.items()})
        for file in lifted.values():
            file.close()
    return pid


@pytest.fixture
def sleeper() -> Fd:
    """A child that sleeps; by pidfd, for its pid is its parent's to know."""
    started = subprocess.Popen(["sleep", "100"])
    started.returncode = 0  # it is reaped here, not by Popen
    return process.open_pidfd(started.pid)


def pid_of(pidfd: Fd) -> int:
    text = Path(f"/proc/self/fdinfo/{pidfd.fileno()}").read_text()
    return int(text.partition("\nPid:")[2].split()[0])


@requires("busybox")
def test_a_spawned_process_has_the_descriptors_it_was_given_and_no_environment() -> None:
    reader, writer = pipe()
    with reader, open_path("/dev/null", os.O_RDWR) as null:
        os.environ["LEAKED"] = "yes"
        try:
            pid = spawn("env", {0: null, 1: writer, 2: null})
        finally:
            del os.environ["LEAKED"]
        writer.close()
        assert os.waitpid(pid, 0)[1] == 0
        assert os.read(reader.fileno(), 1000) == b""


@requires("busybox")
def test_no_signal_is_ignored_or_blocked_in_a_spawned_process() -> None:
    def look() -> list[str]:
        numbers = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        reader, writer = pipe()
        with reader, writer:
            pid = spawn("cat", {0: reader})
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            os.kill(pid, signal.SIGKILL)
            return [line for line in status if line.startswith(("SigIgn", "SigBlk"))]

    ignored = 1 << 31 | 1 << 32  # 32 and 33 are the C library's own, which it ignores itself; a program resets them
    assert child.run(look) in (
        [f"SigBlk:\t{0:016x}", f"SigIgn:\t{ignored:016x}"],
        [f"SigBlk:\t{0:016x}", f"SigIgn:\t{0:016x}"],
    )


def test_a_signal_is_sent_by_pidfd_and_not_to_who_is_gone(sleeper: Fd) -> None:
    with sleeper:
        assert process.send_signal(sleeper, 0)
        assert process.send_signal(sleeper, signal.SIGTERM)
        process.reap(pid_of(sleeper))
        assert not process.send_signal(sleeper, signal.SIGTERM)


def test_who_has_ended_is_reaped_and_who_lives_is_left(sleeper: Fd) -> None:
    with sleeper:
        pid = pid_of(sleeper)
        begun = time.monotonic()
        process.reap_ended(sleeper)
        assert time.monotonic() - begun < 5
        assert process.send_signal(sleeper, signal.SIGKILL)
        wait.until(lambda: "Z" in Path(f"/proc/{pid}/stat").read_text(), 5, "the process to be a zombie")
        process.reap_ended(sleeper)
        assert not Path(f"/proc/{pid}").exists()
        process.reap_ended(sleeper)
        process.reap(pid)


def test_one_that_is_no_child_of_ours_is_somebody_elses() -> None:
    with process.open_pidfd(1) as other:
        process.reap_ended(other)
    process.reap(1)
    assert process.has_ended(1)


def test_whether_a_child_has_ended() -> None:
    started = subprocess.Popen(["sleep", "100"])
    assert not process.has_ended(started.pid)
    os.kill(started.pid, signal.SIGKILL)
    wait.until(lambda: process.has_ended(started.pid), 5, "the end to be seen")
    started.returncode = 0


def test_a_process_that_there_is_not() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessLookupError):
        process.open_pidfd(gone.pid)
    assert process.executable_of(gone.pid) == ""
    assert process.parent_of(gone.pid) == 0


def test_a_parent_is_found_whatever_the_name(tmp_path: Path) -> None:
    """The name in /proc/PID/stat may hold spaces and parentheses."""

    def look() -> bool:
        process.set_name(") R 1 (x")
        return process.parent_of(os.getpid()) == os.getppid()

    assert child.run(look)
    assert process.executable_of(os.getpid()) == os.path.realpath(sys.executable)
    assert os.getpid() in process.all_pids()


def test_a_session_outlives_who_started_it_and_says_its_errors_in_its_log(tmp_path: Path) -> None:
    pid = process.start_session([sys.executable, "-c", "import os, sys; sys.stderr.write(f'{os.getsid(0)}')"], tmp_path / "log")
    os.waitpid(pid, 0)
    assert (tmp_path / "log").read_text() == str(pid)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
