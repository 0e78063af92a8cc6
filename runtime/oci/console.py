"""The container's terminal: to the socket of whoever asked for it, or between our own terminal and the container's."""

from __future__ import annotations

import errno
import os
import select
from typing import Any

from kernel.fd import Fd
from kernel.terminal import Terminal, set_window_size
from runtime.errors import InvalidArgument
from runtime.oci.request import Request
from runtime.spec import schema

STDIN, STDOUT = 0, 1
PIECE = 1 << 16
#: What a terminal takes for the end of input.
END_OF_TRANSMISSION = b"\x04"


def check_request(request: Request, process: schema.Process, *, detached: bool) -> None:
    """Raise InvalidArgument when there is a terminal and nowhere to send it, or the other way round."""
    has_socket = request.flags.has("console-socket")
    if process.terminal and detached and not has_socket:
        raise InvalidArgument("cannot allocate tty if kernelet-oci will detach without setting console socket")
    if has_socket and not (process.terminal and detached):
        raise InvalidArgument("cannot use console socket if kernelet-oci will not detach or allocate tty")


def hand_over(request: Request, terminal: Terminal | None) -> None:
    """Send the terminal's master to --console-socket."""
    if terminal is not None:
        send_file(request.flags.text("console-socket"), "/dev/ptmx", terminal.master)


def send_file(path: str, name: str, file: Fd) -> None:
    """Send *file* over the Unix socket at *path*, with *name* as the message."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        try:
            there.connect(path)
            socket.send_fds(there, [name.encode()], [file.fileno()])
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error


def size_terminal(terminal: Terminal, process: schema.Process) -> None:
    """Give *terminal* the size that config.json asks for."""
    if process.console_size is not None:
        set_window_size(terminal.master, process.console_size.height, process.console_size.width)


def _change_output(number: int, *, add: int = 0, clear: int = 0) -> None:
    """Change how the terminal behind *number* treats what is written to it (termios(3), c_oflag)."""
    import termios

    modes = termios.tcgetattr(number)
    modes[1] = modes[1] & ~clear | add
    termios.tcsetattr(number, termios.TCSANOW, modes)


class Relay:
    """Between our terminal and the container's, for a container in the foreground; without one, nothing to do."""

    def __init__(self, terminal: Terminal | None) -> None:
        self._master = None if terminal is None else terminal.master.duplicate()
        self._input_open = self._master is not None
        self._saved: list[Any] | None = None

    def __enter__(self) -> Relay:
        if self._master is None:
            return self
        import termios
        import tty

        _change_output(self._master.fileno(), clear=termios.ONLCR)  # a line is to end as the program ends it, in a pipe too
        if os.isatty(STDIN):
            self._saved = termios.tcgetattr(STDIN)
            tty.setraw(STDIN)
            _change_output(STDIN, add=termios.OPOST)  # and ours begins the next one at the left
            self.resize()
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(STDIN, termios.TCSADRAIN, self._saved)
        if self._master is not None:
            self._master.close()

    def files(self) -> dict[int, int]:
        """Our input, until it ends, and the container's output, until it does."""
        found = {}
        if self._master is not None:
            found[self._master.fileno()] = select.POLLIN
            if self._input_open:
                found[STDIN] = select.POLLIN
        return found

    def serve(self, number: int) -> None:
        """Pass on what is there."""
        if self._master is None:  # its end came in this very round of polling
            return
        if number == STDIN:
            content = os.read(STDIN, PIECE)
            self._input_open = bool(content)
            _write_all(self._master.fileno(), content or END_OF_TRANSMISSION)
        elif not self._pass_output():
            self._master.close()
            self._master = None

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if self._master is not None and os.isatty(STDIN):
            columns, rows = os.get_terminal_size(STDIN)
            set_window_size(self._master, rows, columns)

    def finish(self) -> None:
        """The process has ended: pass on what it wrote last."""
        while self._master is not None and _is_ready(self._master) and self._pass_output():
            continue

    def _pass_output(self) -> bool:
        """False when there will be no more: nobody has the other end."""
        assert self._master is not None
        try:
            content = os.read(self._master.fileno(), PIECE)
        except OSError as error:
            if error.errno == errno.EIO:
                return False
            raise
        _write_all(STDOUT, content)
        return bool(content)


def _is_ready(file: Fd) -> bool:
    poller = select.poll()
    poller.register(file, select.POLLIN)
    return bool(poller.poll(0))


def _write_all(number: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(number, view) :]
