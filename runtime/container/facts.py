"""What was found out on this node before a program is composed.

``ground.py`` opens things and looks at them; ``init.py`` and ``join.py`` only compose.  Between the
two stands this plain record, so that a program can be built, printed and compared without root.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenedMount:
    """A mount of the spec that was made ready beforehand: its descriptor, and whether it is a directory."""

    descriptor: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Join:
    """A namespace to enter, by descriptor.  *kind* is the constant's name: CLONE_NEWNET."""

    kind: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class Facts:
    attach_point: str
    """An empty directory of ours on which init attaches the root, in its own mount namespace."""
    root: int
    """Descriptor of the detached root mount."""
    last_capability: int
    joins: tuple[Join, ...] = ()
    opened: tuple[tuple[int, OpenedMount], ...] = ()
    """By index into the spec's mounts: what was opened beforehand (binds, and devpts when there is a terminal)."""
    missing: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """By index into the spec's mounts: directories to make first, on a file system that init itself mounts."""
    masked: tuple[tuple[str, bool], ...] = ()
    """Paths to hide, and whether each is a directory; absent ones are left out."""
    null_device: int | None = None
    """Descriptor of a detached mount of the host's /dev/null: what a masked file becomes."""
    console: int | None = None
    """Descriptor of a detached mount of the terminal, for /dev/console."""
    in_cgroup: bool = True
    has_reaper: bool = True
    """The runner's parent half stays behind as the reaper; otherwise the new process is the child of who started the runner."""
    pauses: bool = False
    """Before the pivot the program says "h" and waits: hooks, network devices and the like are seen to from outside."""
    user_namespace: int | None = None
    """Descriptor of the user namespace, made beforehand, that owns all the new ones."""
    procfs: int | None = None
    """Descriptor of a procfs of our own, in no mount table, through which the program writes what it has to."""
    preserved: int = 0
    """How many descriptors from 3 on the caller hands to the container; they stand at FIRST_PRESERVED meanwhile."""
