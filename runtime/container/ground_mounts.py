"""The mounts of a spec, one after the other: what is opened beforehand, and the place where each will stand."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kernel import foreign_mount, terminal
from kernel import mount as kernel_mount
from kernel.cgroup import find_tree
from kernel.fd import Fd
from kernel.filesystem import copy_tree, is_devpts
from kernel.mountinfo import load_mountinfo
from kernel.namespace import identity, open_namespace
from kernel.program import Flags
from kernel.resolve import is_directory, open_in_root
from kernel.user_namespace import is_initial
from runtime.container import userns
from runtime.container.descriptors import Descriptor
from runtime.container.facts import LateMount, OpenedMount
from runtime.container.ground_binds import (
    FindNamespace,
    apply_attributes,
    check_bind,
    is_id_mapped,
    open_bind,
    propagate,
)
from runtime.container.ground_tree import Layer, Place, Tree
from runtime.container.options import Options, parse_options
from runtime.container.over_proc import check_over_proc
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema, standard_dev

#: In a user namespace these are only made anew by whoever owns the namespace that they show.
_SHOWS = {"sysfs": ("network", "/sys"), "mqueue": ("ipc", "/dev/mqueue"), "proc": ("pid", "/proc")}
#: What a mount of the spec asks for (destination, type, source, options), if that is a part of a standard /dev.
_READY = {
    ("/dev", "tmpfs", "tmpfs", frozenset(standard_dev.TMPFS_OPTIONS)): Descriptor.DEV,
    ("/dev/pts", "devpts", "devpts", frozenset(standard_dev.DEVPTS_OPTIONS)): Descriptor.DEVPTS,
}
#: What is in such a /dev, and whether that is a directory.
_IN_READY_DEV = {
    **{path: False for path, _, _ in standard_dev.DEVICES},
    **{f"/dev/{name}": False for _, name in standard_dev.LINKS},
    **{f"/dev/{name}": True for name in standard_dev.DIRECTORIES},
}
#: The initial cgroup namespace, on every kernel (PROC_CGROUP_INIT_INO in include/linux/proc_ns.h).
INITIAL_CGROUP_NAMESPACE = 0xEFFFFFFB


def settle(spec: schema.Spec, bundle: Path | None, rootfs: Path | None) -> None:
    """Write each mount as it is meant: a relative source is in the bundle, a relative destination below "/".

    A destination that begins with the path of the root itself is taken as inside it, as runc does.
    """
    for index, mount in enumerate(spec.mounts):
        if "\0" in "".join((mount.destination, mount.type, mount.source, *mount.options)):
            raise InvalidSpec(f"mounts[{index}]: {mount.destination!r}: must not contain a NUL")
        if not mount.destination:
            raise InvalidSpec(f"mounts[{index}].destination: is empty")
        path = plain(mount.destination)
        if rootfs is not None and path.startswith(f"{rootfs}/") and rootfs != Path("/"):
            path = path[len(os.fspath(rootfs)) :]
        if path == "/":
            raise InvalidSpec(f"mounts[{index}].destination {mount.destination}: mount at /: the root is the image's")
        mount.destination = path
        if is_bind(mount) and bundle is not None:
            mount.source = os.path.join(bundle, mount.source)


def plain(path: str) -> str:
    """*path* below "/", without what only looks different; most are written so."""
    if path.startswith("/") and "//" not in path and "/." not in path and not path.endswith("/"):
        return path
    return posixpath.normpath("/" + path.lstrip("/"))


def is_bind(mount: schema.Mount) -> bool:
    """Whether it shows something that is there already; its type says nothing then."""
    return mount.type in ("bind", "rbind") or parse_options(mount.options).is_bind


def kernel_mounts() -> tuple[str, ...]:
    """Where whole procfs and sysfs are mounted, the last ones first."""
    rows = [row for row in load_mountinfo() if row.filesystem in ("proc", "sysfs") and row.root == "/"]
    return tuple(dict.fromkeys(row.target for row in reversed(rows)))


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller says of all mounts, beside the spec."""

    rootfs: Path | None
    """Where the root is on the node, if it is a directory there."""
    cgroup: Path | None
    made: Mapping[int, Fd]
    """Detached mounts that the caller made, by index into the spec's mounts."""
    is_copied: bool
    exactly: bool
    has_ready_dev: bool
    """Whoever launches it has a standard /dev for it (runtime.monitor.ready_dev)."""


