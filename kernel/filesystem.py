"""A whole file system at once (syncfs), and a whole tree below a directory (copy, removal)."""

from __future__ import annotations

import errno
import os
import stat

from kernel._linux import ffi, lib
from kernel.errors import check, failure
from kernel.fd import Fd, open_path

#: Directories deeper than this are moved up before they are emptied: a tree may be nested deeper
#: than a process may hold descriptors, and deeper than a path can say.
DEPTH = 64


def sync(directory: Fd) -> None:
    """Write everything of the file system that *directory* is on to its disk (syncfs(2)).

    Since Linux 5.8 a write-back error of any file there is reported here.
    """
    check(lib.syncfs(directory.fileno()), "syncfs")


def is_procfs(file: Fd) -> bool:
    """Whether *file* is on a procfs, by the file system's own number: a volume can have any name and any content."""
    return bool(check(lib.linux_statfs_type(file.fileno()), "fstatfs") == lib.PROC_SUPER_MAGIC)


def is_devpts(file: Fd) -> bool:
    """Whether *file* is on a devpts."""
    return bool(check(lib.linux_statfs_type(file.fileno()), "fstatfs") == lib.DEVPTS_SUPER_MAGIC)


def copy_tree(source: Fd, target: Fd, depth: int = 0) -> None:
    """Copy all that is in the directory *source* into the empty directory *target*, owners, modes, times and all.

    Works by descriptors and follows no symlink; what is mounted inside is copied too.  A file with several names
    becomes several files.  Raises OSError: ENOSPC when *target* is full, ENAMETOOLONG for a tree that is too deep.
    """
    if depth > DEPTH:
        raise OSError(errno.ENAMETOOLONG, f"more than {DEPTH} directories deep")
    with os.scandir(source.fileno()) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        status = os.stat(name, dir_fd=source.fileno(), follow_symlinks=False)
        _copy_one(source, target, name, status, depth)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target.fileno(), follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):  # after the owner, which takes setuid away
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target.fileno())
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target.fileno(), follow_symlinks=False)


def _copy_one(source: Fd, target: Fd, name: str, status: os.stat_result, depth: int) -> None:
    """The thing itself and its content, not yet its owner, mode and times."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source.fileno()), name, dir_fd=target.fileno())
    elif stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=target.fileno())
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        with open_path(name, flags, directory=source) as inner, open_path(name, flags, directory=target) as copy:
            copy_tree(inner, copy, depth + 1)
    elif stat.S_ISREG(status.st_mode):
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with (
            open_path(name, os.O_RDONLY | os.O_NOFOLLOW, directory=source) as file,
            open_path(name, new, 0o600, directory=target) as copy,
        ):
            while os.sendfile(copy.fileno(), file.fileno(), None, 1 << 24):
                pass
            _copy_attributes(file, copy)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target.fileno())


def _copy_attributes(file: Fd, copy: Fd) -> None:
    """Extended attributes, file capabilities among them; those that the target's file system does not have are left out."""
    for attribute in os.listxattr(file.fileno()):
        try:
            os.setxattr(copy.fileno(), attribute, os.getxattr(file.fileno(), attribute))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise


def remove_tree(parent: Fd, name: str | bytes) -> int:
    """Remove *name* below *parent* with all it contains; returns how many inodes went, 0 if it was not there.

    Works by descriptors, follows no symlink, and stops with OSError (EXDEV) at a mount point: what
    is mounted inside is not ours to delete.
    """
    base = os.fsencode(name)
    try:
        found = os.stat(base, dir_fd=parent.fileno(), follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(base, dir_fd=parent.fileno())
            return 1
        with _open_directory(parent, base) as top:
            removal = _Removal(top)
            removal.run()
        os.rmdir(base, dir_fd=parent.fileno())
    except FileNotFoundError:
        return 0
    return removal.count + 1


class _Removal:
    def __init__(self, top: Fd) -> None:
        self._top = top
        self._moved = 0
        self._prefix = b".moved-%s-" % os.urandom(8).hex().encode()  # in nobody's way: an empty directory would be replaced
        self.count = 0

    def run(self) -> None:
        """Empty the top, until nothing was moved up into it any more."""
        moved = -1
        while moved != self._moved:
            moved = self._moved
            self._empty(self._top, 0)

    def _empty(self, directory: Fd, depth: int) -> None:
        with os.scandir(directory.fileno()) as entries:
            found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in found:
            if not is_directory:
                os.unlink(name, dir_fd=directory.fileno())
            elif depth >= DEPTH:
                self._move_up(directory, name)
                continue
            else:
                with _open_directory(directory, name) as inner:
                    self._empty(inner, depth + 1)
                os.rmdir(name, dir_fd=directory.fileno())
            self.count += 1

    def _move_up(self, directory: Fd, name: bytes) -> None:
        while True:
            self._moved += 1
            try:
                os.rename(name, self._prefix + b"%d" % self._moved, src_dir_fd=directory.fileno(), dst_dir_fd=self._top.fileno())
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise


def _open_directory(parent: Fd, name: bytes) -> Fd:
    """The directory *name*, itself no symlink and on the same mount as *parent* (RESOLVE_NO_XDEV)."""
    how = ffi.new("struct open_how *")
    how.flags = lib.O_RDONLY | lib.O_DIRECTORY | lib.O_CLOEXEC | lib.O_NOFOLLOW
    how.resolve = lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_NO_XDEV
    result = lib.linux_openat2(parent.fileno(), name, how, ffi.sizeof("struct open_how"))
    if result < 0:
        raise failure(ffi.errno, "openat2", name)
    return Fd(result)
