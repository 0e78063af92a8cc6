"""A descriptor has one owner and a scope.

``Fd`` closes itself; after ``close()`` its number is -1, because the kernel hands a closed number
out again at once and a stale integer would name somebody else's file.
"""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import Self

from kernel._linux import ffi, lib


class Fd:
    """An owned file descriptor.  Use it in ``with``, or give it away with ``detach()``."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The descriptor's number; raises ValueError once it is closed."""
        if self._number < 0:
            raise ValueError("descriptor is closed")
        return self._number

    def close(self) -> None:
        """Close it; a second call does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def detach(self) -> int:
        """Give the number away: the caller owns it from now on."""
        number, self._number = self.fileno(), -1
        return number

    def duplicate(self, minimum: int = 0) -> Fd:
        """A second descriptor of the same open file, close-on-exec, numbered *minimum* or higher."""
        return Fd(fcntl.fcntl(self.fileno(), fcntl.F_DUPFD_CLOEXEC, minimum))

    @property
    def is_open(self) -> bool:
        return self._number >= 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_number", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        if self._number < 0:
            return "Fd(closed)"
        try:
            return f"Fd({self._number} -> {os.readlink(f'/proc/self/fd/{self._number}')})"
        except OSError:
            return f"Fd({self._number})"


def open_path(path: os.PathLike[str] | str, flags: int = os.O_RDONLY, mode: int = 0o600, *, directory: Fd | None = None) -> Fd:
    """open(2) as an owned descriptor, always close-on-exec and never a controlling terminal.

    For paths that are ours; a path that comes from an image or a container goes through ``resolve``.
    """
    base = None if directory is None else directory.fileno()
    return Fd(os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, mode, dir_fd=base))


def pipe() -> tuple[Fd, Fd]:
    """A pipe: the end to read, the end to write; both close-on-exec."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return Fd(reader), Fd(writer)


def eventfd() -> Fd:
    """A counter of zero that a reader waits for (eventfd(2)); close-on-exec."""
    return Fd(os.eventfd(0, os.EFD_CLOEXEC))


def memory(name: str, content: bytes, *, seal: bool = True) -> Fd:
    """A memfd that holds *content*; sealed for good against writing and resizing when *seal* is set.

    A sealed memfd as /proc/PID/exe is what CVE-2019-5736 cannot overwrite.
    """
    with Fd(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)) as file:
        view = memoryview(content)
        while view:
            view = view[os.write(file.fileno(), view) :]
        if seal:
            seals = lib.F_SEAL_SEAL | lib.F_SEAL_SHRINK | lib.F_SEAL_GROW | lib.F_SEAL_WRITE
            fcntl.fcntl(file.fileno(), lib.F_ADD_SEALS, seals)
        return Fd(file.detach())


def take_from(pidfd: Fd, number: int) -> Fd:
    """A duplicate of descriptor *number* of the process behind *pidfd* (pidfd_getfd(2), Linux 5.6)."""
    from kernel.errors import check

    return Fd(check(lib.linux_pidfd_getfd(pidfd.fileno(), number, 0), "pidfd_getfd", f"descriptor {number}"))


def leave_table() -> None:
    """Give the calling thread a table of descriptors of its own, with 0 to 2 in it and nothing else (Linux 5.9).

    From then on a number means one file to this thread and another, or none, to all others: an ``Fd`` must be closed
    by the thread that opened it.  What is theirs is had by ``take_from`` a pidfd of the process.
    """
    from kernel.errors import check

    check(lib.linux_close_range(3, 0xFFFFFFFF, lib.CLOSE_RANGE_UNSHARE), "close_range")


def tee(source: Fd | int, target: Fd | int, length: int) -> int:
    """Copy up to *length* bytes from one pipe to another without consuming them; -1 when there are none now."""
    from errno import EAGAIN

    from kernel.errors import check

    left = source if isinstance(source, int) else source.fileno()
    right = target if isinstance(target, int) else target.fileno()
    result = lib.linux_tee(left, right, length, lib.SPLICE_F_NONBLOCK)
    if result < 0 and ffi.errno == EAGAIN:
        return -1
    return check(result, "tee")
