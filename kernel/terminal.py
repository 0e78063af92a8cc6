"""Pseudo-terminals, opened by descriptor from a devpts instance: no path of a container is followed."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd


@dataclass(slots=True)
class Terminal:
    """Both ends of a pseudo-terminal; *name* is the slave's name in its devpts ("0")."""

    master: Fd
    slave: Fd
    name: str

    def close(self) -> None:
        """Close both ends."""
        self.master.close()
        self.slave.close()


def open_terminal(devpts: Fd) -> Terminal:
    """A new terminal of the devpts mount *devpts*; the slave by TIOCGPTPEER (Linux 4.13), never by its path."""
    master = Fd(os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=devpts.fileno()))
    try:
        fcntl.ioctl(master.fileno(), lib.TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("I", fcntl.ioctl(master.fileno(), lib.TIOCGPTN, bytes(4)))[0]
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        slave = Fd(check(lib.ioctl(master.fileno(), lib.TIOCGPTPEER, ffi.cast("int", flags)), "ioctl", "TIOCGPTPEER"))
    except BaseException:
        master.close()
        raise
    return Terminal(master, slave, str(number))


def set_window_size(terminal: Fd, rows: int, columns: int) -> None:
    """Tell *terminal* its size in characters."""
    fcntl.ioctl(terminal.fileno(), lib.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
