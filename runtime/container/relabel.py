"""SELinux labels for the files of a volume, where a kubelet asks for them: a container may only touch what is labelled for it.

Containers may be at work in the volume meanwhile: what is walked is held by descriptor, and no link is followed.
"""

from __future__ import annotations

import errno
import os

from runtime.errors import HostPathNotFound, InvalidSpec

ATTRIBUTE = "security.selinux"

#: Other labels for these would keep the node itself from its files (as go-selinux has them).
EXCLUDED = frozenset(
    {
        *("/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64", "/media"),
        *("/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log"),
    }
)


def relabel(path: str, label: str) -> None:
    """Give the file or directory at *path*, and all below it, the label *label*.

    A file system without labels has none to be changed.  Raises HostPathNotFound; InvalidSpec for what the node itself needs.
    """
    place = os.path.realpath(path)
    if place in EXCLUDED:
        raise InvalidSpec(f"selinux_relabel: {path}: the node needs the labels of {place} as they are")
    value = label.encode()
    try:
        _set(place, value)
        for _, directories, files, here in os.fwalk(place, follow_symlinks=False):
            for name in (*directories, *files):
                _set(f"/proc/self/fd/{here}/{name}", value)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HostPathNotFound(f"selinux_relabel: {path}: {(error.strerror or str(error)).lower()}") from error


def _set(path: str, label: bytes) -> None:
    try:
        os.setxattr(path, ATTRIBUTE, label, follow_symlinks=False)
    except FileNotFoundError:
        if not path.startswith("/proc/self/fd/"):
            raise  # else it was removed meanwhile
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
