"""What a layer takes from the layers below it, once it is known which those are.

An archive may leave out the entry of a directory that holds its files; such a directory keeps the
owner and mode it has below (containerd's parallel unpack loses them).  And it may hold a hard link to a
file of a lower layer, which is copied up here, as overlayfs would do at the first write.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel.fd import Fd, open_path
from kernel.resolve import open_in_root
from runtime.errors import ImagePullFailed, LayerRefused
from runtime.image.attributes import NODE_FAILURES, OPAQUE, is_whiteout, look, shown
from runtime.image.layer import Applied, LowerLink
from runtime.image.parents import clean, join

#: overlayfs' own attributes describe the layer they are in and are never copied.
OVERLAY_PREFIX = "trusted.overlay."


@dataclass(frozen=True, slots=True)
class _Found:
    """Something in one layer: its directory, name and status."""

    parent: Fd
    name: bytes
    status: os.stat_result

    def path(self) -> bytes:
        return b"/proc/self/fd/%d/%s" % (self.parent.fileno(), self.name)


def complete(layer: Path, applied: Applied, lower: Sequence[Path]) -> None:
    """Finish *layer* by what is below it; *lower* is topmost first and already cut at an opaque root.

    Raises LayerRefused when a hard link's target is in no layer.
    """
    with open_path(layer, os.O_RDONLY | os.O_DIRECTORY) as root:
        try:
            for link in applied.lower_links:
                _copy_up(root, link, [layer, *lower])
            for path in reversed(applied.implicit):  # the deepest first: making a time last touches nothing above
                _inherit(root, path, layer, lower)
        except OSError as error:
            kind = ImagePullFailed if error.errno in NODE_FAILURES else LayerRefused
            raise kind(f"complete the layer: {(error.strerror or str(error)).lower()}") from error


def _inherit(root: Fd, path: bytes, layer: Path, lower: Sequence[Path]) -> None:
    with open_in_root(root, path or b"/", os.O_RDONLY | os.O_DIRECTORY, follow=False) as directory:
        found = _find(path, [layer, *lower], skip_first=True) if lower else None
        if found is None or not stat.S_ISDIR(found.status.st_mode):
            os.chown(directory.fileno(), 0, 0)
            os.chmod(directory.fileno(), 0o755)
            return
        with found.parent:
            _copy_attributes(found, directory.fileno())


def _copy_up(root: Fd, link: LowerLink, layers: Sequence[Path]) -> None:
    what = f"entry {shown(link.path)}: a hard link to {shown(link.target)}"
    *above, name = clean(link.path)
    target = [part for part in link.target.split(b"/") if part not in (b"", b".")]
    found = None if b".." in target else _find(join(target), layers)
    if found is None:
        raise LayerRefused(f"{what}, which is not in the image")
    with found.parent, open_in_root(root, join(above) or b"/", os.O_RDONLY | os.O_DIRECTORY) as parent:
        before = os.fstat(parent.fileno())
        if look(parent, name) is not None:
            return
        if stat.S_ISLNK(found.status.st_mode):
            os.symlink(os.readlink(found.name, dir_fd=found.parent.fileno()), name, dir_fd=parent.fileno())
            os.chown(name, found.status.st_uid, found.status.st_gid, dir_fd=parent.fileno(), follow_symlinks=False)
        elif stat.S_ISREG(found.status.st_mode):
            _copy_file(found, parent, name)
        else:
            raise LayerRefused(f"{what}, which is no file in the layer below")
        os.utime(parent.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))


def _copy_file(found: _Found, parent: Fd, name: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with (
        open_path(os.fsdecode(found.name), os.O_RDONLY | os.O_NOFOLLOW, directory=found.parent) as source,
        Fd(os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=parent.fileno())) as made,
    ):
        while os.sendfile(made.fileno(), source.fileno(), None, 1 << 24):
            pass
        _copy_attributes(found, made.fileno())


def _copy_attributes(found: _Found, number: int) -> None:
    status = found.status
    os.chown(number, status.st_uid, status.st_gid)
    source = found.path()
    for name in os.listxattr(source, follow_symlinks=False):
        if not name.startswith(OVERLAY_PREFIX):
            os.setxattr(number, name, os.getxattr(source, name, follow_symlinks=False))
    os.chmod(number, stat.S_IMODE(status.st_mode))
    os.utime(number, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _find(path: bytes, layers: Sequence[Path], *, skip_first: bool = False) -> _Found | None:
    """*path* as the stack of *layers* shows it, symlinks on the way not followed; with *skip_first*, from below the first."""
    for number, layer in enumerate(layers):
        found, ends = _find_in(path.split(b"/") if path else [], layer)
        if found is not None and not (skip_first and number == 0):
            return found
        if found is not None:
            found.parent.close()
        if ends:
            return None
    return None


def _find_in(parts: list[bytes], layer: Path) -> tuple[_Found | None, bool]:
    """*parts* in one layer, and whether what this layer has there hides the layers below."""
    here, hides = open_path(layer, os.O_RDONLY | os.O_DIRECTORY), False
    if not parts:
        return _Found(here, b".", os.fstat(here.fileno())), False
    for part in parts[:-1]:
        status = look(here, part)
        if status is None or not stat.S_ISDIR(status.st_mode):
            here.close()
            return None, hides or status is not None
        with here:
            here = open_path(os.fsdecode(part), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, directory=here)
        hides = hides or _is_opaque(here.fileno())
    status = look(here, parts[-1])
    if status is None or is_whiteout(status):
        here.close()
        return None, hides or status is not None
    found = _Found(here, parts[-1], status)
    return found, hides or not stat.S_ISDIR(status.st_mode) or _is_opaque(found.path())


def _is_opaque(directory: int | bytes) -> bool:
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False
