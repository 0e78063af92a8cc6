"""Prepare the ground for a start: open what comes from the host, make what mounts stand on, look at what differs.

Runs in the daemon, before the program is composed.  It answers with ``Facts`` for ``init.program`` and
with the descriptors they name.  Every path inside the image goes through ``kernel.resolve``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from kernel import mount as kernel_mount
from kernel import terminal
from kernel.capability import last_capability
from kernel.fd import Fd, open_path
from kernel.mountinfo import load_mountinfo
from kernel.program import Flags
from kernel.resolve import is_directory, make_directories, make_file, open_in_root
from runtime.container.descriptors import FIRST_OPENED
from runtime.container.facts import Facts, Join, OpenedMount
from runtime.container.namespaces import KINDS
from runtime.container.options import parse_options
from runtime.container.over_proc import check_over_proc
from runtime.errors import HostPathNotFound, InvalidSpec, Unsupported
from runtime.spec import schema

_FRESH = {"tmpfs"}
SELINUX = Path("/sys/fs/selinux/enforce")
#: What stands in the way there is the image's or the request's doing.
_NO_PLACE = {errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EEXIST, errno.ENAMETOOLONG}
#: Paths of the kernel's whose kind is remembered.
REMEMBERED = 1024
_known: dict[str, bool] = {}


@dataclass(slots=True)
class Ground:
    """The descriptors of a start, by the number that the program knows them by, and the facts that go with them."""

    facts: Facts
    descriptors: dict[int, Fd] = field(default_factory=dict)
    terminal: terminal.Terminal | None = None

    def close(self) -> None:
        """Close everything; the monitor has its own copies by then."""
        for descriptor in self.descriptors.values():
            descriptor.close()
        if self.terminal is not None:
            self.terminal.close()


def prepare(
    spec: schema.Spec, root: Fd, *, attach_point: Path, in_cgroup: bool, has_reaper: bool = True, preserved: int = 0
) -> Ground:
    """Open and check what *spec* needs; *root* is the detached root mount, whose ownership passes to the result.

    Raises InvalidSpec, HostPathNotFound, or OSError naming the path; nothing stays open then.
    """
    builder = _Builder(spec, root)
    try:
        refuse_unsupported(spec)
        builder.open_namespaces()
        builder.open_mounts()
        builder.make_places()
        masked = builder.find_masked()
        builder.finish_root()
    except BaseException:
        builder.close()
        raise
    facts = Facts(
        attach_point=os.fspath(attach_point),
        root=builder.root_number,
        last_capability=last_capability(),
        joins=tuple(builder.joins),
        opened=tuple((index, opened) for index, opened in builder.opened.items()),
        missing=tuple((index, tuple(paths)) for index, paths in builder.missing.items()),
        masked=tuple(masked),
        null_device=builder.null_device,
        console=builder.console,
        in_cgroup=in_cgroup,
        has_reaper=has_reaper,
        preserved=preserved,
    )
    return Ground(facts, builder.descriptors, builder.terminal)


class _Builder:
    def __init__(self, spec: schema.Spec, root: Fd) -> None:
        self._spec = spec
        self._prefixes = [mount.destination.rstrip("/") + "/" for mount in spec.mounts]
        self.descriptors: dict[int, Fd] = {}
        self.joins: list[Join] = []
        self.opened: dict[int, OpenedMount] = {}
        self.missing: dict[int, list[str]] = {}
        self.null_device: int | None = None
        self.console: int | None = None
        self.terminal: terminal.Terminal | None = None
        self.root_number = self._keep(root)

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            descriptor.close()
        if self.terminal is not None:
            self.terminal.close()

    def _keep(self, file: Fd) -> int:
        number = FIRST_OPENED + len(self.descriptors)
        self.descriptors[number] = file
        return number

    @property
    def _root(self) -> Fd:
        return self.descriptors[self.root_number]

    def open_namespaces(self) -> None:
        for namespace in self._spec.linux.namespaces:
            if namespace.path:
                kind = KINDS.get(namespace.type)
                if kind is None:
                    raise InvalidSpec(f"linux.namespaces: unknown type {namespace.type!r}")
                self.joins.append(Join(kind, self._keep(open_path(namespace.path))))

    def open_mounts(self) -> None:
        for index, mount in enumerate(self._spec.mounts):
            if mount.type == "bind" or parse_options(mount.options).is_bind:
                file = open_bind(mount)
                self.opened[index] = OpenedMount(self._keep(file), is_directory(file))
            elif mount.type == "devpts" and self._wants_terminal:
                self._open_terminal(index, mount)

    @property
    def _wants_terminal(self) -> bool:
        return self._spec.process is not None and self._spec.process.terminal

    def _open_terminal(self, index: int, mount: schema.Mount) -> None:
        """Mount the container's devpts here, so that its first terminal is opened by descriptor (CVE-2025-52565)."""
        options = parse_options(mount.options)
        file = kernel_mount.new_filesystem("devpts", options.data, attributes=Flags(options.add).value())
        self.opened[index] = OpenedMount(self._keep(file), True)
        self.terminal = terminal.open_terminal(file)
        self.console = self._keep(kernel_mount.clone_tree(self.terminal.name, directory=file))

    def make_places(self) -> None:
        """Make the files and directories that mounts, and the working directory, will stand on."""
        for index, mount in enumerate(self._spec.mounts):
            place = self.opened[index].is_directory if index in self.opened else True
            self._make_place(index, mount.destination, directory=place)
            opened = self.descriptors[self.opened[index].descriptor] if index in self.opened else None
            check_over_proc(index, mount, self._prefixes[index], opened)
        if self._spec.process is not None:
            self._make_place(len(self._spec.mounts), self._spec.process.cwd, directory=True)

    def _make_place(self, index: int, path: str, *, directory: bool) -> None:
        if not path.startswith("/") or "\0" in path:
            raise InvalidSpec(f"{path!r}: must be an absolute path")
        if index < len(self._spec.mounts) and not path.strip("/"):
            raise InvalidSpec("mount at /: the root is the image's")
        owner = self._mount_below(index, path)
        if owner is None:
            # /var/run may be a link to /run, on which there is a mount already.
            path = self._make_in(self._root, path, directory=directory)
            owner = self._mount_below(index, path)
        if index < len(self._prefixes):
            self._prefixes[index] = path.rstrip("/") + "/"
        if owner is None:
            return
        if owner in self.opened and self._spec.mounts[owner].type != "devpts":
            inner = path[len(self._prefixes[owner]) - 1 :]
            self._make_in(self.descriptors[self.opened[owner].descriptor], inner, directory=directory)
        elif self._spec.mounts[owner].type in _FRESH:
            self.missing[index] = _levels(self._prefixes[owner], path, directory=directory)

    def _make_in(self, base: Fd, path: str, *, directory: bool) -> str:
        """Make the place *path* in the detached mount *base*; returns where links led."""
        try:
            with (make_directories if directory else make_file)(base, path) as place:
                return os.readlink(f"/proc/self/fd/{place.fileno()}")
        except OSError as error:
            if error.errno == errno.EROFS:
                raise InvalidSpec(f"mount at {path}: nothing stands there, and what is below is read-only") from error
            if error.errno in _NO_PLACE:
                reason = (error.strerror or "").lower()
                raise InvalidSpec(f"{path}: there is no place for it in the image: {reason}") from error
            raise

    def _mount_below(self, index: int, path: str) -> int | None:
        """The last mount before *index* that *path* lies in; None when that is the root itself."""
        best, length = None, 0
        for earlier, prefix in enumerate(self._prefixes[:index]):
            if len(prefix) >= length and path.startswith(prefix):
                best, length = earlier, len(prefix)
        return best

    def find_masked(self) -> list[tuple[str, bool]]:
        """Which masked paths exist, and whether each is a directory."""
        found = []
        for path in self._spec.linux.masked_paths:
            kind = self._kind_of(path)
            if kind is None:
                continue
            found.append((path, kind))
            if not kind and self.null_device is None:
                self.null_device = self._keep(_null_device())
        return found

    def _kind_of(self, path: str) -> bool | None:
        owner = self._mount_below(len(self._spec.mounts), path)
        if owner is None:
            return _look(lambda: open_in_root(self._root, path))
        if owner in self.opened:
            inner = path[len(self._prefixes[owner]) - 1 :]
            return _look(lambda: open_in_root(self.descriptors[self.opened[owner].descriptor], inner))
        if self._spec.mounts[owner].type in ("proc", "sysfs"):
            return _kind_in_kernel(path)
        return None

    def finish_root(self) -> None:
        if self._spec.root is not None and self._spec.root.readonly:
            kernel_mount.set_attributes(self._root, add=Flags(("MOUNT_ATTR_RDONLY",)).value())


