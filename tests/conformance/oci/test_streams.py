"""Terminals through a console socket, and descriptors that are handed on."""

from __future__ import annotations

import array
import os
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl

import pytest

from tests.conformance.oci.container import Container
from tests.support import wait

TIMEOUT_SECONDS = 10.0


class Console:
    """The listening end of a console socket, and the terminal that came through it."""

    def __init__(self, container: Container) -> None:
        self.path = str(container.directory / "tty")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(1)
        self._socket.settimeout(TIMEOUT_SECONDS)
        self.master = -1

    def receive(self) -> int:
        """The master that the runtime sent."""
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(TIMEOUT_SECONDS)
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
        received = array.array("i", ancillary[0][2])
        self.master = received[0]
        os.set_blocking(self.master, False)
        return self.master

    def read_until(self, text: str) -> str:
        """What was written to the terminal, up to *text*."""
        seen = b""

        def has_it() -> bool:
            nonlocal seen
            with suppress(OSError):  # nothing there yet, or nobody who holds the other end
                seen += os.read(self.master, 4096)
            return text.encode() in seen

        wait.until(has_it, TIMEOUT_SECONDS, f"{text!r} on the terminal")
        return seen.decode()

    def close(self) -> None:
        self._socket.close()
        if self.master >= 0:
            os.close(self.master)


@pytest.fixture
def console(container: Container) -> Iterator[Console]:
    made = Console(container)
    yield made
    made.close()


def create_with_terminal(container: Container, console: Console, script: str) -> None:
    container.process["terminal"] = True
    container.create(script, "--console-socket", console.path)
    console.receive()


def test_the_terminal_is_sent_and_is_the_containers_streams(container: Container, console: Console) -> None:
    create_with_terminal(container, console, 'tty; test -t 0 && test -t 1 && test -t 2 && echo "three"; ls /dev/console')
    container.start()
    assert container.wait() == 0
    assert console.read_until("/dev/console").splitlines() == ["/dev/pts/0", "three", "/dev/console"]


def test_the_terminal_is_the_controlling_one(container: Container, console: Console) -> None:
    create_with_terminal(container, console, 'trap "echo interrupted; exit 3" INT; echo ready; while :; do sleep 0.05; done')
    container.start()
    console.read_until("ready")
    os.write(console.master, b"\x03")
    console.read_until("interrupted")
    assert container.wait() == 3


def test_what_is_typed_is_read(container: Container, console: Console) -> None:
    create_with_terminal(container, console, "read line; echo got $line")
    container.start()
    os.write(console.master, b"something\n")
    console.read_until("got something")
    assert container.wait() == 0


def test_the_terminal_begins_with_the_size_that_is_given(container: Container, console: Console) -> None:
    container.process["consoleSize"] = {"height": 33, "width": 99}
    create_with_terminal(container, console, "stty size")
    assert struct.unpack("HHHH", ioctl(console.master, termios.TIOCGWINSZ, bytes(8)))[:2] == (33, 99)
    container.start()
    console.read_until("33 99")
    container.wait()


def test_an_exec_has_a_terminal_of_its_own(container: Container, console: Console) -> None:
    container.launch("sleep 100")
    file = container.directory / "exec.pid"
    container.exec("tty; sleep 100", "--tty", "--detach", "--console-socket", console.path, "--pid-file", str(file))
    container.pids.append(int(file.read_text()))
    console.receive()
    assert "/dev/pts/0" in console.read_until("/dev/pts/0")


def test_a_terminal_without_a_console_socket_is_refused(container: Container) -> None:
    container.process["terminal"] = True
    assert container.create("true", expect=None).code != 0
    assert not container.exists()


def test_a_console_socket_without_a_terminal_is_refused(container: Container, console: Console) -> None:
    assert container.create("true", "--console-socket", console.path, expect=None).code != 0
    assert not container.exists()


def test_descriptors_are_handed_on_when_it_is_asked(container: Container) -> None:
    """From a shell, which can give them their numbers."""
    text = container.directory / "text"
    text.write_text("handed on\n")
    container.set_program("cat <&3; ls /proc/self/fd")
    container.save()
    shell = container.shell(
        "run", "--preserve-fds", "1", "--bundle", str(container.bundle), container.id, redirect=f"3<{text} 4<{text}"
    )
    assert shell.lines == ["handed on", "0", "1", "2", "3", "4"]
    assert shell.code == 0


def test_listen_fds_are_handed_on(container: Container) -> None:
    text = container.directory / "text"
    text.write_text("handed on\n")
    container.set_program("cat <&3; cat <&4; echo $LISTEN_FDS")
    container.save()
    shell = container.shell("run", "--bundle", str(container.bundle), container.id, redirect=f"3<{text} 4<{text}", LISTEN_FDS="2")
    assert shell.lines == ["handed on", "handed on", "2"]


def test_more_may_be_handed_on_than_there_are(container: Container) -> None:
    text = container.directory / "text"
    text.write_text("handed on\n")
    container.set_program("cat <&3; ls /proc/self/fd")
    container.save()
    shell = container.shell("run", "--preserve-fds", "20", "--bundle", str(container.bundle), container.id, redirect=f"3<{text}")
    assert shell.lines == ["handed on", "0", "1", "2", "3", "4"]
