"""The ground of a start as it would be if everything that a spec asks for were there: pure, for plans.

``ground.py`` opens and looks; this only counts, in the same order, so that a program made from a sketch is the program
that a start on this node would make.  Where only a look could tell, the usual is assumed: a bind's source is a directory
unless its name is a file's, no path of the image is a link, every masked path is there.  A descriptor's number means
nothing to a reader: ``names_of`` says what each stands for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import msgspec

from kernel.capability import CAPABILITIES
from runtime.container import ground_mounts, namespaces
from runtime.container.descriptors import FIRST_OPENED
from runtime.container.facts import Facts, Join, OpenedMount
from runtime.container.label import wants_label
from runtime.container.namespaces import KINDS
from runtime.container.options import parse_options
from runtime.container.rootfs_devices import wanted_devices
from runtime.errors import InvalidSpec
from runtime.spec import schema

ATTACH_POINT = "/run/kernelet/root"
#: What a tmpfs covers has these permissions in an ordinary image, and they become its own.
COVERED_MODE = 0o755
_BEFORE_THE_PIVOT = ("prestart", "create_runtime", "create_container")
#: File systems in which nothing can be made: a place for a mount in there is there, or the start fails.
_OF_THE_KERNEL = {"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"}
#: Names under which pods bind single files, and of those paths that are hidden by default the ones that are files.
_FILES = {"hosts", "hostname", "passwd", "group", "termination-log", "null", "zero", "full", "tty", "random", "urandom"}
_HIDDEN_FILES = {"kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "interrupts"}


@dataclass(frozen=True, slots=True)
class Sketch:
    """Facts for a program, and the spec that goes with them."""

    facts: Facts
    spec: schema.Spec


def sketch(spec: schema.Spec, *, has_reaper: bool = True, in_order: bool = False) -> Sketch:
    """Facts for *spec* as if everything were there; *in_order* as ``ground.prepare`` takes it.

    Raises InvalidSpec for what no ground could be prepared for.
    """
    settled = msgspec.convert(msgspec.to_builtins(spec), schema.Spec)
    ground_mounts.settle(settled, None, None)
    drawing = _Drawing(settled)
    user = drawing.draw_namespaces()
    procfs = drawing.draw_procfs()
    drawing.draw_mounts()
    devices = drawing.draw_devices(is_bound=user is not None)
    masked = drawing.draw_masked()
    facts = Facts(
        attach_point=ATTACH_POINT,
        root=drawing.root,
        last_capability=len(CAPABILITIES) - 1,
        joins=tuple(drawing.joins),
        opened=tuple(drawing.opened.items()),
        missing=tuple((index, tuple(levels)) for index, levels in drawing.missing.items()),
        modes=tuple(drawing.modes.items()),
        masked=masked,
        devices=devices,
        null_device=drawing.null_device,
        console=drawing.console,
        readonly_root=settled.root is not None and settled.root.readonly,
        in_order=in_order and user is None and namespaces.has(settled, "mount") and drawing.are_copied(),
        has_mounts=namespaces.has(settled, "mount"),
        has_reaper=has_reaper,
        pauses=bool(settled.linux.net_devices or settled.linux.intel_rdt)
        or any(getattr(settled.hooks, kind) for kind in _BEFORE_THE_PIVOT),
        user_namespace=user,
        procfs=procfs,
    )
    return Sketch(facts, settled)


def names_of(spec: schema.Spec, facts: Facts) -> dict[int, str]:
    """What the descriptors of *facts*, a sketch's or a real ground's, stand for in *spec*."""
    paths = {KINDS[each.type]: each.path for each in spec.linux.namespaces if each.path}
    names = {facts.root: "root", **{join.descriptor: paths.get(join.kind, join.kind) for join in facts.joins}}
    for index, opened in facts.opened:
        mount = spec.mounts[index]
        names[opened.descriptor] = f"mount of {mount.source}" if ground_mounts.is_bind(mount) else f"new {mount.type}"
    names |= {number: f"device {path}" for path, number in facts.devices if number is not None}
    names |= {late.namespace: "user namespace of the mount" for _, late in facts.late if late.namespace is not None}
    others = {
        paths.get("CLONE_NEWUSER", "new user namespace"): facts.user_namespace,
        "procfs": facts.procfs,
        "terminal": facts.console,
        "/dev/null": facts.null_device,
    }
    names |= {number: name for name, number in others.items() if number is not None}
    return {number: f"<{name}>" for number, name in names.items()}


@dataclass(slots=True)
class _Layer:
    """A mount of the spec: where, what (empty when it is there already), and what init will have made in it."""

    prefix: str
    type: str
    made: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Drawing:
    spec: schema.Spec
    taken: int = 0
    joins: list[Join] = field(default_factory=list)
    opened: dict[int, OpenedMount] = field(default_factory=dict)
    missing: dict[int, list[str]] = field(default_factory=dict)
    modes: dict[int, int] = field(default_factory=dict)
    layers: list[_Layer] = field(default_factory=lambda: [_Layer("/", "")])
    root: int = 0
    null_device: int | None = None
    console: int | None = None

    def __post_init__(self) -> None:
        self.root = self._take()

    def _take(self) -> int:
        """The number of the next descriptor."""
        self.taken += 1
        return FIRST_OPENED + self.taken - 1

    def draw_namespaces(self) -> int | None:
        """The user namespace, if there is one, and those to join."""
        namespaces, user = self.spec.linux.namespaces, None
        for namespace in namespaces:
            if namespace.type not in KINDS:
                raise InvalidSpec(f"linux.namespaces: unknown type {namespace.type!r}")
            if namespace.type == "user":
                user = self._take()
        joined = [namespace for namespace in namespaces if namespace.path and namespace.type != "user"]
        self.joins = [Join(KINDS[namespace.type], self._take()) for namespace in joined]
        return user

    def draw_procfs(self) -> int | None:
        process, linux = self.spec.process, self.spec.linux
        of_process = process is not None and (process.oom_score_adj is not None or wants_label(process))
        return self._take() if linux.sysctl or linux.time_offsets or of_process else None

    def draw_mounts(self) -> None:
        for index, mount in enumerate(self.spec.mounts):
            options = parse_options(mount.options)
            if options.is_remount:
                continue
            is_directory = self._open(index, mount)
            layer = self._make(index, mount.destination, directory=is_directory)
            is_opened = index in self.opened
            if mount.type == "tmpfs" and not ground_mounts.is_bind(mount) and not layer.type:
                self.modes[index] = COVERED_MODE
            is_there = is_opened and mount.type != "devpts"
            self.layers.append(_Layer(mount.destination.rstrip("/") + "/", "" if is_there else mount.type))
        if self.spec.process is not None:
            self._make(len(self.spec.mounts), self.spec.process.cwd, directory=True)

    def are_copied(self) -> bool:
        """Whether it makes a difference to copy what was opened at its turn (``ground_mounts.Mounts.are_copied``)."""
        wishes = [parse_options(self.spec.mounts[index].options).propagation for index in self.opened]
        cannot_yet = any(name == "unbindable" for wish in wishes for name, _ in wish)
        return cannot_yet or any(index >= len(self.opened) for index in self.opened)

    def _open(self, index: int, mount: schema.Mount) -> bool:
        """Number what is made ready beforehand; whether the mount is a directory."""
        options, is_directory = parse_options(mount.options), True
        process = self.spec.process
        if ground_mounts.is_bind(mount):
            is_directory = not _is_file(mount)
            self.opened[index] = OpenedMount(self._take(), is_directory)
        elif mount.type == "devpts" and process is not None and process.terminal and self.console is None:
            self.opened[index] = OpenedMount(self._take(), True)
            self.console = self._take()
        elif options.copies_up or (mount.type in ("cgroup", "cgroup2") and not self._has("cgroup")):
            self.opened[index] = OpenedMount(self._take(), True)
        return is_directory

    def _has(self, kind: str) -> bool:
        return any(namespace.type == kind for namespace in self.spec.linux.namespaces)

    def _make(self, index: int, path: str, *, directory: bool) -> _Layer:
        """Note what init has to make on the way to *path*; returns the layer that it is in."""
        path = path.rstrip("/") or "/"
        layer = self._on_top(path)
        if not layer.type or layer.type in _OF_THE_KERNEL or path == layer.prefix[:-1]:
            return layer
        levels = [level for level in _levels(layer.prefix, path, directory=directory) if level not in layer.made]
        is_new_file = not directory and path not in layer.made
        layer.made.update(levels, [path])
        if levels or is_new_file:
            self.missing[index] = levels
        return layer

    def _on_top(self, path: str) -> _Layer:
        """The layer that *path* lies in.  Raises InvalidSpec when it is not absolute."""
        for layer in reversed(self.layers):
            if path.startswith(layer.prefix) or path == layer.prefix[:-1]:
                return layer
        raise InvalidSpec(f"{path!r}: must be an absolute path")

    def draw_devices(self, *, is_bound: bool) -> tuple[tuple[str, int | None], ...]:
        """Those that are not made by init: on the image's own /dev, and all of them in a user namespace."""
        found: dict[str, int | None] = {}
        for path, device in wanted_devices(self.spec).items():
            layer = self._on_top(path)
            if is_bound and device.type != "p":
                found[path] = self._take()
            elif not layer.type:
                found[path] = None
        return tuple(found.items())

    def draw_masked(self) -> tuple[tuple[str, bool | None], ...]:
        found = {path: os.path.basename(path) not in _HIDDEN_FILES for path in self.spec.linux.masked_paths}
        if not all(found.values()):
            self.null_device = self._take()
        return tuple(found.items())


def _is_file(mount: schema.Mount) -> bool:
    name = os.path.basename(mount.destination)
    return name in _FILES or "." in name.strip(".")


def _levels(base: str, path: str, *, directory: bool) -> list[str]:
    """The directories below *base* on the way to *path*: with *path* itself when it is one."""
    here, levels = base.rstrip("/"), []
    parts = path[len(here) :].strip("/").split("/")
    for part in parts if directory else parts[:-1]:
        here = f"{here}/{part}"
        levels.append(here)
    return levels