def refuse_unsupported(spec: schema.Spec) -> None:
    """Raise Unsupported for what a spec may ask and this version does not do: never to be passed over in silence.

    ``rootfsPropagation`` is not among it: each mount gets the propagation that it asks for itself.
    """
    for kind in msgspec.structs.fields(schema.Hooks):
        if getattr(spec.hooks, kind.name):
            raise Unsupported(f"hooks.{kind.encode_name}: hooks are not run by this version")
    for index, mount in enumerate(spec.mounts):
        if mount.uid_mappings or mount.gid_mappings:
            raise Unsupported(f"mounts[{index}] {mount.destination}: id-mapped mounts are not made by this version")
    if spec.linux.mount_label and SELINUX.exists():
        raise Unsupported("linux.mountLabel: files are not labelled by this version, so the process could not use them")


def open_bind(mount: schema.Mount) -> Fd:
    """A detached mount of *mount*'s source with its options applied.

    Raises HostPathNotFound when the source is absent: making it silently hides a typing error, and a
    kubelet makes what it needs.
    """
    options = parse_options(mount.options)
    try:
        file = kernel_mount.clone_tree(mount.source, recursive=options.is_recursive)
    except FileNotFoundError as error:
        raise HostPathNotFound(f"mount {mount.destination}: host path {mount.source}: no such file or directory") from error
    try:
        if options.data:
            raise InvalidSpec(f"mount {mount.destination}: unknown option {options.data[0][0]!r} for a bind mount")
        if options.propagation == "shared" and not _is_on_shared(mount.source):
            raise InvalidSpec(
                f"mount {mount.destination}: host path {mount.source} is not on a shared mount, which rshared needs"
            )
        _apply(file, options.add, options.clear, recursive=False)
        if options.recursive_add or options.recursive_clear:
            _apply(file, options.recursive_add, options.recursive_clear, recursive=True)
        kernel_mount.set_attributes(file, propagation=options.propagation or "private", recursive=options.is_recursive)
    except BaseException:
        file.close()
        raise
    return file


