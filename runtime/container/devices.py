"""Device nodes of this host, by path: one node, or every one below a directory."""

from __future__ import annotations

import os
import stat

from runtime.errors import HostPathNotFound, InvalidArgument
from runtime.spec import schema

#: Below /dev, but of one mount namespace or one terminal: never handed on with a whole directory.
_NEVER = frozenset({"pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"})


def find_devices(path: str) -> list[schema.Device]:
    """The device at *path*, or all below it when it is a directory, under their paths on the host.

    A symlink is followed at *path* only: below a directory it is a second name of a node that is
    found anyway.  Raises HostPathNotFound, and InvalidArgument for what is neither device nor directory.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise HostPathNotFound(f"device {path}: {(error.strerror or str(error)).lower()}") from None
    if stat.S_ISDIR(status.st_mode):
        return sorted(_below(path), key=lambda device: device.path)
    device = _device(path, status)
    if device is None:
        raise InvalidArgument(f"device {path}: neither a device node nor a directory")
    return [device]


def _below(directory: str) -> list[schema.Device]:
    found: list[schema.Device] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name in _NEVER:
                continue
            if entry.is_dir(follow_symlinks=False):
                found += _below(entry.path)
            elif (device := _device(entry.path, entry.stat(follow_symlinks=False))) is not None:
                found.append(device)
    return found


def _device(path: str, status: os.stat_result) -> schema.Device | None:
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    return schema.Device(
        path=path,
        type=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )
