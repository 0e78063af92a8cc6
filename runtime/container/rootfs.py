"""The steps that give a container its own tree: mounts, devices, the pivot, hidden and read-only paths.

Everything with a path inside the root goes through openat2 with the root as "/" and then by
descriptor (CVE-2019-18837, CVE-2021-30465); what comes from the host arrives as a descriptor of a
detached mount that the daemon opened and checked.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import PurePosixPath

from kernel.program import Flags, Program, Slot, Words
from runtime.container.facts import Facts
from runtime.container.options import parse_options
from runtime.errors import InvalidSpec
from runtime.spec import schema

_IN_ROOT = ("RESOLVE_IN_ROOT", "RESOLVE_NO_MAGICLINKS")
_EMPTY = Flags(("MOVE_MOUNT_F_EMPTY_PATH", "MOVE_MOUNT_T_EMPTY_PATH"))
NEW_FILE_SYSTEMS = {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def enter(steps: Program, facts: Facts) -> None:
    """Attach the root in the new mount namespace, apart from everybody else's mounts."""
    steps.heading("the root")
    steps.call(
        "mount",
        0,
        "/",
        0,
        Flags(("MS_REC", "MS_PRIVATE")),
        0,
        why="from here on no mount of ours reaches another namespace, nor theirs ours",
    )
    steps.call(
        "move_mount",
        facts.root,
        "",
        Flags(("AT_FDCWD",)),
        facts.attach_point,
        Flags(("MOVE_MOUNT_F_EMPTY_PATH",)),
        why="attach the container's root, which so far was in no mount table",
        hint="the directory to attach to must exist and be ours",
    )


