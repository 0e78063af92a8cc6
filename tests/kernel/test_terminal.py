"""Pseudo-terminals of a devpts of our own, by descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kernel import mount, terminal
from kernel.fd import Fd
from tests.support.requires import requires

pytestmark = requires("root")


@pytest.fixture
def devpts() -> Iterator[Fd]:
    with mount.new_filesystem("devpts", [("ptmxmode", "0666"), ("mode", "0620")]) as made:
        yield made


def test_what_is_written_at_one_end_is_read_at_the_other(devpts: Fd) -> None:
    opened = terminal.open_terminal(devpts)
    os.write(opened.slave.fileno(), b"out\n")
    assert os.read(opened.master.fileno(), 100) == b"out\r\n"
    os.write(opened.master.fileno(), b"in\n")
    assert os.read(opened.slave.fileno(), 100) == b"in\n"
    opened.close()


def test_names_are_numbers_of_that_devpts_alone(devpts: Fd) -> None:
    with mount.new_filesystem("devpts", [("ptmxmode", "0666")]) as other:
        found = [terminal.open_terminal(where) for where in (devpts, devpts, other)]
        assert [each.name for each in found] == ["0", "1", "0"]
        assert sorted(os.listdir(f"/proc/self/fd/{devpts.fileno()}")) == ["0", "1", "ptmx"]
        for each in found:
            each.close()


def test_the_slave_is_that_of_the_master_and_both_are_closed_over_execve(devpts: Fd) -> None:
    opened = terminal.open_terminal(devpts)
    status = os.fstat(opened.slave.fileno())
    assert status.st_rdev == os.stat(f"/proc/self/fd/{devpts.fileno()}/{opened.name}").st_rdev
    assert os.isatty(opened.slave.fileno())
    for end in (opened.master, opened.slave):
        assert fcntl.fcntl(end.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    opened.close()
    assert not opened.master.is_open
    assert not opened.slave.is_open


def test_a_slave_is_found_as_what_the_devpts_has_not_what_is_mounted_upon_it(devpts: Fd, tmp_path: Path) -> None:
    opened = terminal.open_terminal(devpts)
    (tmp_path / "devpts").mkdir()
    mount.attach(devpts, tmp_path / "devpts")
    with terminal.find_slave(devpts, opened.name) as found:
        assert os.fstat(found.fileno()).st_rdev == os.fstat(opened.slave.fileno()).st_rdev
        with pytest.raises(OSError) as refusal:
            os.read(found.fileno(), 1)
        assert refusal.value.errno == errno.EBADF
        with mount.clone_tree("", directory=found) as copy:
            (tmp_path / "console").touch()
            mount.attach(copy, tmp_path / "console")
    assert os.stat(tmp_path / "console").st_rdev == os.fstat(opened.slave.fileno()).st_rdev
    mount.bind("/dev/null", tmp_path / "devpts/0")
    with pytest.raises(OSError) as refusal:
        terminal.find_slave(devpts, opened.name)
    assert refusal.value.errno == errno.EXDEV
    for covered in ("console", "devpts/0", "devpts"):
        mount.unmount(tmp_path / covered)
    opened.close()


def test_it_does_not_become_ours(devpts: Fd) -> None:
    opened = terminal.open_terminal(devpts)
    with pytest.raises(OSError) as refusal:
        os.tcgetpgrp(opened.slave.fileno())
    assert refusal.value.errno == errno.ENOTTY
    opened.close()


def test_its_size_is_what_was_set(devpts: Fd) -> None:
    opened = terminal.open_terminal(devpts)
    terminal.set_window_size(opened.master, 24, 80)
    size = fcntl.ioctl(opened.slave.fileno(), termios.TIOCGWINSZ, bytes(8))
    assert struct.unpack("HHHH", size) == (24, 80, 0, 0)
    opened.close()


def test_a_hang_up_is_seen(devpts: Fd) -> None:
    opened = terminal.open_terminal(devpts)
    opened.slave.close()
    with pytest.raises(OSError) as end:
        os.read(opened.master.fileno(), 1)
    assert end.value.errno == errno.EIO
    opened.close()


def test_when_there_are_no_more_nothing_stays_open() -> None:
    with mount.new_filesystem("devpts", [("ptmxmode", "0666"), ("max", "2")]) as small, ExitStack() as held:
        for _ in range(2):
            held.callback(terminal.open_terminal(small).close)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="No space left"):
            terminal.open_terminal(small)
        assert os.listdir("/proc/self/fd") == before


def test_what_is_no_devpts_is_refused(tmp_path: object) -> None:
    with mount.new_filesystem("tmpfs") as wrong, pytest.raises(FileNotFoundError):
        terminal.open_terminal(wrong)
