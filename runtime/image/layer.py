"""Apply one layer: a tar stream to a directory in the form that overlayfs stacks.

Nothing an archive says is used as a path.  Every parent becomes a descriptor by openat2(2) with the
layer's directory as root (kernel/resolve.py), and the last component is created below it without
following anything.  Names with ".." and hard links that leave the root are refused; a symlink keeps
its target, wherever it points, and is followed inside the root only.

Whiteouts become character devices 0:0 and opaque markers ``trusted.overlay.opaque``, in any order
with the content they stand beside.  What depends on the layers below (attributes of directories the
archive only implies, hard links to lower files) is reported and done later by ``inherit.complete``:
so layers can be unpacked independently and in parallel.
"""

from __future__ import annotations

import os
import stat

import msgspec

from kernel.fd import Fd
from kernel.filesystem import remove_tree
from kernel.resolve import open_in_root
from runtime.errors import ImagePullFailed, LayerRefused
from runtime.image import attributes
from runtime.image.attributes import OPAQUE, is_whiteout, look, set_opaque
from runtime.image.parents import Parents, clean, join, leaves_root
from runtime.image.tar import BLOCK_DEVICE, CHARACTER, DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Entry, TarReader

#: Space is counted in blocks of this size, as nearly every file system hands it out.
BLOCK_BYTES = 4096


class Limits(msgspec.Struct, frozen=True):
    """What one layer may become at most."""

    bytes: int = 128 << 30
    entries: int = 5_000_000


class LowerLink(msgspec.Struct, frozen=True):
    """A hard link to a file that is not in this layer: to be copied up from one below."""

    path: bytes
    target: bytes


class Applied(msgspec.Struct, frozen=True):
    """What became of a layer, and what is still to be done when the layers below are known."""

    size_bytes: int
    inodes: int
    implicit: tuple[bytes, ...]
    lower_links: tuple[LowerLink, ...]


def apply_layer(reader: TarReader, directory: Fd, limits: Limits) -> Applied:
    """Make *directory*, which is empty, the content of the archive.

    Raises LayerRefused naming the entry, and ImagePullFailed when the node is at fault (no space).
    """
    return _Layer(reader, directory, limits).run()


