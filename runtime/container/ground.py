"""Prepare the ground for a start: open what comes from the host, make what mounts stand on, look at what differs.

Runs in the daemon or the command line, before the program is composed.  It answers with ``Facts`` for
``init.program`` and with the descriptors they name.  Every path inside the image goes through ``kernel.resolve``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from kernel import foreign_mount, procfs, terminal
from kernel.capability import last_capability, read_sets
from kernel.fd import Fd
from kernel.probe import has_detached_copies
from kernel.user_namespace import is_initial
from runtime.container import ground_devices, ground_mounts, joins, namespaces, rlimits, userns
from runtime.container.descriptors import FIRST_OPENED
from runtime.container.facts import Facts, Join
from runtime.container.ground_binds import open_null_device, open_root
from runtime.container.ground_mounts import Asked, Mounts
from runtime.container.ground_tree import Tree
from runtime.container.label import wants_label
from runtime.container.rootfs_devices import has_standard_dev
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema

Held = TypeVar("Held", Fd, Mounts)
SELINUX = Path("/sys/fs/selinux/enforce")


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
    spec: schema.Spec,
    root: Fd,
    *,
    attach_point: Path,
    in_cgroup: bool,
    has_reaper: bool = True,
    preserved: int = 0,
    keyring: str | None = "",
    can_pause: bool = False,
    pivots: bool = True,
    by_monitor: bool = False,
    in_order: bool = False,
    exactly: bool = False,
    bundle: Path | None = None,
    rootfs: Path | None = None,
    cgroup: Path | None = None,
    made: Mapping[int, Fd] = MappingProxyType({}),
) -> Ground:
    """Open and check what *spec* needs; *root* is the detached root mount, whose ownership passes to the result.

    The mounts of *spec* are written anew as they are meant: destinations and sources absolute, sources as of *bundle*,
    and destinations below *rootfs* taken from there.  *can_pause*: the caller sees to hooks, network devices and the
    like when the program pauses for it.  *by_monitor*: whoever launches it has an empty mount namespace and a /dev for it.
    *in_order*: whoever looks at the container's mounts is to see them in the spec's order, for a few microseconds each.
    *exactly*: bind mounts get the flags that are said and no others, as from other command lines; else they keep what
    their sources have, nosuid for one.
    *cgroup* is the container's directory of the v2 tree, which it sees when it has no cgroup namespace of its own.
    *made* are detached mounts for entries of the spec's mounts, by index, that the caller knows how to make.

    Raises InvalidSpec, Unsupported, HostPathNotFound, or OSError naming the path; nothing stays open then.
    """
    builder = _Builder(spec, root)
    try:
        needs_pause = refuse_unsupported(spec, can_pause=can_pause)
        refuse_shared_mounts(spec)
        ground_mounts.settle(spec, bundle, rootfs)
        asked = Asked(rootfs, cgroup, made, is_copied=in_order, exactly=exactly, has_ready_dev=by_monitor)
        found, own_procfs = builder.look(asked)
    except BaseException:
        builder.close()
        raise
    builder.let_go()
    has_own_users = found.user_namespace is not None
    facts = replace(
        found,
        attach_point=os.fspath(attach_point),
        pivots=pivots,
        hidden=() if pivots else ground_mounts.kernel_mounts(),
        # A hook is found in the node's tree, and the owner of another user namespace may not enter the void.
        begins_empty=by_monitor and pivots and not needs_pause and not has_own_users and _has_new_mounts(spec),
        has_empty_directory=by_monitor and not has_own_users and not builder.context,
        in_cgroup=in_cgroup,
        has_reaper=has_reaper,
        pauses=needs_pause,
        procfs=own_procfs,
        preserved=preserved,
        keyring=keyring,
    )
    return Ground(facts, builder.descriptors, builder.terminal)


class _Builder:
    def __init__(self, spec: schema.Spec, root: Fd) -> None:
        self._spec = spec
        self.descriptors: dict[int, Fd] = {}
        self.joins: list[Join] = []
        self.user_namespace: int | None = None
        self.null_device: int | None = None
        self.more_null_devices: list[int] = []
        self.terminal: terminal.Terminal | None = None
        self.context = spec.linux.mount_label if SELINUX.exists() else ""
        self._held: list[Fd | Mounts] = []
        self.root_number = self.keep(root)

    def look(self, asked: Asked) -> tuple[Facts, int | None]:
        """Open the namespaces and what is mounted, see to devices and to what is hidden; also a procfs, if one is needed."""
        self.open_namespaces()
        own_procfs = self.open_procfs()
        is_foreign = self.user_namespace is not None  # what was made ready belongs to the node's
        is_standard = not is_foreign and not self.context and has_standard_dev(self._spec)
        mounts = self.lay_mounts(replace(asked, has_ready_dev=asked.has_ready_dev and is_standard))
        devices = ground_devices.see_to(self._spec, mounts.tree, self.keep, mounts.ready_dev, in_user_namespace=is_foreign)
        return self.facts(mounts, self.find_masked(mounts.tree), devices), own_procfs

    def close(self) -> None:
        self.let_go()
        for descriptor in self.descriptors.values():
            descriptor.close()
        if self.terminal is not None:
            self.terminal.close()

    def facts(self, mounts: Mounts, masked: list[tuple[str, bool | None]], devices: dict[str, int | None]) -> Facts:
        """What was found out here; the rest is the caller's to say."""
        spec, has_users = self._spec, self.user_namespace is not None
        return Facts(
            attach_point="",
            root=self.root_number,
            last_capability=last_capability(),
            joins=tuple(self.joins),
            opened=tuple(mounts.opened.items()),
            late=tuple(mounts.late.items()),
            missing=tuple((index, tuple(paths)) for index, paths in mounts.missing.items()),
            modes=tuple(mounts.modes.items()),
            masked=tuple(masked),
            devices=tuple(devices.items()),
            null_device=self.null_device,
            more_null_devices=tuple(self.more_null_devices),
            console=mounts.console,
            readonly_root=spec.root is not None and spec.root.readonly,
            context=self.context,
            in_order=mounts.are_copied(),
            has_mounts=namespaces.has(spec, "mount"),
            user_namespace=self.user_namespace,
            is_rootless=not is_initial(),
            grantable=~0 if has_users else read_sets()[1],
            raised_limits=rlimits.above_ours(spec.process) if spec.process and has_users else (),
        )

    def keep(self, file: Fd) -> int:
        """Take *file* over; returns the number by which the program will know it."""
        number = FIRST_OPENED + len(self.descriptors)
        self.descriptors[number] = file
        return number

    def open_namespaces(self) -> None:
        """Open those to join, and make the user namespace, which is made before anybody lives in it."""
        user = joins.open_user(self._spec.linux)
        if user is not None:
            self.user_namespace = self.keep(user)
        for opened in joins.open_others(self._spec.linux, user):
            self.joins.append(Join(opened.kind, self.keep(opened.file), opened.is_outside))

    def open_procfs(self) -> int | None:
        """A procfs of our own, if there is something to write through it."""
        process, linux = self._spec.process, self._spec.linux
        wanted = linux.sysctl or linux.time_offsets or (process and (process.oom_score_adj is not None or wants_label(process)))
        return self.keep(procfs.share_procfs()) if wanted else None

    def lay_mounts(self, asked: Asked) -> Mounts:
        """Open what is mounted, and make the places that mounts and the working directory will stand on."""
        namespace, owner, within = None, None, None
        if self.user_namespace is not None:
            namespace = self.descriptors[self.user_namespace]
            owner = self._root_ids()
            within = self._hold(foreign_mount.new_mount_namespace(namespace))
            if asked.rootfs is not None:  # what it was opened with knows nothing of whose it will be
                self._root.close()
                root = open_root(asked.rootfs, self._spec.linux.rootfs_propagation, within)
                self.descriptors[self.root_number] = root
        tree = Tree(self._root, owner)
        is_copied = asked.is_copied and namespace is None and namespaces.has(self._spec, "mount")
        asked = replace(asked, is_copied=is_copied)
        mounts = Mounts(self._spec, tree, self.keep, namespace, within, asked)
        self._hold(mounts)
        try:
            mounts.lay()
        finally:
            self.terminal = mounts.terminal
        size = self._spec.process.console_size if self._spec.process is not None else None
        if self.terminal is not None and size is not None:
            terminal.set_window_size(self.terminal.master, size.height, size.width)
        return mounts

    def _root_ids(self) -> tuple[int, int]:
        """Who is the container's root, for the node."""
        linux = self._spec.linux
        return userns.host_id(linux.uid_mappings, 0) or 0, userns.host_id(linux.gid_mappings, 0) or 0

    @property
    def _root(self) -> Fd:
        return self.descriptors[self.root_number]

    def _hold(self, held: Held) -> Held:
        """Close *held* when all has been looked at."""
        self._held.append(held)
        return held

    def let_go(self) -> None:
        """Close what only the look needed."""
        for held in self._held:
            held.close()

    def find_masked(self, tree: Tree) -> list[tuple[str, bool | None]]:
        """Which masked paths exist, and whether each is a directory."""
        found: dict[str, bool | None] = {}
        for path in self._spec.linux.masked_paths:
            place = tree.find(path if path.startswith("/") else f"/{path}")
            if place is None or any(place.path == above or place.path.startswith(f"{above}/") for above in found):
                continue  # not there, or hidden already
            if place.path == "/":
                raise InvalidSpec(f"linux.maskedPaths {path}: nothing would be left of the container")
            found[place.path] = place.is_directory
            if not place.is_directory and self.null_device is None:
                self.null_device = self.keep(open_null_device())
            elif place.is_directory is None and not has_detached_copies():
                self.more_null_devices.append(self.keep(open_null_device()))
        return list(found.items())


