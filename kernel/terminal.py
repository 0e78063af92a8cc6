"""Pseudo-terminals, opened by descriptor from a devpts instance: no path of a container is followed."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd
from kernel.resolve import open_in_root

#: linux/magic.h
DEVPTS_SUPER_MAGIC = 0x1CD1


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


def find_devpts(root: Fd) -> Fd:
    """The devpts on /dev/pts of a running container whose root is *root*; raises OSError (ENODEV) when that is another thing."""
    directory = open_in_root(root, "/dev/pts", os.O_PATH | os.O_DIRECTORY)
    if check(lib.linux_statfs_type(directory.fileno()), "fstatfs", "/dev/pts") != DEVPTS_SUPER_MAGIC:
        directory.close()
        raise OSError(errno.ENODEV, "not a devpts", "/dev/pts")
    return directory


def open_terminal(devpts: Fd) -> Terminal:
    """A new terminal of the devpts mount *devpts*; the slave by TIOCGPTPEER (Linux 4.13), never by its path."""
    master = _open_ptmx(devpts)
    try:
        fcntl.ioctl(master.fileno(), lib.TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("I", fcntl.ioctl(master.fileno(), lib.TIOCGPTN, bytes(4)))[0]
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        slave = Fd(check(lib.ioctl(master.fileno(), lib.TIOCGPTPEER, ffi.cast("int", flags)), "ioctl", "TIOCGPTPEER"))
    except BaseException:
        master.close()
        raise
    return Terminal(master, slave, str(number))


def find_slave(devpts: Fd, name: str) -> Fd:
    """The terminal *name* of *devpts*, open with O_PATH: what can be bound elsewhere, and neither read nor written."""
    return _open(devpts, name, lib.O_PATH)


def _open_ptmx(devpts: Fd) -> Fd:
    return _open(devpts, "ptmx", lib.O_RDWR | lib.O_NOCTTY)


def _open(devpts: Fd, name: str, flags: int) -> Fd:
    """What *devpts* itself has by that name: in a container that runs, something else may be mounted upon it."""
    how = ffi.new("struct open_how *")
    how.flags = flags | lib.O_CLOEXEC
    how.resolve = lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_NO_XDEV
    return Fd(check(lib.linux_openat2(devpts.fileno(), os.fsencode(name), how, ffi.sizeof("struct open_how")), "openat2", name))


def set_window_size(terminal: Fd, rows: int, columns: int) -> None:
    """Tell *terminal* its size in characters."""
    fcntl.ioctl(terminal.fileno(), lib.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
