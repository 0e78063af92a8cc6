"""A container's log file: only whole entries stay in it, also when its disk is full; then what is lost is counted.

A disk that hangs is another matter: see ``disk``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from kernel.fd import Fd, open_path


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries are being lost, because of *error*; or, when that is empty, so many were, and now are not any more."""

    error: str
    lines: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Hang:
    """The disk that the logs of these processes are on does not answer; or does again, after so many *seconds*."""

    ids: list[str]
    seconds: int = 0


class LogFile:
    """An open log file that only this process appends to; *tell* hears when entries begin and cease to be lost."""

    def __init__(self, file: Fd | None, tell: Callable[[Gap], None] | None = None) -> None:
        self._tell = tell or (lambda _: None)
        self.lost_lines = self.lost_bytes = 0
        self.replace(file)

    def replace(self, file: Fd | None) -> None:
        """Go on in *file*; None means that nothing is kept and the container is only drained."""
        self._file = file
        status = None if file is None else os.fstat(file.fileno())
        self.size, self.inode = (status.st_size, status.st_ino) if status else (0, 0)

    def append(self, content: bytes) -> None:
        """Append the entries in *content*.

        On a full disk those that do not fit are dropped and counted: the container must be drained all the same.
        """
        if self._file is None:
            return
        begun, view = self.size, memoryview(content)
        while view:
            try:
                written = os.write(self._file.fileno(), view)
            except OSError as error:
                self._lose(content, begun, error)
                return
            self.size += written
            view = view[written:]
        if self.lost_lines:
            gap = Gap("", self.lost_lines, self.lost_bytes)
            self.lost_lines = self.lost_bytes = 0
            self._tell(gap)

    def _lose(self, content: bytes, begun: int, error: OSError) -> None:
        """Keep the whole entries of *content* that were written from *begun* on, and count the others."""
        kept = content.rfind(b"\n", 0, self.size - begun) + 1
        self.cut(begun + kept)
        is_first = not self.lost_lines
        self.lost_lines += content.count(b"\n", kept)
        self.lost_bytes += len(content) - kept
        if is_first:
            self._tell(Gap((error.strerror or str(error)).lower()))

    def cut(self, size: int) -> None:
        """Take back what was appended beyond *size*."""
        if self._file is not None and self.size > size:
            os.ftruncate(self._file.fileno(), size)
            self.size = size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def find_by_inode(directory: Fd, inode: int) -> LogFile | None:
    """The log with that *inode* in *directory*, where it may have another name by now; None when it is not there."""
    with os.scandir(directory.fileno()) as entries:
        names = [entry.name for entry in entries if entry.inode() == inode]
    for name in names:
        try:
            with open_path(name, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, directory=directory) as file:
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode) and status.st_ino == inode:
                    return LogFile(Fd(file.detach()))
        except OSError:  # it went away, or is no log
            continue
    return None
