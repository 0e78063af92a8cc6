"""Where a path of the container will lead, before there is a container: the root and what is mounted on it, in layers.

Nothing is mounted while the ground is prepared, so the kernel cannot be asked where ``/var/run/secrets`` lies when
/var/run is a link to a mount of this very spec.  ``Tree`` answers: it looks into the layer that is on top there, by
descriptor and inside it only (``kernel.resolve``), and follows links as the container will see them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field

from kernel.fd import Fd, open_path
from kernel.resolve import open_in_root
from runtime.errors import InvalidSpec

#: As many links as the kernel follows.
LINKS = 40
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
#: What stands in the way there is the image's or the request's doing.
_NO_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EEXIST, errno.ENAMETOOLONG}
#: File systems in which nothing can be made, and what they are called where the node has them.
_OF_THE_KERNEL = {"proc": "/proc", "sysfs": "/sys", "devpts": "", "mqueue": "", "cgroup": "", "cgroup2": ""}
#: Paths of the kernel's whose kind is remembered.
REMEMBERED = 1024
_known: dict[str, bool] = {}


@dataclass(slots=True)
class Layer:
    """Something that is or will be mounted.  *prefix* is where, free of links, with a "/" at its end."""

    prefix: str
    file: Fd | None
    """What is there already, by descriptor; None for a file system that init itself will make."""
    type: str = ""
    made: dict[str, bool] = field(default_factory=dict)
    """What init will make there, and whether that is a directory."""

    def inner(self, path: str) -> str:
        return path[len(self.prefix) - 1 :] or "/"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path led: *path* is free of links."""

    path: str
    layer: Layer
    is_directory: bool | None
    """None: that cannot be known before the file system is there."""
    mode: int | None = None
    """The permissions of what was there before, if that was looked at."""
    missing: tuple[str, ...] = ()
    """Directories that init has to make first."""


