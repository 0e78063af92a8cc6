"""A procfs of our own, by descriptor: what is written through it reaches the kernel, whatever is mounted on /proc.

Images and volumes have put files of their own, or other files of procfs, where a runtime expected
/proc/self/attr or /proc/sys (CVE-2019-16884, CVE-2025-52881).  A mount that is in no mount table
cannot be covered, and a path below it is opened without leaving it.
"""

from __future__ import annotations

import errno
import os
from functools import cache

from kernel import mount
from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd, open_path

#: The inode of a procfs' root directory (PROC_ROOT_INO, linux/proc_fs.h).
ROOT_INODE = 1
#: How often a change elsewhere may make the kernel ask us to try again (openat2(2), EAGAIN).
ATTEMPTS = 128


def open_procfs() -> Fd:
    """A procfs for the caller's pid namespace: a new one; where that is forbidden a copy of the mount at /proc without
    what is mounted on it; at last /proc itself.  Each is seen to be the root of a procfs; raises OSError otherwise.

    It shows everything, /proc/sys too: whoever is given it must close it before the container's program runs.
    """
    attributes = lib.MOUNT_ATTR_NOSUID | lib.MOUNT_ATTR_NODEV | lib.MOUNT_ATTR_NOEXEC
    for kind in ("new", "copy"):
        try:
            file = mount.new_filesystem("proc", attributes=attributes) if kind == "new" else mount.clone_tree("/proc")
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL):
                raise
            continue
        return _verified(file)
    return _verified(open_path("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))


def share_procfs() -> Fd:
    """``open_procfs``, of one that this process keeps: 1 us for each, not 60.

    Not across a change of user namespace: it is not asked again what may be had.
    """
    return _kept().duplicate()


@cache
def _kept() -> Fd:
    return open_procfs()


def open_below(procfs: Fd, path: str, flags: int) -> Fd:
    """Open *path* (``self/attr/exec``) below *procfs*, over no magic link and no mount; raises OSError."""
    how = ffi.new("struct open_how *")
    how.flags = flags | os.O_CLOEXEC | os.O_NOCTTY
    how.resolve = lib.RESOLVE_BENEATH | lib.RESOLVE_NO_MAGICLINKS | lib.RESOLVE_NO_XDEV
    for _ in range(ATTEMPTS):
        result = lib.linux_openat2(procfs.fileno(), os.fsencode(path), how, ffi.sizeof("struct open_how"))
        if result >= 0 or ffi.errno not in (errno.EAGAIN, errno.EINTR):
            break
    return Fd(check(result, "openat2", f"/proc/{path}"))


def _verified(file: Fd) -> Fd:
    """*file*, which is the root of a procfs; otherwise it is closed and OSError raised."""
    try:
        kind = check(lib.linux_statfs_type(file.fileno()), "fstatfs", "/proc")
        if kind != lib.PROC_SUPER_MAGIC or os.fstat(file.fileno()).st_ino != ROOT_INODE:
            raise OSError(errno.EXDEV, "not the root of a procfs: something is mounted over it", "/proc")
    except BaseException:
        file.close()
        raise
    return file
