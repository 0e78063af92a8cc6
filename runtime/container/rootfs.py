"""The steps that give a container its own tree: mounts, the pivot, hidden and read-only paths.

What comes from the host arrives as a descriptor of a detached mount that was opened and checked beforehand
(``ground``); everything with a path inside the root goes through ``rootfs_paths``.
"""

from __future__ import annotations

import errno
import os

from kernel.program import Flags, Program, Slot
from runtime.container import rootfs_mounts
from runtime.container.descriptors import FIRST_OPENED, Descriptor
from runtime.container.facts import Facts, OpenedMount
from runtime.container.options import parse_options
from runtime.container.rootfs_paths import DIRECTORY, EMPTY, HERE, INTO, find, make_directory, make_file, set_attributes
from runtime.errors import InvalidSpec
from runtime.spec import defaults, schema

#: What is nearly always hidden or write-protected in a procfs: of these none is a link, nor has one on the way.
IN_PROCFS = frozenset(path for path in (*defaults.MASKED_PATHS, *defaults.READONLY_PATHS) if path.startswith("/proc/"))
_PROPAGATIONS = ("private", "slave", "shared", "unbindable")


def enter(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """Attach the root in the new mount namespace, apart from everybody else's mounts; without one it is in none."""
    if not facts.has_mounts:
        return
    steps.heading("the root")
    if facts.begins_empty:
        _enter_empty(steps, facts)
        return
    steps.call(
        "mount",
        0,
        "/",
        0,
        Flags(("MS_REC", "MS_PRIVATE")),
        0,
        why="from here on no mount of ours reaches another namespace, nor theirs ours",
    )
    if facts.in_order:
        rootfs_mounts.stage(steps, spec, facts)
    steps.call(
        "move_mount",
        facts.root,
        "",
        HERE,
        facts.attach_point,
        Flags(("MOVE_MOUNT_F_EMPTY_PATH",)),
        why="attach the container's root, which so far was in no mount table",
        hint="the directory to attach to must exist and be ours",
    )


def _enter_empty(steps: Program, facts: Facts) -> None:
    """Attach the root where there is nothing: no mount of the node's is there to be kept apart, swapped, or let go of.

    *Measured*: a seventh of the time from the request to the first instruction.
    """
    steps.call("setns", Descriptor.VOID, Flags(("CLONE_NEWNS",)), why="leave the node's mounts, for an empty directory")
    steps.call("unshare", Flags(("CLONE_NEWNS",)), why="with a table of its own")
    flags = Flags(("MOVE_MOUNT_F_EMPTY_PATH",))
    steps.call("move_mount", facts.root, "", HERE, "/", flags, why="put the container's root upon the empty directory")


def mount_all(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """Mount what the spec lists, in its order; then make the directories that only the working directory needs."""
    steps.heading("mounts")
    opened, late, missing = dict(facts.opened), dict(facts.late), dict(facts.missing)
    for index, mount in enumerate(spec.mounts):
        for directory in missing.get(index, ()):
            make_directory(steps, facts.root, directory)
        options = parse_options(mount.options)
        source: int | Slot
        is_directory = True
        if options.is_remount:
            rootfs_mounts.remount(steps, mount, facts)
            continue
        if index in opened:
            source, is_directory = opened[index].descriptor, opened[index].is_directory
            if rootfs_mounts.is_copied(mount, facts):
                source = rootfs_mounts.take_from_stage(steps, mount, opened[index].descriptor)
        elif index in late:
            source, is_directory = rootfs_mounts.bind_from_inside(steps, mount, late[index], facts), late[index].is_directory
        elif rootfs_mounts.takes_old_way(options):
            rootfs_mounts.mount_old_way(steps, index, mount, facts)
            continue
        else:
            source = rootfs_mounts.new_file_system(steps, index, mount, facts)
        if not is_directory and index in missing:
            make_file(steps, facts.root, mount.destination)
        label = _label(opened.get(index), mount)
        _attach(steps, facts, mount, source, label, is_directory=is_directory)
    for directory in missing.get(len(spec.mounts), ()):
        make_directory(steps, facts.root, directory)


def _label(opened: OpenedMount | None, mount: schema.Mount) -> str:
    if opened is None:
        return mount.type or "it"
    return f"the {mount.type} that was made ready" if opened.descriptor < FIRST_OPENED else "what was opened on the host"


def _attach(steps: Program, facts: Facts, mount: schema.Mount, source: int | Slot, label: str, *, is_directory: bool) -> None:
    # A proc or sysfs behind a symlink would put masks elsewhere (CVE-2023-27561).
    no_follow = ("O_NOFOLLOW",) if mount.type in ("proc", "sysfs") else ()
    flags = ("O_PATH", "O_CLOEXEC", *(("O_DIRECTORY",) if is_directory else ()), *no_follow)
    target = find(steps, facts.root, mount.destination, store="target", flags=flags)
    steps.call(
        "move_mount",
        source,
        "",
        target,
        "",
        EMPTY,
        why=f"put {label} at {mount.destination}",
        hint=f"{mount.destination} in the image must be a {'directory' if is_directory else 'file'}",
    )


def pivot(steps: Program, facts: Facts) -> None:
    """Make the container's root "/" and let go of the host's tree."""
    if not facts.has_mounts:
        steps.heading("the new root")
        steps.call("fchdir", facts.root, why="stand in the new root")
        steps.call("chroot", ".", why="be confined to it: the mounts of everybody are the container's as well")
        return
    if not facts.pivots:
        _move(steps, facts)
        return
    if facts.begins_empty:
        steps.heading("the new root")
        steps.call("fchdir", facts.root, why="stand in the new root")
        steps.call("chroot", ".", why="it becomes /; below it there is an empty directory, and nothing else anywhere")
        return
    steps.heading("the pivot")
    steps.call("fchdir", facts.root, why="stand in the new root")
    steps.call(
        "pivot_root",
        ".",
        ".",
        why="the new root becomes /, the old one is stacked upon it; no directory is needed for that",
        hint="the new root must be a mount point, and the old one must not be the initramfs (then --no-pivot helps)",
    )
    steps.call("umount2", ".", Flags(("MNT_DETACH",)), why="let go of the host's tree: nothing of it can be reached any more")
    steps.call("chdir", "/", why="stand in the new root, not above it")


def _move(steps: Program, facts: Facts) -> None:
    """Without a pivot the host's tree stays below, where nobody gets to; what lets a new procfs be made must not."""
    steps.heading("the move")
    for path in facts.hidden:
        gone = (errno.EINVAL, errno.EPERM, errno.ENOENT, errno.ENOTDIR)
        steps.call("umount2", path, Flags(("MNT_DETACH",)), tolerate=gone, why=f"{path} of the host must not lie open below")
        flags = Flags(("MS_RDONLY", "MS_NOSUID", "MS_NODEV", "MS_NOEXEC"))
        absent = (errno.ENOENT, errno.ENOTDIR)
        steps.call("mount", "none", path, "tmpfs", flags, "size=4k", tolerate=absent, why="nor if it could not be unmounted")
    steps.call("fchdir", facts.root, why="stand in the new root")
    flags = Flags(("MOVE_MOUNT_F_EMPTY_PATH",))
    steps.call("move_mount", facts.root, "", HERE, "/", flags, why="move it over the old one")
    steps.call("chroot", ".", why="and be confined to it")
    steps.call("chdir", "/", why="stand in the new root, not above it")


def protect(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """Hide and write-protect paths of the kernel's and the image's, now that all is in place."""
    steps.heading("hidden and read-only paths")
    for mount in spec.mounts:
        if rootfs_mounts.is_sealed_later(mount):
            made = find(steps, HERE, mount.destination, store="mount", flags=("O_PATH", "O_CLOEXEC"))
            set_attributes(steps, made, add=("MOUNT_ATTR_RDONLY",), why=f"{mount.destination} is read-only from now on")
    if facts.readonly_root:
        set_attributes(steps, facts.root, add=("MOUNT_ATTR_RDONLY",), why="the root is read-only from now on")
    procfs = _find_procfs(steps, spec, facts)
    for path in spec.linux.readonly_paths:
        _write_protect(steps, facts, path, procfs)
    in_use: set[bool] = set()
    spares = list(facts.more_null_devices)
    # Those first of which it is known that they are there: what covers them can be copied on any kernel from then on.
    for path, is_directory in sorted(facts.masked, key=lambda masked: masked[1] is None):
        for kind in (True, False) if is_directory is None else (is_directory,):
            is_first, is_known = kind not in in_use, is_directory is not None
            spare = spares.pop() if spares and not (kind or is_first or is_known) else None
            at = procfs if is_known and path in IN_PROCFS else None
            _mask(steps, facts, path, at, is_directory=kind, is_first=is_first, is_known=is_known, spare=spare)
            if is_directory is not None or not kind:  # an empty directory that may have covered nothing is not used again
                in_use.add(kind)
    _set_propagation(steps, spec.linux.rootfs_propagation)


def _find_procfs(steps: Program, spec: schema.Spec, facts: Facts) -> Slot | None:
    """The container's own procfs, where it spares looking for things one by one (3 µs each); None elsewhere."""
    there = [mount for mount in spec.mounts if mount.destination == "/proc"]
    known = {path for path, kind in facts.masked if kind is not None}
    if not there or there[-1].type != "proc" or IN_PROCFS.isdisjoint({*spec.linux.readonly_paths, *known}):
        return None
    return find(steps, HERE, "/proc", store="procfs", flags=DIRECTORY)


def _mask(
    steps: Program,
    facts: Facts,
    path: str,
    procfs: Slot | None,
    *,
    is_directory: bool,
    is_first: bool,
    is_known: bool,
    spare: int | None,
) -> None:
    """Hide *path*, which is in *procfs* if that is given, by *spare* if that is.

    When it is not known what it is, or whether it is, a directory is tried first and then a file.
    """
    if procfs is not None:
        cover = _cover(steps, facts, path, is_directory=is_directory, is_first=is_first)
        steps.call("move_mount", cover, "", procfs, os.path.basename(path), INTO, why=f"hide {path}")
        return
    flags = ("O_PATH", "O_CLOEXEC", *(("O_DIRECTORY",) if is_directory and not is_known else ()))
    absent = () if is_known else (errno.ENOENT, errno.ENOTDIR)
    target = find(steps, HERE, path, store="masked", flags=flags, tolerate=absent)
    cover = spare or _cover(steps, facts, path, is_directory=is_directory, is_first=is_first)
    # EINVAL: that is a directory, which has been hidden a step ago.
    no_file = (errno.EINVAL,) if not is_known and not is_directory else ()
    steps.call("move_mount", cover, "", target, "", EMPTY, tolerate=no_file, why=f"hide {path}")


def _cover(steps: Program, facts: Facts, path: str, *, is_directory: bool, is_first: bool) -> Slot | int:
    """What hides *path*: first the original, then copies (before 6.15 a detached mount cannot be copied)."""
    if is_directory:
        if is_first and not facts.has_empty_directory:
            _empty_file_system(steps, facts)
            return Slot("void")
        empty = Descriptor.EMPTY if facts.has_empty_directory else Slot("void")
        return empty if is_first else _copy(steps, empty, f"another view of the empty directory for {path}")
    if facts.null_device is None:
        raise InvalidSpec(f"linux.maskedPaths {path}: no device was opened to hide a file with")
    return facts.null_device if is_first else _copy(steps, facts.null_device, f"another view of /dev/null for {path}")


def _write_protect(steps: Program, facts: Facts, path: str, procfs: Slot | None) -> None:
    absent = (errno.ENOENT, errno.ENOTDIR)
    if not path.strip("/"):  # a second mount over / would be above this process, not before it
        set_attributes(steps, facts.root, add=("MOUNT_ATTR_RDONLY",), recursive=True, why="/ and all below it is read-only")
        return
    why, flags = f"a second mount of {path} and all below it", ("OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC", "AT_RECURSIVE")
    if procfs is not None and path in IN_PROCFS:
        target, name, how = procfs, os.path.basename(path), INTO
        whole = Flags((*flags, "AT_SYMLINK_NOFOLLOW"))
        copy = steps.call("open_tree", procfs, name, whole, store="copy", tolerate=absent, why=why)
    else:
        target = find(steps, HERE, path, store="protected", flags=("O_PATH", "O_CLOEXEC"), tolerate=absent)
        copy = steps.call("open_tree", target, "", Flags((*flags, "AT_EMPTY_PATH")), store="copy", why=why)
        name, how = "", EMPTY
    set_attributes(steps, copy, add=("MOUNT_ATTR_RDONLY",), recursive=True, why="read-only, with every mount below")
    steps.call("move_mount", copy, "", target, name, how, why=f"put it over {path}")


def _set_propagation(steps: Program, wanted: str) -> None:
    """What *linux.rootfsPropagation* says of "/": after the pivot, which no shared mount may have a part in (pivot_root(2)).

    Private it is already, and a slave is made where the root is opened, while there is something to follow.
    """
    name = wanted.removeprefix("r")
    if wanted and name not in _PROPAGATIONS:
        raise InvalidSpec(f"linux.rootfsPropagation: unknown propagation {wanted!r}")
    if name in ("shared", "unbindable"):
        flags = Flags((f"MS_{name.upper()}", *(("MS_REC",) if wanted != name else ())))
        steps.call("mount", 0, "/", 0, flags, 0, why=f"the root is {name}, among the mounts of this container")


def _copy(steps: Program, source: Slot | int, why: str) -> Slot:
    flags = Flags(("OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC", "AT_EMPTY_PATH"))
    return steps.call("open_tree", source, "", flags, store="copy", why=why)


def _empty_file_system(steps: Program, facts: Facts) -> None:
    context = Slot("context")
    steps.call("fsopen", "tmpfs", Flags(("FSOPEN_CLOEXEC",)), store="context", why="an empty directory to hide others with")
    label = (("context", facts.context),) if facts.context else ()
    for key, value in (("nr_inodes", "2"), ("mode", "0555"), *label):
        steps.call("fsconfig", context, Flags(("FSCONFIG_SET_STRING",)), key, value, 0, why=f"set {key}")
    steps.call("fsconfig", context, Flags(("FSCONFIG_CMD_CREATE",)), 0, 0, 0, why="make it")
    attributes = Flags(("MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV", "MOUNT_ATTR_NOEXEC"))
    steps.call("fsmount", context, Flags(("FSMOUNT_CLOEXEC",)), attributes, store="void", why="read-only for good")
