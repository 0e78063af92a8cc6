"""Resolve a guest's path inside its root and nowhere else (openat2(2), Linux 5.6).

A path string checked first and used later is the bug behind most container escapes of the last
years (fourteen in runc since 2017, LWN 1050887).  Here a path that came from an image or a
container becomes a descriptor in one kernel call that cannot leave *root*, and all further work is
done on that descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import lru_cache
from typing import Any

from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd

#: How often a rename elsewhere may make the kernel ask us to try again (openat2(2), EAGAIN).
ATTEMPTS = 128


def open_in_root(
    root: Fd, path: str | bytes, flags: int = os.O_PATH, mode: int = 0, *, follow: bool = True, links: bool = True
) -> Fd:
    """Open *path* with *root* as "/": symlinks, ".." and absolute links stay inside.

    Magic links (/proc/PID/fd/N) are refused always; *follow* false refuses a final symlink (unless
    O_PATH, which then opens the link itself); *links* false refuses every symlink on the way.
    Raises OSError with the path as the guest wrote it.
    """
    how, size = _how(flags, mode, follow, links)
    name = os.fsencode(path) or b"."
    for _ in range(ATTEMPTS):
        result = lib.linux_openat2(root.fileno(), name, how, size)
        if result >= 0 or ffi.errno not in (errno.EAGAIN, errno.EINTR):
            break
    return Fd(check(result, "openat2", path))


@lru_cache(64)
def _how(flags: int, mode: int, follow: bool, links: bool) -> tuple[Any, int]:
    """A struct open_how, which the kernel only reads, and its size."""
    how = ffi.new("struct open_how *")
    how.flags = flags | os.O_CLOEXEC | (0 if flags & os.O_PATH else os.O_NOCTTY) | (0 if follow else os.O_NOFOLLOW)
    how.mode = mode
    how.resolve = lib.RESOLVE_IN_ROOT | lib.RESOLVE_NO_MAGICLINKS | (0 if links else lib.RESOLVE_NO_SYMLINKS)
    return how, int(ffi.sizeof("struct open_how"))


def make_directories(root: Fd, path: str | bytes, mode: int = 0o755) -> Fd:
    """The directory at *path* inside *root*, made with its missing parents; an O_PATH descriptor.

    Existing parts follow symlinks inside the root; new parts are made one by one below a held
    descriptor, so a rename in between cannot move the work elsewhere (CVE-2024-45310).
    """
    parts = [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise OSError(errno.EINVAL, "a path to create must not contain '..'", os.fsdecode(path))
    for known in range(len(parts), -1, -1):
        try:
            here = open_in_root(root, b"/".join(parts[:known]) or b"/", os.O_PATH | os.O_DIRECTORY)
            break
        except FileNotFoundError:
            if known == 0:
                raise
    for part in parts[known:]:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, mode, dir_fd=here.fileno())
        deeper = open_in_root(here, part, os.O_PATH | os.O_DIRECTORY, follow=False)
        here.close()
        here = deeper
    return here


def make_file(root: Fd, path: str | bytes, mode: int = 0o644) -> Fd:
    """The file at *path* inside *root*, made empty with its missing parents if it is absent; an O_PATH descriptor."""
    raw = os.fsencode(path).rstrip(b"/")
    try:
        return open_in_root(root, raw)
    except FileNotFoundError:
        directory, _, name = raw.rpartition(b"/")
    with make_directories(root, directory or b"/") as parent:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent.fileno()))
        return open_in_root(parent, name, follow=False)


def is_directory(file: Fd) -> bool:
    """Whether the opened file is a directory."""
    return stat.S_ISDIR(os.fstat(file.fileno()).st_mode)


def read_in_root(root: Fd, path: str | bytes, limit: int) -> bytes:
    """The content of the regular file *path* inside *root*, at most *limit* bytes.

    Raises OSError (EFBIG) above the limit: an image may carry a passwd of any size (CVE-2026-47262); and EINVAL for
    what is no regular file, without opening it: to open a device is to do something to it (/dev/watchdog).
    """
    with open_in_root(root, path) as place:
        if not stat.S_ISREG(os.fstat(place.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        file = Fd(os.open(f"/proc/self/fd/{place.fileno()}", os.O_RDONLY | os.O_CLOEXEC))
    with file:
        content = bytearray()
        while len(content) <= limit:
            piece = os.read(file.fileno(), min(65536, limit + 1 - len(content)))
            if not piece:
                return bytes(content)
            content += piece
        raise OSError(errno.EFBIG, f"more than {limit} bytes", os.fsdecode(path))
