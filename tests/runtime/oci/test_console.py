"""A container in the foreground of a terminal: what is typed and shown, the size, and our terminal afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.oci import CommandLine, environment


class Screen:
    """A terminal with a command in its foreground."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.seen = b""

    @contextmanager
    def start(self, command: list[str], cwd: os.PathLike[str]) -> Iterator[subprocess.Popen[bytes]]:
        files = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        with subprocess.Popen(command, cwd=cwd, env=environment(), start_new_session=True, **files) as running:
            try:
                yield running
            finally:
                running.kill()

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def wait_for(self, text: bytes, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"waited for {text!r}; seen {self.seen!r}"
            self.seen += os.read(self.master, 65536)

    @property
    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def screen() -> Iterator[Screen]:
    opened = Screen()
    opened.resize(30, 100)
    yield opened
    opened.close()


def with_terminal(config: dict[str, Any]) -> None:
    config["process"]["terminal"] = True


def test_a_shell_is_typed_to_and_leaves_the_terminal_as_it_was(oci: CommandLine, screen: Screen) -> None:
    oci.configure("sh", change=with_terminal)
    before = screen.modes
    with screen.start(oci.words("run", "web"), oci.bundle) as running:
        screen.wait_for(b"# ")
        assert screen.modes[3] & (termios.ECHO | termios.ICANON) == 0  # the container's terminal does that
        screen.type(b"stty size; tty\n")
        screen.wait_for(b"30 100")
        screen.wait_for(b"/dev/pts/0")
        screen.resize(11, 22)
        running.send_signal(signal.SIGWINCH)
        screen.type(b"while [ \"$(stty size)\" != '11 22' ]; do sleep 0.05; done; echo re''sized\n")
        screen.wait_for(b"resized")
        screen.type(b"sh -c \"echo st''art; exec sleep 1000\"\n")  # said by whom ^C is for
        screen.wait_for(b"start")
        screen.type(b"\x03")  # to the container's foreground process, not to ours
        screen.type(b"exit 9\n")
        screen.wait_for(b"exit 9")
        assert running.wait(20) == 9
    assert screen.modes == before


def test_an_exec_has_a_terminal_of_the_containers(oci: CommandLine, screen: Screen) -> None:
    oci.call("run", "--detach", "web")
    with screen.start(oci.words("exec", "--tty", "web", "sh", "-c", "tty; stty size; exit 4"), oci.bundle) as running:
        screen.wait_for(b"/dev/pts/0")
        screen.wait_for(b"30 100")
        assert running.wait(20) == 4


def test_a_terminal_without_ours_still_ends(oci: CommandLine) -> None:
    oci.configure("sh", "-c", "cat; echo done", change=with_terminal)
    said = oci.call("run", "web", given="typed\n").stdout
    assert "typed" in said
    assert said.endswith("done\n")


def test_what_is_mounted_upon_devpts_is_not_opened(oci: CommandLine) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "/dev/pts", "type": "tmpfs", "source": "tmpfs"})

    oci.configure("sleep", "1000", change=change)
    oci.call("run", "--detach", "web")
    failed = oci.call("exec", "--tty", "web", "true", may_fail=True)
    assert failed.returncode == 255
    assert "not a devpts" in failed.stderr
