"""Mounts by descriptor: the new mount API (Linux 5.2; mount_setattr 5.12), and pivot_root.

A mount is first *detached* (``clone_tree``, ``new_filesystem``): a descriptor that is in no mount
table.  Attributes are set on it there, and ``attach`` puts it into a tree last, ready at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd

PROPAGATION = {
    "private": lib.MS_PRIVATE,
    "slave": lib.MS_SLAVE,
    "shared": lib.MS_SHARED,
    "unbindable": lib.MS_UNBINDABLE,
}


def clone_tree(path: Path | str, *, recursive: bool = False, directory: Fd | None = None) -> Fd:
    """A detached copy of the mount at *path*, as for a bind mount; with *recursive*, of those below it too.

    With *directory* and an empty path, of the mount that descriptor is on.
    """
    flags = lib.OPEN_TREE_CLONE | lib.OPEN_TREE_CLOEXEC | (lib.AT_RECURSIVE if recursive else 0)
    base = lib.AT_FDCWD if directory is None else directory.fileno()
    if directory is not None and not str(path):
        flags |= lib.AT_EMPTY_PATH
    return Fd(check(lib.open_tree(base, os.fsencode(path), flags), "open_tree", path))


def new_filesystem(kind: str, options: Iterable[tuple[str, str | None] | str] = (), *, attributes: int = 0) -> Fd:
    """A detached new mount of file system type *kind* (fsopen, fsconfig, fsmount).

    An option is a flag or a (key, value) pair.  Raises OSError naming the option that was refused.
    """
    with Fd(check(lib.fsopen(kind.encode(), lib.FSOPEN_CLOEXEC), "fsopen", kind)) as context:
        for option in options:
            key, value = (option, None) if isinstance(option, str) else option
            if value is None:
                result = lib.fsconfig(context.fileno(), lib.FSCONFIG_SET_FLAG, key.encode(), ffi.NULL, 0)
            else:
                result = lib.fsconfig(context.fileno(), lib.FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)
            check(result, "fsconfig", f"{kind} option {key}" + ("" if value is None else f"={value}"))
        check(lib.fsconfig(context.fileno(), lib.FSCONFIG_CMD_CREATE, ffi.NULL, ffi.NULL, 0), "fsconfig", kind)
        return Fd(check(lib.fsmount(context.fileno(), lib.FSMOUNT_CLOEXEC, attributes), "fsmount", kind))


def set_attributes(
    mount: Fd,
    *,
    add: int = 0,
    clear: int = 0,
    propagation: str | None = None,
    user_namespace: Fd | None = None,
    recursive: bool = False,
) -> None:
    """Add and clear MOUNT_ATTR_* flags on *mount*; with *recursive*, on all below it in one step.

    mount(2) would apply "ro" to the topmost mount only and leave submounts writable.  With *user_namespace* the owners
    of files are seen through its maps; OSError (EINVAL) from a file system that cannot do that, or where it is done.
    """
    attributes = ffi.new("struct mount_attr *")
    attributes.attr_set, attributes.attr_clr = add, clear
    attributes.propagation = PROPAGATION[propagation] if propagation else 0
    if user_namespace is not None:
        attributes.attr_set |= lib.MOUNT_ATTR_IDMAP
        attributes.userns_fd = user_namespace.fileno()
    flags = lib.AT_EMPTY_PATH | (lib.AT_RECURSIVE if recursive else 0)
    check(lib.mount_setattr(mount.fileno(), b"", flags, attributes, ffi.sizeof("struct mount_attr")), "mount_setattr")


def attach(mount: Fd, target: Path | str | Fd) -> None:
    """Put a detached *mount* at *target*, a path of ours or an O_PATH descriptor."""
    if isinstance(target, Fd):
        flags = lib.MOVE_MOUNT_F_EMPTY_PATH | lib.MOVE_MOUNT_T_EMPTY_PATH
        check(lib.move_mount(mount.fileno(), b"", target.fileno(), b"", flags), "move_mount")
        return
    result = lib.move_mount(mount.fileno(), b"", lib.AT_FDCWD, os.fsencode(target), lib.MOVE_MOUNT_F_EMPTY_PATH)
    check(result, "move_mount", target)


def bind(source: Path | str, target: Path | str, *, read_only: bool = False, recursive: bool = True) -> None:
    """Bind *source* onto *target*; read-only reaches every mount below when *recursive*."""
    with clone_tree(source, recursive=recursive) as mount:
        if read_only:
            set_attributes(mount, add=lib.MOUNT_ATTR_RDONLY, recursive=recursive)
        attach(mount, target)


def set_propagation(target: Path | str, propagation: str, *, recursive: bool = False) -> None:
    """Make the mount at *target* private, slave, shared or unbindable."""
    flags = PROPAGATION[propagation] | (lib.MS_REC if recursive else 0)
    check(lib.mount(ffi.NULL, os.fsencode(target), ffi.NULL, flags, ffi.NULL), "mount", target)


def unmount(target: Path | str, *, detach: bool = True) -> None:
    """Unmount *target*, not following a final symlink; *detach* lets open files live on."""
    check(lib.umount2(os.fsencode(target), lib.UMOUNT_NOFOLLOW | (lib.MNT_DETACH if detach else 0)), "umount2", target)


def pivot_root(new_root: Path | str, put_old: Path | str) -> None:
    """Make *new_root* the root of this mount namespace (pivot_root(2))."""
    check(lib.linux_pivot_root(os.fsencode(new_root), os.fsencode(put_old)), "pivot_root", new_root)