class _Layer:
    def __init__(self, reader: TarReader, directory: Fd, limits: Limits) -> None:
        self._reader = reader
        self._root = directory
        self._limits = limits
        self._parents = Parents(directory)
        self._times: dict[bytes, int] = {}
        self._lower_links: dict[bytes, bytes] = {}
        self._bytes = BLOCK_BYTES
        self._inodes = 1

    def run(self) -> Applied:
        implicit = self._parents.implicit
        implicit[b""] = None  # the root itself, until an entry names it
        with self._parents:
            for count, entry in enumerate(self._reader.entries(), 1):
                if count > self._limits.entries:
                    raise LayerRefused(f"more than {self._limits.entries} entries")
                try:
                    self._add(entry)
                except OSError as error:
                    raise attributes.refusal(entry.name, error) from error
            self._set_times()
        made = len(implicit) - (b"" in implicit)
        return Applied(
            size_bytes=self._bytes + made * BLOCK_BYTES,
            inodes=self._inodes + made,
            implicit=tuple(implicit),
            lower_links=tuple(LowerLink(path, target) for path, target in self._lower_links.items()),
        )

    def _add(self, entry: Entry) -> None:
        parts = clean(entry.name)
        if not parts:
            self._add_root(entry)
            return
        path, base = join(parts), parts[-1]
        if base.startswith(b".wh.") or any(part.startswith(b".wh.") for part in parts):
            self._add_marker(parts)
            return
        parent = self._parents.open(join(parts[:-1]))
        self._lower_links.pop(path, None)
        if entry.kind == DIRECTORY:
            self._add_directory(entry, parent, base, path)
        elif entry.kind == REGULAR:
            self._add_file(entry, parent, base, path)
        elif entry.kind == HARD_LINK:
            self._add_hard_link(entry, parent, base, path)
        else:
            self._add_node(entry, parent, base, path)

    def _add_root(self, entry: Entry) -> None:
        if entry.kind != DIRECTORY:
            raise LayerRefused(f"entry {attributes.shown(entry.name)}: the root must stay a directory")
        self._parents.implicit.pop(b"", None)
        attributes.set_on_file(self._root.fileno(), entry)
        self._times[b""] = entry.mtime_ns

    def _add_marker(self, parts: list[bytes]) -> None:
        """A whiteout or an opaque marker (image spec, layer.md); AUFS' own files (".wh..wh.") are left out."""
        *above, base = parts
        if base == b".wh..wh..opq" and not any(part.startswith(b".wh.") for part in above):
            parent = self._parents.open(join(above))
            set_opaque(parent.fileno())
            return
        if any(part.startswith(b".wh..wh.") for part in parts):
            return
        hidden = base.removeprefix(b".wh.")
        if hidden in (b"", b".", b"..") or not base.startswith(b".wh.") or any(part.startswith(b".wh.") for part in above):
            raise LayerRefused(f"entry {attributes.shown(join(parts))}: a whiteout of nothing")
        parent = self._parents.open(join(above))
        found = look(parent, hidden)
        if found is None:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent.fileno())
            self._inodes += 1
        elif stat.S_ISDIR(found.st_mode):
            attributes.set_opaque_at(parent, hidden)  # it hides what is below, not what this layer brings

    def _add_directory(self, entry: Entry, parent: Fd, base: bytes, path: bytes) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=parent.fileno())
            self._count(BLOCK_BYTES)
        except FileExistsError:
            found = look(parent, base)
            if found is None or not stat.S_ISDIR(found.st_mode):
                self._clear(parent, base, path)
                os.mkdir(base, 0o700, dir_fd=parent.fileno())
                self._count(BLOCK_BYTES)
                if found is not None and is_whiteout(found):
                    attributes.set_opaque_at(parent, base)
            elif path in self._parents.implicit:
                self._count(BLOCK_BYTES)
        self._parents.implicit.pop(path, None)
        with Fd(os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fileno())) as made:
            attributes.set_on_file(made.fileno(), entry, times=False)
        self._times[path] = entry.mtime_ns

    def _add_file(self, entry: Entry, parent: Fd, base: bytes, path: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._count(entry.size)
        try:
            number = os.open(base, flags, 0o600, dir_fd=parent.fileno())
        except FileExistsError:
            self._clear(parent, base, path)
            number = os.open(base, flags, 0o600, dir_fd=parent.fileno())
        try:
            for piece in self._reader.content():
                written = os.write(number, piece)
                while written < len(piece):
                    written += os.write(number, piece[written:])
            attributes.set_on_file(number, entry)
        finally:
            os.close(number)

    def _add_node(self, entry: Entry, parent: Fd, base: bytes, path: bytes) -> None:
        """A symlink, a device or a FIFO."""
        if entry.kind == CHARACTER and (entry.major, entry.minor) == (0, 0):
            raise LayerRefused(f"entry {attributes.shown(entry.name)}: character device 0:0 is overlayfs' own whiteout")
        for attempt in (1, 2):
            try:
                if entry.kind == SYMLINK:
                    os.symlink(entry.link, base, dir_fd=parent.fileno())
                else:
                    kind = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}.get(entry.kind, stat.S_IFIFO)
                    os.mknod(base, kind | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent.fileno())
                break
            except FileExistsError:
                if attempt == 2:
                    raise
                self._clear(parent, base, path)
        self._count(0)
        attributes.set_at(parent, base, entry)

    def _add_hard_link(self, entry: Entry, parent: Fd, base: bytes, path: bytes) -> None:
        """A second name.  Builders write absolute targets too; the root they mean is the image's."""
        if leaves_root(entry.link):
            why = f"a hard link to {attributes.shown(entry.link)}, which is outside the root"
            raise LayerRefused(f"entry {attributes.shown(entry.name)}: {why}")
        *above, name = [part for part in entry.link.split(b"/") if part not in (b"", b".")] or [b"."]
        target = self._target(above, name)
        if target is None:
            self._lower_links[path] = entry.link
            return
        directory, found = target
        with directory:
            existing = look(parent, base)
            if existing is not None:
                if (existing.st_dev, existing.st_ino) == (found.st_dev, found.st_ino):
                    return
                self._clear(parent, base, path)
            os.link(name, base, src_dir_fd=directory.fileno(), dst_dir_fd=parent.fileno(), follow_symlinks=False)
        attributes.set_at(parent, base, entry)

    def _target(self, above: list[bytes], name: bytes) -> tuple[Fd, os.stat_result] | None:
        """Where a hard link's target is; None when this layer does not have it."""
        try:
            directory = open_in_root(self._root, join(above) or b"/", os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        found = look(directory, name)
        if found is None or is_whiteout(found):
            directory.close()
            return None
        return directory, found

    def _clear(self, parent: Fd, base: bytes, path: bytes) -> None:
        """Take away what an earlier entry of this layer put there: the last one wins."""
        found = look(parent, base)
        if found is None:
            return
        if stat.S_ISDIR(found.st_mode):
            self._inodes += self._parents.forget(path, parent)
            for known in [known for known in self._times if known == path or known.startswith(path + b"/")]:
                del self._times[known]
        elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            self._bytes -= _blocks(found.st_size)
        self._inodes -= remove_tree(parent, base)

    def _count(self, size: int) -> None:
        self._inodes += 1
        self._bytes += _blocks(size)
        if self._bytes > self._limits.bytes:
            raise LayerRefused(f"unpacks to more than {self._limits.bytes} bytes")

    def _set_times(self) -> None:
        """Directories' times last: everything made inside has touched them."""
        for path, mtime_ns in self._times.items():
            try:
                with open_in_root(self._root, path or b"/", os.O_RDONLY | os.O_DIRECTORY, follow=False) as directory:
                    os.utime(directory.fileno(), ns=(mtime_ns, mtime_ns))
            except OSError as error:
                if error.errno in attributes.NODE_FAILURES:
                    raise ImagePullFailed(f"set the times of {attributes.shown(path)}: {error.strerror}") from error
                # A later entry of the archive put something else there, by another name of the parent.


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def root_is_opaque(layer: os.PathLike[str]) -> bool:
    """Whether the layer hides everything below it; overlayfs ignores the mark on a root, so the stack is cut there."""
    try:
        return os.getxattr(layer, OPAQUE) == b"y"
    except OSError:
        return False
