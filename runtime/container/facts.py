"""What was found out on this node before a program is composed.

``ground.py`` opens things and looks at them; ``init.py`` and ``join.py`` only compose.  Between the
two stands this plain record, so that a program can be built, printed and compared without root.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.container.descriptors import Descriptor


@dataclass(frozen=True, slots=True)
class OpenedMount:
    """A mount of the spec that was made ready beforehand: its descriptor, and whether it is a directory."""

    descriptor: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class LateMount:
    """A bind mount of something inside the root that other mounts of the spec lie on: it is opened when those are there."""

    source: str
    is_directory: bool
    namespace: int | None = None
    """Descriptor of the user namespace through which the owners of its files are seen."""
    exactly: bool = False
    """It gets the flags that its options say and loses the others."""


@dataclass(frozen=True, slots=True)
class Join:
    """A namespace to enter, by descriptor.  *kind* is the constant's name: CLONE_NEWNET."""

    kind: str
    descriptor: int
    is_outside: bool = False
    """It does not belong to the container's user namespace, so whoever enters it does so before that one."""


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
    late: tuple[tuple[int, LateMount], ...] = ()
    """By index into the spec's mounts: what is bound from inside the root."""
    missing: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """By index into the spec's mounts: directories to make first, on a file system that init itself mounts."""
    modes: tuple[tuple[int, int], ...] = ()
    """By index into the spec's mounts: the permissions of what a tmpfs covers, which become its own."""
    masked: tuple[tuple[str, bool | None], ...] = ()
    """Paths to hide, and whether each is a directory (None: that is seen when it is there); absent ones are left out."""
    devices: tuple[tuple[str, int | None], ...] = ()
    """Devices that were seen to: None for one that is in its place, or the descriptor of a detached mount of it."""
    null_device: int | None = None
    """Descriptor of a detached mount of the host's /dev/null: what a masked file becomes."""
    more_null_devices: tuple[int, ...] = ()
    """The same for masked paths of which it is not known what they are, one each after the first, where none can be copied."""
    console: int | None = None
    """Descriptor of the terminal in its devpts, opened with O_PATH, which is bound on /dev/console when that is attached."""
    readonly_root: bool = False
    context: str = ""
    """The SELinux label of new file systems; empty where the kernel has no SELinux."""
    pivots: bool = True
    """The root is swapped; else it is moved over the old one, for a root file system that cannot be pivoted from."""
    hidden: tuple[str, ...] = ()
    """Without a pivot: where the node's procfs and sysfs are, which must not lie open below (as runc's msMoveRoot)."""
    in_order: bool = False
    """What was opened beforehand is copied at its turn, so that mountinfo shows all mounts in the order of the spec."""
    has_mounts: bool = True
    """It has a mount namespace of its own, or a joined one; else it is confined to its root, which is in no mount table."""
    begins_empty: bool = False
    """The mount namespace begins as a copy of one that is empty (Descriptor.VOID), not as one of the node's."""
    has_empty_directory: bool = False
    """There is a mount of an empty directory to hide others with (Descriptor.EMPTY)."""
    in_cgroup: bool = True
    has_reaper: bool = True
    """The runner's parent half stays behind as the reaper; otherwise the new process is the child of who started the runner."""
    lets_go_of_input: bool = False
    """The reaper can be told to close its end of stdin, which then ends for good."""
    pauses: bool = False
    """Before the pivot the program says "h" and waits: hooks, network devices and the like are seen to from outside."""
    user_namespace: int | None = None
    """Descriptor of the user namespace, made beforehand, that owns all the new ones."""
    procfs: int | None = None
    """Descriptor of a procfs of our own, in no mount table, through which the program writes what it has to."""
    preserved: int = 0
    """How many descriptors from 3 on the caller hands to the container; they stand at FIRST_PRESERVED meanwhile."""
    keyring: str | None = ""
    """The name of the session keyring; none for a nameless new one, None to keep the caller's."""
    grantable: int = ~0
    """The capabilities (bits) that can be given to a container here; what else the spec lists is left out."""
    raised_limits: tuple[str, ...] = ()
    """Limits of the spec that are above the launcher's, which a user namespace has no right to raise."""
    is_rootless: bool = False
    """The launcher is itself in a user namespace, whose root may less than the node's: no other groups, perhaps."""

    @property
    def has_ready_dev(self) -> bool:
        """Whether /dev is there with the links that programs expect (Descriptor.DEV)."""
        return any(opened.descriptor == Descriptor.DEV for _, opened in self.opened)
