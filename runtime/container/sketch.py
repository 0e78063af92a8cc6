"""The ground of a start as it would be if everything that a spec asks for were there: pure, for plans.

``ground.py`` opens and looks; this only counts, in the same order, so that a program made from a sketch is the program
that a start on this node would make.  Where only a look could tell (a bind's source may be a file or a directory) the
usual is assumed.  A descriptor's number means nothing to a reader: ``names`` says what each stands for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from kernel.capability import CAPABILITIES
from runtime.container.descriptors import FIRST_OPENED
from runtime.container.facts import Facts, Join, OpenedMount
from runtime.container.namespaces import KINDS
from runtime.container.options import parse_options
from runtime.errors import InvalidSpec
from runtime.spec import schema

ATTACH_POINT = "/run/kernelet/root"
_FRESH = {"tmpfs"}
#: Names under which pods bind single files, and of those paths that are hidden by default the ones that are files.
_FILES = {"hosts", "hostname", "passwd", "group", "termination-log", "null", "zero", "full", "tty", "random", "urandom"}
_HIDDEN_FILES = {"kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "interrupts"}


@dataclass(frozen=True, slots=True)
class Sketch:
    """Facts for a program, and what the descriptors in them are."""

    facts: Facts
    names: dict[int, str]


def sketch(spec: schema.Spec, *, has_reaper: bool = True) -> Sketch:
    """Facts for *spec* as if everything were there.  Raises InvalidSpec for what no ground could be prepared for."""
    drawing = _Drawing(spec)
    drawing.draw_namespaces()
    drawing.draw_mounts()
    masked = drawing.draw_masked()
    facts = Facts(
        attach_point=ATTACH_POINT,
        root=drawing.root,
        last_capability=len(CAPABILITIES) - 1,
        joins=tuple(drawing.joins),
        opened=tuple(drawing.opened.items()),
        missing=tuple((index, tuple(levels)) for index, levels in drawing.missing.items()),
        masked=masked,
        null_device=drawing.null_device,
        console=drawing.console,
        has_reaper=has_reaper,
    )
    return Sketch(facts, drawing.names)


@dataclass(slots=True)
class _Drawing:
    spec: schema.Spec
    names: dict[int, str] = field(default_factory=dict)
    joins: list[Join] = field(default_factory=list)
    opened: dict[int, OpenedMount] = field(default_factory=dict)
    missing: dict[int, list[str]] = field(default_factory=dict)
    root: int = 0
    null_device: int | None = None
    console: int | None = None

    def __post_init__(self) -> None:
        self.root = self._take("root")

    def _take(self, name: str) -> int:
        number = FIRST_OPENED + len(self.names)
        self.names[number] = f"<{name}>"
        return number

    def draw_namespaces(self) -> None:
        for namespace in self.spec.linux.namespaces:
            if namespace.path:
                if namespace.type not in KINDS:
                    raise InvalidSpec(f"linux.namespaces: unknown type {namespace.type!r}")
                self.joins.append(Join(KINDS[namespace.type], self._take(namespace.path)))

    def draw_mounts(self) -> None:
        wants_terminal = self.spec.process is not None and self.spec.process.terminal
        for index, mount in enumerate(self.spec.mounts):
            if mount.type == "bind" or parse_options(mount.options).is_bind:
                number = self._take(f"mount of {mount.source}")
                self.opened[index] = OpenedMount(number, not _is_file(mount))
            elif mount.type == "devpts" and wants_terminal:
                self.opened[index] = OpenedMount(self._take("new devpts"), True)
                self.console = self._take("terminal")
        for index, mount in enumerate(self.spec.mounts):
            self._place(index, mount.destination, directory=index not in self.opened or self.opened[index].is_directory)
        if self.spec.process is not None:
            self._place(len(self.spec.mounts), self.spec.process.cwd, directory=True)

    def _place(self, index: int, path: str, *, directory: bool) -> None:
        owner = self._mount_below(index, path)
        if owner is not None and self.spec.mounts[owner].type in _FRESH and owner not in self.opened:
            self.missing[index] = _levels(self.spec.mounts[owner].destination, path, directory=directory)

    def _mount_below(self, index: int, path: str) -> int | None:
        best, length = None, 0
        for earlier, mount in enumerate(self.spec.mounts[:index]):
            prefix = mount.destination.rstrip("/") + "/"
            if len(prefix) >= length and path.startswith(prefix):
                best, length = earlier, len(prefix)
        return best

    def draw_masked(self) -> tuple[tuple[str, bool], ...]:
        found = tuple((path, os.path.basename(path) not in _HIDDEN_FILES) for path in self.spec.linux.masked_paths)
        if any(not is_directory for _, is_directory in found):
            self.null_device = self._take("/dev/null")
        return found


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