class Mounts:
    """What was found out about the mounts of a spec, by index."""

    def __init__(
        self,
        spec: schema.Spec,
        tree: Tree,
        keep: Callable[[Fd], int],
        namespace: Fd | None,
        within: Fd | None,
        asked: Asked,
    ) -> None:
        """*keep* takes a descriptor over and numbers it.

        *namespace* is the container's user namespace, *within* a copy of our mount namespace that belongs to it.
        """
        self._spec, self.tree, self._keep = spec, tree, keep
        self._namespace, self._within, self._asked = namespace, within, asked
        self._own = {each.type for each in spec.linux.namespaces}
        self._held: list[Fd] = []
        self.opened: dict[int, OpenedMount] = {}
        self.late: dict[int, LateMount] = {}
        self.missing: dict[int, list[str]] = {}
        self.modes: dict[int, int] = {}
        self.terminal: terminal.Terminal | None = None
        self.console: int | None = None
        self.ready_dev: Layer | None = None

    def close(self) -> None:
        """Close what only the look needed."""
        for file in self._held:
            file.close()

    def are_copied(self) -> bool:
        """Whether what was opened is to be copied at its turn: where that makes a difference, if it was asked for."""
        wishes = (parse_options(self._spec.mounts[index].options).propagation for index in self.opened)
        cannot_yet = any(name == "unbindable" for wish in wishes for name, _ in wish)
        return self._asked.is_copied and (cannot_yet or any(index >= len(self.opened) for index in self.opened))

    def lay(self) -> None:
        """Open and lay each, in the order of the spec; then the working directory."""
        for index, mount in enumerate(self._spec.mounts):
            options = parse_options(mount.options)
            if options.is_remount:
                continue
            file = self._open(index, mount, options)
            place = self._make_place(index, mount, directory=file is None or is_directory(file))
            if options.copies_up:
                file = self._copied_up(index, mount, options, place)
            elif place.path == mount.destination:  # in a place with another name the devices would be others
                self._take_what_is_ready(index, mount)
            check_over_proc(index, mount, place.path, file if index in self.opened else None)
            layer = self.tree.lay(place.path, None if mount.type == "devpts" else file, mount.type)
            if index in self.opened and self.opened[index].descriptor == Descriptor.DEV:
                layer.made |= _IN_READY_DEV
                self.ready_dev = layer
        self._require_terminal()
        process = self._spec.process
        if process is not None:
            if not process.cwd.startswith("/") or "\0" in process.cwd:
                raise InvalidSpec(f"process.cwd {process.cwd!r}: must be an absolute path")
            self._note_missing(len(self._spec.mounts), self.tree.make(process.cwd, directory=True))

    def _make_place(self, index: int, mount: schema.Mount, *, directory: bool) -> Place:
        is_ordinary = mount.type not in ("proc", "sysfs")
        try:
            place = self.tree.make(mount.destination, directory=directory)
            is_ordinary = is_ordinary or place.path == mount.destination
        finally:
            if not is_ordinary:
                self._require_ordinary(mount)
        if place.path == "/":
            raise InvalidSpec(f"mounts[{index}].destination {mount.destination}: leads to /, and the root is the image's")
        self._note_missing(index, place)
        if mount.type == "tmpfs" and place.mode is not None and index not in self.opened:
            self.modes[index] = place.mode
        return place

    def _require_ordinary(self, mount: schema.Mount) -> None:
        """A proc or sysfs behind a link would put masks elsewhere (CVE-2019-19921, CVE-2023-27561)."""
        place = self.tree.find(mount.destination, follow=False)
        if place is not None and place.is_directory is False:
            raise InvalidSpec(
                f"mount {mount.destination}: filesystem {mount.type!r} must be mounted on ordinary directory, "
                "and in the image something else stands there"
            )

    def _note_missing(self, index: int, place: Place) -> None:
        if place.missing or (place.layer.file is None and place.is_directory is False and place.path in place.layer.made):
            self.missing[index] = list(place.missing)

    def _open(self, index: int, mount: schema.Mount, options: Options) -> Fd | None:
        """What can be made ready now; None for what init makes itself."""
        if index in self._asked.made:
            file = self._take(index, self._asked.made[index])
            apply_attributes(file, mount, options)
            return file
        if is_bind(mount):
            late = self._inside(mount)
            if late is not None:
                return self._open_late(index, mount, options, late)
            return self._take(index, self._open_bind(mount, self._find_namespace))
        if not mount.type:
            raise InvalidSpec(
                f"mounts[{index}].type: {mount.destination}: a mount that is no bind mount needs the type of a file system"
            )
        if is_id_mapped(mount, options):
            raise Unsupported(f"mount {mount.destination}: uidMappings: only bind mounts are id-mapped")
        if options.copies_up and mount.type != "tmpfs":
            raise InvalidSpec(f"mount {mount.destination}: options: tmpcopyup is for tmpfs")
        if mount.type == "devpts" and self._spec.process is not None and self._spec.process.terminal and self.terminal is None:
            return self._open_terminal(index, options)
        if mount.type in ("cgroup", "cgroup2") and not self._has_own_cgroups():
            return self._take(index, self._own_cgroup(mount, options))
        needs, source = _SHOWS.get(mount.type, ("", ""))
        if needs and needs not in self._own and (self._namespace is not None or not is_initial()):
            return self._take(index, self._of_the_node(mount, options, source))
        return None

    def _take_what_is_ready(self, index: int, mount: schema.Mount) -> None:
        """A part of a standard /dev, if that is what *mount* asks for; each is there once."""
        if self._asked.has_ready_dev and index not in self.opened:  # a terminal's devpts is that of the terminal
            number = _READY.get((mount.destination, mount.type, mount.source, frozenset(mount.options)))
            if number is not None and all(opened.descriptor != number for opened in self.opened.values()):
                self.opened[index] = OpenedMount(number, is_directory=True)

    def _take(self, index: int, file: Fd) -> Fd:
        self.opened[index] = OpenedMount(self._keep(file), is_directory(file))
        return file

    def _open_bind(self, mount: schema.Mount, find_namespace: FindNamespace | None = None) -> Fd:
        return open_bind(mount, find_namespace, self._within, is_copied=self._asked.is_copied, exactly=self._asked.exactly)

    def _shown(self, mount: schema.Mount, options: Options, source: str) -> Fd:
        """What the node has at *source*, in place of a new file system that a process inside may not make."""
        data = {key for key, _ in options.data}
        words = [word for word in mount.options if word.partition("=")[0] not in data]
        wanted = schema.Mount(destination=mount.destination, type="rbind", source=source, options=["rbind", *words])
        return self._open_bind(wanted)

    def _of_the_node(self, mount: schema.Mount, options: Options, source: str) -> Fd:
        """A new one of the node's own namespaces; or if we are not the node's root either, what it has at *source*."""
        try:
            file = kernel_mount.new_filesystem(mount.type, options.data)
        except PermissionError:
            return self._shown(mount, options, source)
        apply_attributes(file, mount, options)
        propagate(file, options, is_copied=self._asked.is_copied)
        return file

    def _find_namespace(self, mount: schema.Mount) -> Fd:
        """The user namespace whose maps *mount* has: of its own, or the container's."""
        if not is_initial() or os.geteuid():
            raise Unsupported(f"mount {mount.destination}: uidMappings: id-mapped mounts take the rights of root")
        linux, maps = self._spec.linux, (mount.uid_mappings, mount.gid_mappings)
        if mount.uid_mappings and (self._namespace is None or maps != (linux.uid_mappings, linux.gid_mappings)):
            return userns.make(mount.uid_mappings, mount.gid_mappings, where=f"mount {mount.destination}")
        if self._namespace is None:
            raise InvalidSpec(
                f"mount {mount.destination}: uidMappings: it has none, and the container has no user namespace to take them from"
            )
        return self._namespace.duplicate()

    def _inside(self, mount: schema.Mount) -> Place | None:
        """Where in the container's own tree the source lies, if mounts of this spec make a difference there."""
        root = "" if self._asked.rootfs is None else os.fspath(self._asked.rootfs).rstrip("/")
        source = posixpath.normpath(mount.source)
        if not root or not f"{source}/".startswith(f"{root}/"):
            return None
        place = self.tree.find(source[len(root) :] or "/")
        return place if place is not None and self.tree.has_mounts_below(place.path) else None

    def _open_late(self, index: int, mount: schema.Mount, options: Options, place: Place) -> Fd | None:
        check_bind(mount, options)
        number = None
        if is_id_mapped(mount, options):
            if self._namespace is not None:
                raise Unsupported(
                    f"mount {mount.destination}: uidMappings: {mount.source} is inside the root, below other mounts of the spec, "
                    "and what is seen there in a user namespace cannot be id-mapped"
                )
            number = self._keep(self._find_namespace(mount))
        exactly = self._asked.exactly and self._namespace is None
        self.late[index] = LateMount(place.path, place.is_directory is not False, number, exactly)
        if place.layer.file is None:
            return None
        file = open_in_root(place.layer.file, place.layer.inner(place.path))
        self._held.append(file)
        return file

    def _has_own_cgroups(self) -> bool:
        """Whether a new cgroup2 shows the container's own: mounted elsewhere it shows the node's, and resets its options.

        (It also stalls for 8 to 16 ms: apply_cgroup_root_flags waits for an RCU period.)
        """
        namespace = next((each for each in self._spec.linux.namespaces if each.type == "cgroup"), None)
        if namespace is None or not namespace.path:
            return namespace is not None
        with open_namespace("thread-self", "cgroup") as ours:
            return identity(Path(namespace.path)) not in (INITIAL_CGROUP_NAMESPACE, identity(ours))

    def _own_cgroup(self, mount: schema.Mount, options: Options) -> Fd:
        """The container's own cgroup; or if it has none, ours, which it may look at (CVE-2023-25809)."""
        if self._asked.cgroup is not None:
            return self._shown(mount, options, os.fspath(self._asked.cgroup))
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        file = self._shown(mount, options, os.fspath(find_tree() / own.lstrip("/")))
        kernel_mount.set_attributes(file, add=Flags(("MOUNT_ATTR_RDONLY",)).value(), recursive=True)
        return file

    def _open_terminal(self, index: int, options: Options) -> Fd:
        """Mount the container's devpts here, so that its first terminal is opened by descriptor (CVE-2025-52565)."""
        if self._namespace is None:
            file = kernel_mount.new_filesystem("devpts", options.data, attributes=Flags(options.add).value())
        else:
            file = foreign_mount.new_filesystem(self._namespace, "devpts", options.data, attributes=options.add)
        self._take(index, file)
        propagate(file, options, is_copied=self._asked.is_copied)
        self._use_terminal(file)
        return file

    def _use_terminal(self, devpts: Fd) -> None:
        self.terminal = terminal.open_terminal(devpts)
        self.console = self._keep(terminal.find_slave(devpts, self.terminal.name))
        if self._namespace is not None:
            owner = userns.host_id(self._spec.linux.uid_mappings, 0)
            if owner is not None:
                os.fchown(self.terminal.slave.fileno(), owner, -1)

    def _require_terminal(self) -> None:
        """A terminal is of a devpts: the spec's own, or one that comes with a /dev of the node's."""
        if self._spec.process is None or not self._spec.process.terminal or self.terminal is not None:
            return
        place = self.tree.find("/dev/pts")
        if place is not None and place.layer.file is not None and place.is_directory:
            with open_in_root(place.layer.file, place.layer.inner(place.path), os.O_RDONLY | os.O_DIRECTORY) as directory:
                if is_devpts(directory):
                    self._use_terminal(directory)
                    return
        raise InvalidSpec("process.terminal: needs a devpts, and no mount of the spec puts one at /dev/pts")

    def _copied_up(self, index: int, mount: schema.Mount, options: Options, place: Place) -> Fd:
        """A tmpfs that begins with what it covers."""
        data = [(key, value) for key, value in options.data]
        if place.mode is not None and not any(key == "mode" for key, _ in data):
            data.append(("mode", f"{place.mode:04o}"))
        file = self._take(index, kernel_mount.new_filesystem("tmpfs", [*options.superblock, *data]))
        if place.layer.file is not None:
            with open_in_root(place.layer.file, place.layer.inner(place.path), os.O_RDONLY | os.O_DIRECTORY) as covered:
                if not any(key in ("uid", "gid") for key, _ in data):
                    status = os.fstat(covered.fileno())
                    os.chown(f"/proc/self/fd/{file.fileno()}", status.st_uid, status.st_gid)
                copy_tree(covered, file)
        apply_attributes(file, mount, options)
        propagate(file, options, is_copied=self._asked.is_copied)
        return file