def mount_all(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """Mount what the spec lists, in its order; then make the directories that only the working directory needs."""
    steps.heading("mounts")
    opened, missing = dict(facts.opened), dict(facts.missing)
    for index, mount in enumerate(spec.mounts):
        for directory in missing.get(index, ()):
            _make_directory(steps, facts, directory)
        if index in opened:
            source: int | Slot = opened[index].descriptor
            is_directory = opened[index].is_directory
        else:
            source, is_directory = _new_file_system(steps, index, mount), True
        if not is_directory and index in missing:
            _make_file(steps, facts, mount.destination)
        target = _open(
            steps,
            facts.root,
            mount.destination,
            store=f"target{index}",
            flags=("O_PATH", "O_CLOEXEC", *(("O_DIRECTORY",) if is_directory else ()), *_no_follow(mount)),
        )
        steps.call(
            "move_mount",
            source,
            "",
            target,
            "",
            _EMPTY,
            why=f"put {_label(mount)} at {mount.destination}",
            hint=f"{mount.destination} in the image must be a {'directory' if is_directory else 'file'}",
        )
    for directory in missing.get(len(spec.mounts), ()):
        _make_directory(steps, facts, directory)


def make_devices(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """Make the device nodes on the container's own /dev; not on one that is bound from the host."""
    dev = next((mount for mount in spec.mounts if mount.destination.rstrip("/") == "/dev"), None)
    if dev is None or dev.type != "tmpfs":
        return
    steps.heading("devices")
    directory = _open(steps, facts.root, "/dev", store="dev", flags=("O_PATH", "O_DIRECTORY", "O_CLOEXEC"))
    for device in spec.linux.devices:
        _make_device(steps, facts, directory, device)
    for target, name in _LINKS:
        steps.call("symlinkat", target, directory, name, tolerate=(errno.EEXIST,), why=f"programs expect /dev/{name}")
    if facts.console is not None:
        _make_file(steps, facts, "/dev/console")
        console = _open(steps, facts.root, "/dev/console", store="console", flags=("O_PATH", "O_NOFOLLOW", "O_CLOEXEC"))
        steps.call("move_mount", facts.console, "", console, "", _EMPTY, why="the terminal is the console")


def pivot(steps: Program, facts: Facts) -> None:
    """Make the container's root "/" and let go of the host's tree."""
    steps.heading("the pivot")
    steps.call("fchdir", facts.root, why="stand in the new root")
    steps.call(
        "pivot_root",
        ".",
        ".",
        why="the new root becomes /, the old one is stacked upon it; no directory is needed for that",
        hint="the new root must be a mount point",
    )
    steps.call("umount2", ".", Flags(("MNT_DETACH",)), why="let go of the host's tree: nothing of it can be reached any more")
    steps.call("chdir", "/", why="stand in the new root, not above it")


def protect(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """Hide and write-protect paths of the kernel's and the image's."""
    steps.heading("hidden and read-only paths")
    for path in spec.linux.readonly_paths:
        _write_protect(steps, path)
    in_use: set[bool] = set()
    for path, is_directory in facts.masked:
        target = _open(steps, Flags(("AT_FDCWD",)), path, store="masked", flags=("O_PATH", "O_CLOEXEC"))
        cover = _cover(steps, facts, path, is_directory=is_directory, is_first=is_directory not in in_use)
        in_use.add(is_directory)
        steps.call("move_mount", cover, "", target, "", _EMPTY, why=f"hide {path}")


def _cover(steps: Program, facts: Facts, path: str, *, is_directory: bool, is_first: bool) -> Slot | int:
    """What hides *path*: first the original, then copies (before 6.15 a detached mount cannot be copied)."""
    if is_directory:
        if is_first:
            _empty_file_system(steps)
            return Slot("void")
        return _copy(steps, Slot("void"), f"another view of the empty directory for {path}")
    if facts.null_device is None:
        raise InvalidSpec(f"linux.maskedPaths {path}: no device was opened to hide a file with")
    return facts.null_device if is_first else _copy(steps, facts.null_device, f"another view of /dev/null for {path}")


def _make_device(steps: Program, facts: Facts, directory: Slot, device: schema.Device) -> None:
    if device.type not in _TYPES:
        raise InvalidSpec(f"linux.devices {device.path}: unknown type {device.type!r}")
    if not device.path.startswith("/dev/") or "/../" in device.path:
        raise InvalidSpec(f"linux.devices {device.path}: must be below /dev")
    above, name = os.path.split(device.path)
    for parent in reversed(PurePosixPath(above.removeprefix("/dev")[1:]).parents[:-1]):
        _make_directory(steps, facts, f"/dev/{parent}")
    if above != "/dev":
        _make_directory(steps, facts, above)
        directory = _open(steps, facts.root, above, store="parent", flags=("O_PATH", "O_DIRECTORY", "O_CLOEXEC"))
    mode = _TYPES[device.type] | (0o666 if device.file_mode is None else device.file_mode & 0o7777)
    steps.call(
        "mknodat",
        directory,
        name,
        mode,
        os.makedev(device.major, device.minor),
        tolerate=(errno.EEXIST,),
        why=f"the device {device.type} {device.major}:{device.minor}",
        hint="making device nodes takes CAP_MKNOD in the initial user namespace",
    )
    if device.uid or device.gid:
        steps.call("fchownat", directory, name, device.uid, device.gid, Flags(("AT_SYMLINK_NOFOLLOW",)), why="its owner")


def _new_file_system(steps: Program, index: int, mount: schema.Mount) -> Slot:
    kind = {"cgroup": "cgroup2"}.get(mount.type, mount.type)
    if mount.type not in NEW_FILE_SYSTEMS:
        raise InvalidSpec(f"mounts[{index}] {mount.destination}: file system type {mount.type!r} is not supported")
    options = parse_options(mount.options)
    context, made = f"context{index}", f"mount{index}"
    steps.call("fsopen", kind, Flags(("FSOPEN_CLOEXEC",)), store=context, why=f"begin a new {kind}")
    source = (("source", mount.source),) if mount.source else ()
    for key, value in (*source, *options.data):
        command = "FSCONFIG_SET_FLAG" if value is None else "FSCONFIG_SET_STRING"
        steps.call(
            "fsconfig",
            Slot(context),
            Flags((command,)),
            key,
            0 if value is None else value,
            0,
            why=f"set {key}",
            hint=f"{kind} does not know the mount option {key}",
        )
    if "MOUNT_ATTR_RDONLY" in options.add and kind in ("sysfs", "cgroup2"):
        steps.call(
            "fsconfig", Slot(context), Flags(("FSCONFIG_SET_FLAG",)), "ro", 0, 0, tolerate=(errno.EINVAL,), why="read-only"
        )
    steps.call("fsconfig", Slot(context), Flags(("FSCONFIG_CMD_CREATE",)), 0, 0, 0, why=f"make the {kind}")
    return steps.call(
        "fsmount", Slot(context), Flags(("FSMOUNT_CLOEXEC",)), Flags(options.add), store=made, why="as a mount in no table yet"
    )


def _make_directory(steps: Program, facts: Facts, path: str) -> None:
    parent, name = os.path.split(path.rstrip("/"))
    slot = _open(steps, facts.root, parent, store="parent", flags=("O_PATH", "O_DIRECTORY", "O_CLOEXEC"))
    steps.call("mkdirat", slot, name, 0o755, tolerate=(errno.EEXIST,), why=f"a place for what comes at {path}")


def _make_file(steps: Program, facts: Facts, path: str) -> None:
    parent, name = os.path.split(path.rstrip("/"))
    slot = _open(steps, facts.root, parent, store="parent", flags=("O_PATH", "O_DIRECTORY", "O_CLOEXEC"))
    steps.call("mknodat", slot, name, stat.S_IFREG | 0o644, 0, tolerate=(errno.EEXIST,), why=f"a place for what comes at {path}")


def _open(
    steps: Program, root: int | Flags, path: str, *, store: str, flags: tuple[str, ...], tolerate: tuple[int, ...] = ()
) -> Slot:
    how = Words(
        8,
        (Flags(flags).value(), 0, Flags(_IN_ROOT).value()),
        label="{" + "|".join(flags) + ", RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}",
    )
    return steps.call(
        "openat2",
        root,
        path,
        how,
        24,
        store=store,
        tolerate=tolerate,
        why=f"find {path} inside the root and nowhere else",
        hint="a symlink in the image leads nowhere, or something else stands there",
    )


def _write_protect(steps: Program, path: str) -> None:
    target = _open(
        steps,
        Flags(("AT_FDCWD",)),
        path,
        store="protected",
        flags=("O_PATH", "O_CLOEXEC"),
        tolerate=(errno.ENOENT, errno.ENOTDIR),
    )
    flags = Flags(("OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC", "AT_EMPTY_PATH", "AT_RECURSIVE"))
    copy = steps.call("open_tree", target, "", flags, store="copy", why=f"a second mount of {path} and all below it")
    read_only = Words(8, (Flags(("MOUNT_ATTR_RDONLY",)).value(), 0, 0, 0), label="{+MOUNT_ATTR_RDONLY}")
    steps.call(
        "mount_setattr",
        copy,
        "",
        Flags(("AT_EMPTY_PATH", "AT_RECURSIVE")),
        read_only,
        32,
        why="read-only, with every mount below",
    )
    steps.call("move_mount", copy, "", target, "", _EMPTY, why=f"put it over {path}")


def _copy(steps: Program, source: Slot | int, why: str) -> Slot:
    flags = Flags(("OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC", "AT_EMPTY_PATH"))
    return steps.call("open_tree", source, "", flags, store="copy", why=why)


def _empty_file_system(steps: Program) -> None:
    steps.call("fsopen", "tmpfs", Flags(("FSOPEN_CLOEXEC",)), store="context", why="an empty directory to hide others with")
    for key, value in (("nr_inodes", "2"), ("mode", "0555")):
        steps.call("fsconfig", Slot("context"), Flags(("FSCONFIG_SET_STRING",)), key, value, 0, why=f"set {key}")
    steps.call("fsconfig", Slot("context"), Flags(("FSCONFIG_CMD_CREATE",)), 0, 0, 0, why="make it")
    attributes = Flags(("MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV", "MOUNT_ATTR_NOEXEC"))
    steps.call("fsmount", Slot("context"), Flags(("FSMOUNT_CLOEXEC",)), attributes, store="void", why="read-only for good")


def _no_follow(mount: schema.Mount) -> tuple[str, ...]:
    """A proc or sysfs behind a symlink would put masks elsewhere (CVE-2023-27561)."""
    return ("O_NOFOLLOW",) if mount.type in ("proc", "sysfs") else ()


def _label(mount: schema.Mount) -> str:
    return mount.type if mount.type in NEW_FILE_SYSTEMS else "what was opened on the host"