def _apply(file: Fd, add: tuple[str, ...], clear: tuple[str, ...], *, recursive: bool) -> None:
    atime = any("ATIME" in name and name != "MOUNT_ATTR_NODIRATIME" for name in add)
    cleared = Flags((*clear, *(("MOUNT_ATTR__ATIME",) if atime else ()))).value()
    if add or clear:
        kernel_mount.set_attributes(file, add=Flags(add).value(), clear=cleared, recursive=recursive)


def _is_on_shared(source: str) -> bool:
    path = os.path.realpath(source)
    below = [mount for mount in load_mountinfo() if path == mount.target or path.startswith(mount.target.rstrip("/") + "/")]
    return bool(below) and max(below, key=lambda mount: (len(mount.target), mount.mount_id)).is_shared


def _null_device() -> Fd:
    """A detached mount of the host's /dev/null, seen to be the null device (CVE-2025-31133).

    Read-only, which a device that is written to does not mind: "chmod 0 /proc/kcore" in a container must
    not change the mode of the host's.
    """
    file = kernel_mount.clone_tree("/dev/null")
    status = os.fstat(file.fileno())
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
        file.close()
        raise OSError(errno.ENODEV, "not the null device", "/dev/null")
    kernel_mount.set_attributes(file, add=Flags(("MOUNT_ATTR_RDONLY",)).value())
    return file


def _kind_in_kernel(path: str) -> bool | None:
    """As ``_look``, of a path of procfs or sysfs: a new one of the same kernel has what ours has, and goes on having it.

    What is not there may come with a module.
    """
    kind = _known.get(path)
    if kind is None and os.access(path, os.F_OK):  # asked first: an exception for each path that is not there costs more
        kind = _look(lambda: open_path(path, os.O_PATH))
        if kind is not None and len(_known) < REMEMBERED:
            _known[path] = kind
    return kind


def _look(find: Callable[[], Fd]) -> bool | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), find() as file:
        return is_directory(file)
    return None


def _levels(base: str, path: str, *, directory: bool) -> list[str]:
    """The directories below *base* on the way to *path*: with *path* itself when it is one."""
    here, levels = base.rstrip("/"), []
    parts = path[len(here) :].strip("/").split("/")
    for part in parts if directory else parts[:-1]:
        here = f"{here}/{part}"
        levels.append(here)
    return levels
