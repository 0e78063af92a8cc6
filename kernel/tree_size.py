"""How much a tree of files takes on its file system, while somebody else may change it.

A container writes to its layer as it likes: it may nest directories deeper than a path can say or a process may hold
descriptors, and move them while they are looked at.  So two descriptors are held at a time, ".." is believed only
where it leads to the directory that was come from, and no symlink or mount is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd

#: What st_blocks counts in, whatever the file system's own blocks are (stat(2)).
BLOCK_BYTES = 512
#: A mount, a symlink or a file in its place, nothing; EAGAIN: something was moved at the same time.
_GONE = (errno.EXDEV, errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EAGAIN)


@dataclass(frozen=True, slots=True)
class TreeSize:
    """What is allocated on disk, and how many inodes; a file with several names counts once."""

    bytes: int
    inodes: int


@dataclass(slots=True)
class _Level:
    """A directory on the way down: who it is, and what is to be entered yet."""

    identity: tuple[int, int]
    pending: list[str]


@dataclass(slots=True)
class _Count:
    bytes: int = 0
    inodes: int = 0
    linked: set[tuple[int, int]] = field(default_factory=set)

    def add(self, status: os.stat_result) -> None:
        """Count an inode, unless it was counted under another name."""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in self.linked:
                return
            self.linked.add((status.st_dev, status.st_ino))
        self.bytes += status.st_blocks * BLOCK_BYTES
        self.inodes += 1


def measure(top: Fd, give_up: Callable[[], bool] = lambda: False) -> TreeSize | None:
    """The size of the directory *top* and all below it on the same mount; None when *give_up*, asked now and then, said so.

    What is moved away or removed meanwhile is counted or not.  Raises OSError when a directory cannot be read.
    """
    count = _Count()
    count.add(os.fstat(top.fileno()))
    here = top.duplicate()
    levels = [_enter(here, count)]
    try:
        while True:
            if give_up():
                return None
            level = levels[-1]
            if level.pending:
                inner = _open(here, level.pending.pop())
                if inner is not None:
                    here.close()
                    here = inner
                    levels.append(_enter(here, count))
                continue
            levels.pop()
            if not levels:
                return TreeSize(count.bytes, count.inodes)
            above = _climb(here, levels, top)
            here.close()
            here = above
    finally:
        here.close()


def _enter(directory: Fd, count: _Count) -> _Level:
    """Count what is in *directory*."""
    status = os.fstat(directory.fileno())
    pending = []
    with os.scandir(directory.fileno()) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            count.add(found)
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.name)
    return _Level((status.st_dev, status.st_ino), pending)


def _climb(here: Fd, levels: list[_Level], top: Fd) -> Fd:
    """The directory that *here* was entered from; where it was moved away from there, the top, and the rest is left out."""
    above = Fd(os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here.fileno()))
    status = os.fstat(above.fileno())
    if (status.st_dev, status.st_ino) == levels[-1].identity:
        return above
    above.close()
    del levels[1:]
    return top.duplicate()


def _open(parent: Fd, name: str) -> Fd | None:
    """The directory *name*; None when it is another mount, or gone, or no directory any more."""
    how = ffi.new("struct open_how *")
    how.flags = lib.O_RDONLY | lib.O_DIRECTORY | lib.O_CLOEXEC | lib.O_NOFOLLOW
    how.resolve = lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_NO_XDEV
    result = lib.linux_openat2(parent.fileno(), os.fsencode(name), how, ffi.sizeof("struct open_how"))
    if result < 0 and ffi.errno in _GONE:
        return None
    return Fd(check(result, "openat2", name))