def _has_new_mounts(spec: schema.Spec) -> bool:
    return any(namespace.type == "mount" and not namespace.path for namespace in spec.linux.namespaces)


def refuse_shared_mounts(spec: schema.Spec) -> None:
    """Raise Unsupported for a container without a mount namespace where that would put its mounts among the node's.

    Since Linux 6.15 a tree that is in no mount table can be mounted upon, and the container confined to it.
    """
    if namespaces.has(spec, "mount"):
        return
    release = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
    if release < (6, 15):
        raise Unsupported("linux.namespaces: without a mount namespace of its own a container needs Linux 6.15 or newer")
    if namespaces.has(spec, "user"):
        raise Unsupported("linux.namespaces: with a user namespace a container needs a mount namespace too, or it may not mount")


def refuse_unsupported(spec: schema.Spec, *, can_pause: bool) -> bool:
    """Whether the caller has something to do before the root is swapped.

    Raises Unsupported if it has, and cannot (*can_pause*), or if the spec asks for what no start does: such a wish is
    never passed over in silence.
    """
    names = zip(schema.Hooks.__struct_fields__, schema.Hooks.__struct_encode_fields__, strict=True)
    hooks = [kind for name, kind in names if getattr(spec.hooks, name)]
    wishes = [f"hooks.{kind}" for kind in hooks]
    wishes += [
        name for name, wish in (("linux.netDevices", spec.linux.net_devices), ("linux.intelRdt", spec.linux.intel_rdt)) if wish
    ]
    if wishes and not can_pause:
        raise Unsupported(f"{wishes[0]}: containers of a pod do not have this; kernelet-oci does it")
    return any(not name.endswith(("startContainer", "poststart", "poststop")) for name in wishes)
