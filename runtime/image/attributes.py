"""Owner, extended attributes, mode and times of what a layer made, in the one order that keeps them.

chown(2) clears set-id bits and file capabilities, so it comes first; times come last because all
else touches them.
"""

from __future__ import annotations

import errno
import os
import stat

from kernel.fd import Fd
from runtime.errors import ImagePullFailed, LayerRefused
from runtime.image.tar import Entry

OPAQUE = "trusted.overlay.opaque"

#: Failures of the node rather than of the archive.
NODE_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

HINTS = {
    errno.EPERM: "; the daemon needs root and its capabilities to unpack this",
    errno.ENOTDIR: "; another entry of the layer is a file where this one wants a directory",
    errno.ELOOP: "; a symlink is in the way",
    errno.EMLINK: "; the file system allows no more hard links to one file",
}


def shown(name: bytes) -> str:
    """*name* as people may read it: quoted, cut, nothing unprintable."""
    return repr(name[:300].decode(errors="backslashreplace"))


def refusal(name: bytes, error: OSError) -> ImagePullFailed:
    """The exception for an entry that could not be made."""
    text = f"entry {shown(name)}: {(error.strerror or str(error)).lower()}"
    if error.errno in NODE_FAILURES:
        return ImagePullFailed(text)
    return LayerRefused(text + HINTS.get(error.errno or 0, ""))


def look(directory: Fd, name: bytes) -> os.stat_result | None:
    """lstat(2) of *name* in *directory*; None if nothing is there."""
    try:
        return os.stat(name, dir_fd=directory.fileno(), follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def set_opaque(directory: int) -> None:
    """Hide what lower layers have in *directory*, an O_PATH descriptor."""
    os.setxattr(f"/proc/self/fd/{directory}", OPAQUE, b"y")


def set_opaque_at(parent: Fd, name: bytes) -> None:
    os.setxattr(_by_name(parent, name), OPAQUE, b"y", follow_symlinks=False)


def set_on_file(number: int, entry: Entry, *, times: bool = True) -> None:
    """Give the open file or directory *number* what *entry* says."""
    os.chown(number, entry.uid, entry.gid)
    if entry.xattrs:
        _set_xattrs(number, entry, plain=True)
    os.chmod(number, entry.mode)
    if times:
        os.utime(number, ns=(entry.mtime_ns, entry.mtime_ns))


def set_at(parent: Fd, name: bytes, entry: Entry) -> None:
    """Give what is called *name* in *parent* what *entry* says, without opening it: a device reacts to open(2)."""
    os.chown(name, entry.uid, entry.gid, dir_fd=parent.fileno(), follow_symlinks=False)
    mode = os.stat(name, dir_fd=parent.fileno(), follow_symlinks=False).st_mode
    if entry.xattrs:
        _set_xattrs(_by_name(parent, name), entry, plain=stat.S_ISREG(mode))
    if not stat.S_ISLNK(mode):
        os.chmod(name, entry.mode, dir_fd=parent.fileno())
    os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent.fileno(), follow_symlinks=False)


def _set_xattrs(target: int | bytes, entry: Entry, *, plain: bool) -> None:
    """Set the archive's attributes, except overlayfs' own: a layer must not forge whiteouts or redirects."""
    for name, value in entry.xattrs.items():
        if name.startswith((b"trusted.overlay.", b"user.overlay.")):
            continue
        if not name or len(name) > 255 or b"\0" in name:
            raise LayerRefused(f"entry {shown(entry.name)}: extended attribute {shown(name)}")
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            # A file system without such attributes is no reason to refuse the image, and
            # "user." exists on files and directories only (xattr(7)).
            unusable = error.errno == errno.ENOTSUP or (error.errno == errno.EPERM and name.startswith(b"user.") and not plain)
            if not unusable:
                error.strerror = f"extended attribute {shown(name)}: {error.strerror}"
                raise


def _by_name(parent: Fd, name: bytes) -> bytes:
    """A path to *name* in *parent* for the xattr calls, which know no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (parent.fileno(), name)