class Tree:
    """The container's tree as it grows: ``lay`` a mount, ``find`` and ``make`` places in what is laid so far."""

    def __init__(self, root: Fd, owner: tuple[int, int] | None = None) -> None:
        """*owner* is who gets what is made here: the container's root as the node knows it, in a user namespace."""
        self.root = Layer("/", root)
        self._owner = owner
        self._layers = [self.root]

    def lay(self, path: str, file: Fd | None, kind: str = "") -> Layer:
        """Put a mount on *path*, which is free of links."""
        layer = Layer(path.rstrip("/") + "/", file, kind)
        self._layers.append(layer)
        return layer

    def on_top(self, path: str) -> Layer:
        """The layer that *path*, free of links, lies in."""
        below = f"{path}/"
        for layer in reversed(self._layers):
            if below.startswith(layer.prefix):
                return layer
        return self.root

    def has_mounts_below(self, path: str) -> bool:
        """Whether something is laid inside *path*, or *path* inside something."""
        below = path.rstrip("/") + "/"
        return any(layer.prefix.startswith(below) or below.startswith(layer.prefix) for layer in self._layers[1:])

    def find(self, path: str, *, follow: bool = True) -> Place | None:
        """Where *path* leads; None if nothing is there.  *follow* false: a link at its end is what is meant."""
        try:
            return self._straight(path, follow=follow) or self._walk(path, follow=follow)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise

    def make(self, path: str, *, directory: bool) -> Place:
        """The place at *path*, made with what leads there if it is absent; links that lead nowhere are followed too.

        Raises InvalidSpec when something else is in the way, or what is below is read-only.
        """
        try:
            place = self._straight(path, looks=False) or self._walk(path, make=directory)
            if place.is_directory not in (None, directory):
                code = errno.EISDIR if place.is_directory else errno.ENOTDIR
                raise OSError(code, os.strerror(code), path)
            return place
        except OSError as error:
            if error.errno == errno.EROFS:
                raise InvalidSpec(f"mount at {path}: nothing stands there, and what is below is read-only") from error
            if error.errno in _NO_PLACE:
                reason = (error.strerror or "").lower()
                raise InvalidSpec(f"{path}: there is no place for it in the image: {reason}") from error
            raise

    def _straight(self, path: str, *, follow: bool = True, looks: bool = True) -> Place | None:
        """The ordinary case, in one call of the kernel's: all of *path* is in one layer, and without links.

        *looks* false: what a file system of the kernel's has is not asked.
        """
        path = path.rstrip("/") or "/"
        layer = self.on_top(path)
        if layer.file is None:
            return self._straight_in_kernel(path, layer) if follow and looks else _known_place(path, layer)
        if path == layer.prefix[:-1] or path == "/":
            return Place(path, layer, *_look(layer.file))
        try:
            file = open_in_root(layer.file, layer.inner(path), follow=follow)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None  # so the kernel says of a link to another layer, too
            raise
        with file:
            if os.readlink(f"/proc/self/fd/{file.fileno()}") != layer.inner(path):
                return None
            return Place(path, layer, *_look(file))

    def _straight_in_kernel(self, path: str, layer: Layer) -> Place | None:
        """The same of a file system of the kernel's, whose links lead to itself."""
        known = _OF_THE_KERNEL.get(layer.type)
        if not known or "/." in path or "//" in path:
            return None
        kind = _kind_in_kernel(known + layer.inner(path))
        if kind is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return Place(path, layer, kind)

    def _walk(self, path: str, *, follow: bool = True, make: bool | None = None) -> Place:
        """Part by part, as the container's kernel would; *make* what is absent: True a directory, False a file."""
        todo = [part for part in reversed(path.split("/")) if part]
        here, links = Place("/", self.root, True), 0
        missing: list[str] = []
        while todo:
            part = todo.pop()
            if here.is_directory is False:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if part in (".", ".."):
                here = here if part == "." else self._at(os.path.dirname(here.path))
                continue
            name = f"{here.path.rstrip('/')}/{part}"
            target = self._link(name) if todo or follow else None
            if target is not None:
                links += 1
                if links > LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                todo += [part for part in reversed(target.split("/")) if part]
                here = self._at("/") if target.startswith("/") else here
                continue
            here = self._enter(name, None if make is None else make or bool(todo), missing)
        return Place(here.path, here.layer, here.is_directory, here.mode, tuple(missing))

    def _at(self, path: str) -> Place:
        """A directory that the walk has been through."""
        return Place(path, self.on_top(path), True)

    def _link(self, path: str) -> str | None:
        layer = self.on_top(path)
        if layer.file is None or path == layer.prefix[:-1]:
            return None
        with contextlib.suppress(FileNotFoundError), open_in_root(layer.file, layer.inner(path), follow=False) as file:
            if stat.S_ISLNK(os.fstat(file.fileno()).st_mode):
                return os.readlink("", dir_fd=file.fileno())
        return None

    def _enter(self, path: str, make: bool | None, missing: list[str]) -> Place:
        """One part further, to something that is no link."""
        layer = self.on_top(path)
        if path == layer.prefix[:-1]:
            return Place(path, layer, *((True,) if layer.file is None else _look(layer.file)))
        if layer.file is None:
            return self._expect(layer, path, make, missing)
        try:
            file = open_in_root(layer.file, layer.inner(path), follow=False)
        except FileNotFoundError:
            if make is None:
                raise
            self._create(layer, path, directory=make)
            return Place(path, layer, make)
        with file:
            return Place(path, layer, *_look(file))

    def _expect(self, layer: Layer, path: str, make: bool | None, missing: list[str]) -> Place:
        """In a file system that does not exist yet."""
        if layer.type in _OF_THE_KERNEL:
            known = _OF_THE_KERNEL[layer.type]
            if make is not None or not known:
                return Place(path, layer, None)
            kind = _kind_in_kernel(known + layer.inner(path))
            if kind is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return Place(path, layer, kind)
        if path in layer.made:
            return Place(path, layer, layer.made[path])
        if make is None:
            if layer.type == "tmpfs":
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return Place(path, layer, None)
        layer.made[path] = make
        if make:
            missing.append(path)
        return Place(path, layer, make)

    def _create(self, layer: Layer, path: str, *, directory: bool) -> None:
        """Make one thing below a held descriptor, so that a rename in between cannot move it elsewhere (CVE-2024-45310)."""
        assert layer.file is not None
        above, name = os.path.split(layer.inner(path))
        with open_in_root(layer.file, above, os.O_PATH | os.O_DIRECTORY) as parent:
            is_new = True
            try:
                if directory:
                    os.mkdir(name, 0o755, dir_fd=parent.fileno())
                else:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    os.close(os.open(name, flags, 0o644, dir_fd=parent.fileno()))
            except FileExistsError:
                is_new = False
            with open_in_root(parent, name, follow=False) as made:
                status = os.fstat(made.fileno())
                if stat.S_ISLNK(status.st_mode):
                    raise OSError(errno.ELOOP, "a link was put there meanwhile", path)
                # What has another name as well is not what was made here: somebody put it there since.
                if self._owner is not None and is_new and (directory or status.st_nlink == 1):
                    os.chown(f"/proc/self/fd/{made.fileno()}", *self._owner)


def _known_place(path: str, layer: Layer) -> Place | None:
    """The same in a file system that does not exist yet, where that takes no walk."""
    if path == layer.prefix[:-1] or path in layer.made:
        return Place(path, layer, layer.made.get(path, True))
    is_plain = layer.type in _OF_THE_KERNEL and "/." not in path and "//" not in path
    return Place(path, layer, None) if is_plain else None


def _look(file: Fd) -> tuple[bool, int]:
    """Whether *file* is a directory, and its permissions."""
    mode = os.fstat(file.fileno()).st_mode
    return stat.S_ISDIR(mode), stat.S_IMODE(mode)


def _kind_in_kernel(path: str) -> bool | None:
    """Whether a path of procfs or sysfs is a directory; None if it is absent.

    A new one of the same kernel has what ours has, and goes on having it.  What is not there may come with a module.
    """
    kind = _known.get(path)
    if kind is None and os.access(path, os.F_OK):  # asked first: an exception for each path that is not there costs more
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), open_path(path, os.O_PATH) as file:
            kind = _look(file)[0]
            if len(_known) < REMEMBERED:
                _known[path] = kind
    return kind
