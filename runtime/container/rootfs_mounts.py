"""The steps of one mount that init makes itself: a new file system, a bind mount from inside the root, a remount."""

from __future__ import annotations

import errno
import stat

from kernel.program import Argument, Flags, Program, Slot
from runtime.container.facts import Facts, LateMount
from runtime.container.options import Options, parse_options
from runtime.container.rootfs_paths import DIRECTORY, HERE, find, set_attributes
from runtime.errors import InvalidSpec
from runtime.spec import schema

#: fsconfig(2) takes values of at most 255 bytes.
VALUE_LIMIT = 255
#: mount(2) takes one page of options.
PAGE_LIMIT = 4095
#: The kernel gives these the label that its policy says.
_NO_CONTEXT = {"proc", "sysfs", "mqueue", "cgroup2"}


def propagate(steps: Program, mount: Slot | int, options: Options, what: str) -> None:
    """Set the propagation that *options* ask for, one after the other, as mount(8) does."""
    for name, recursive in options.propagation:
        why = f"mounts below {what} are from here on {name}"
        set_attributes(steps, mount, why=why, propagation=f"MS_{name.upper()}", recursive=recursive)


def is_sealed_later(mount: schema.Mount) -> bool:
    """Whether it becomes read-only only when everything has been made on it: a tmpfs is empty at first."""
    options = parse_options(mount.options)
    is_read_only = "MOUNT_ATTR_RDONLY" in (*options.add, *options.recursive_add)
    return is_read_only and not options.is_bind and not options.is_remount and mount.type == "tmpfs"


def outline(mount: schema.Mount) -> tuple[str, str, bool, bool, tuple[tuple[str, bool], ...]]:
    """All that a program depends on of a mount that was opened beforehand."""
    options = parse_options(mount.options)
    return mount.destination, mount.type, options.is_bind, is_sealed_later(mount), options.propagation


def takes_old_way(options: Options) -> bool:
    """Whether fsconfig(2) cannot say it: a flag that it does not know, or a value that is too long for it."""
    return bool(options.legacy) or any(len(value or "") > VALUE_LIMIT for _, value in options.data)


def new_file_system(steps: Program, index: int, mount: schema.Mount, facts: Facts) -> Slot:
    """Make a new file system of *mount*'s type, as a mount in no table yet."""
    kind, options = _kind(mount), parse_options(mount.options)
    context = Slot("context")
    steps.call(
        "fsopen",
        kind,
        Flags(("FSOPEN_CLOEXEC",)),
        store="context",
        why=f"begin a new {kind}",
        hint=f"mounts[{index}].type: the kernel has no file system {kind}, or it may not be mounted here",
    )
    source = (("source", mount.source),) if mount.source else ()
    words = tuple((name, None) for name in options.superblock)
    for key, value in (*source, *words, *_data(index, mount, options, facts)):
        command = "FSCONFIG_SET_FLAG" if value is None else "FSCONFIG_SET_STRING"
        steps.call(
            "fsconfig",
            context,
            Flags((command,)),
            key,
            0 if value is None else value,
            0,
            why=f"set {key}",
            hint=f"linux.mountLabel: a {kind} cannot be labelled so"
            if key == "context"
            else f"{kind} does not know the mount option {key}",
        )
    attributes = _attributes(mount, options)
    if "MOUNT_ATTR_RDONLY" in attributes and kind in ("sysfs", "cgroup2"):
        steps.call("fsconfig", context, Flags(("FSCONFIG_SET_FLAG",)), "ro", 0, 0, tolerate=(errno.EINVAL,), why="read-only")
    steps.call("fsconfig", context, Flags(("FSCONFIG_CMD_CREATE",)), 0, 0, 0, why=f"make the {kind}")
    made = steps.call(
        "fsmount", context, Flags(("FSMOUNT_CLOEXEC",)), Flags(attributes), store="mount", why="as a mount in no table yet"
    )
    propagate(steps, made, options, mount.destination)
    return made


def mount_old_way(steps: Program, index: int, mount: schema.Mount, facts: Facts) -> None:
    """mount(2), on the directory that this process stands in: so no path is used there either."""
    kind, options = _kind(mount), parse_options(mount.options)
    target = find(steps, facts.root, mount.destination, store="target", flags=DIRECTORY)
    steps.call("fchdir", target, why="stand in the place")
    flags = [name for name in options.mount_flags if not (name == "MS_RDONLY" and is_sealed_later(mount))]
    _mount(steps, mount, kind, tuple(flags), _page(mount, _data(index, mount, options, facts)), f"a new {kind} upon it")
    if options.propagation:
        made = find(steps, facts.root, mount.destination, store="mount", flags=("O_PATH", "O_CLOEXEC"))
        propagate(steps, made, options, mount.destination)


def remount(steps: Program, mount: schema.Mount, facts: Facts) -> None:
    """Change what is mounted already: attributes of that one mount with "bind", else of the file system itself."""
    options = parse_options(mount.options)
    if options.is_bind:
        target = find(steps, facts.root, mount.destination, store="target", flags=("O_PATH", "O_CLOEXEC"))
        if options.add or options.clear:
            set_attributes(steps, target, add=options.add, clear=options.clear, why=f"change the mount at {mount.destination}")
    else:
        target = find(steps, facts.root, mount.destination, store="target", flags=DIRECTORY)
        steps.call("fchdir", target, why="stand in the mount that is to change")
        kind: Argument = mount.type or 0
        _mount(steps, mount, kind, ("MS_REMOUNT", *options.mount_flags), _page(mount, options.data), "change the file system")
    if options.recursive_add or options.recursive_clear:
        _set_recursive(steps, target, mount, options)
    propagate(steps, target, options, mount.destination)


def is_copied(mount: schema.Mount, facts: Facts) -> bool:
    """Whether what was opened for it is copied at its turn: a devpts is not, whose terminal is open on that very mount."""
    return facts.in_order and mount.type != "devpts"


def stage(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """Put what was opened beforehand where each can be copied from at its turn: on a file system below the root's place.

    A mount's number tells when it was made, and since Linux 6.8 /proc/self/mountinfo is in the order of these; so only
    what is made at its turn is seen where the spec lists it.  All of this goes with the host's tree.
    """
    context = Slot("context")
    steps.call("fsopen", "tmpfs", Flags(("FSOPEN_CLOEXEC",)), store="context", why="a place for what was opened on the host")
    steps.call("fsconfig", context, Flags(("FSCONFIG_CMD_CREATE",)), 0, 0, 0, why="make it")
    place = steps.call("fsmount", context, Flags(("FSMOUNT_CLOEXEC",)), 0, store="stage", why="as a mount")
    attach = Flags(("MOVE_MOUNT_F_EMPTY_PATH",))
    steps.call("move_mount", place, "", HERE, facts.attach_point, attach, why="where the root is going to cover it")
    for index, opened in facts.opened:  # each beside the others: a copy is made with what is mounted below
        if not is_copied(spec.mounts[index], facts):
            continue
        if opened.is_directory:
            steps.call("mkdirat", place, str(index), 0o700, why="for a directory")
        else:
            steps.call("mknodat", place, str(index), stat.S_IFREG | 0o600, 0, why="for a file")
        steps.call("move_mount", opened.descriptor, "", place, str(index), attach, why="from here it can be copied")


def take_from_stage(steps: Program, mount: schema.Mount, descriptor: int) -> Slot:
    """A copy of what was opened for *mount*, with its number at its turn."""
    flags = Flags(("OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC", "AT_EMPTY_PATH", "AT_RECURSIVE"))
    copy = steps.call("open_tree", descriptor, "", flags, store="mount", why=f"{mount.destination} is mounted at its turn")
    propagation = parse_options(mount.options).propagation
    if propagation:  # else what is unmounted with the host's tree would be unmounted for its whole group
        why = "from here on it has no part in the copy's group"
        set_attributes(steps, descriptor, why=why, propagation="MS_PRIVATE", recursive=True)
    for name, recursive in propagation:
        if name == "unbindable":
            why = "nobody can bind it"
            set_attributes(steps, copy, why=why, propagation="MS_UNBINDABLE", recursive=recursive)
    return copy


def bind_from_inside(steps: Program, mount: schema.Mount, late: LateMount, facts: Facts) -> Slot:
    """A detached mount of something inside the root, with what was mounted there until now."""
    options = parse_options(mount.options)
    source = find(steps, facts.root, late.source, store="source", flags=("O_PATH", "O_CLOEXEC"))
    recursive = ("AT_RECURSIVE",) if options.is_recursive or mount.type == "rbind" else ()
    flags = Flags(("OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC", "AT_EMPTY_PATH", *recursive))
    copy = steps.call("open_tree", source, "", flags, store="mount", why=f"a second mount of {late.source}, as it is by now")
    if late.namespace is not None:
        set_attributes(
            steps,
            copy,
            add=("MOUNT_ATTR_IDMAP",),
            namespace=late.namespace,
            recursive=options.id_mapping == "ridmap",
            why="owners of files are seen through the maps of a user namespace",
        )
    add, clear = options.exactly if late.exactly else (options.add, options.clear)
    if add or clear:
        set_attributes(steps, copy, add=add, clear=clear, why=f"as {mount.destination} is to be")
    if options.recursive_add or options.recursive_clear:
        _set_recursive(steps, copy, mount, options)
    propagate(steps, copy, options, mount.destination)
    return copy


def _set_recursive(steps: Program, target: Slot, mount: schema.Mount, options: Options) -> None:
    why = f"the same for {mount.destination} and every mount below"
    set_attributes(steps, target, add=options.recursive_add, clear=options.recursive_clear, recursive=True, why=why)


def _kind(mount: schema.Mount) -> str:
    return {"cgroup": "cgroup2"}.get(mount.type, mount.type)


def _attributes(mount: schema.Mount, options: Options) -> tuple[str, ...]:
    every = tuple(dict.fromkeys((*options.add, *options.recursive_add)))
    return tuple(name for name in every if name != "MOUNT_ATTR_RDONLY") if is_sealed_later(mount) else every


def _data(index: int, mount: schema.Mount, options: Options, facts: Facts) -> tuple[tuple[str, str | None], ...]:
    """The options of the file system's own, with the mode of what a tmpfs covers, and the label of what is new."""
    data = list(options.data)
    mode = dict(facts.modes).get(index)
    if mode is not None and not any(key == "mode" for key, _ in data):
        data.append(("mode", f"{mode:04o}"))
    if facts.context and _kind(mount) not in _NO_CONTEXT and not any(key == "context" for key, _ in data):
        data.append(("context", facts.context))
    return tuple(data)


def _page(mount: schema.Mount, data: tuple[tuple[str, str | None], ...]) -> str:
    """*data* as mount(2) takes it; a label has commas of its own, so it stands in quotes."""
    words = [key if value is None else f'{key}="{value}"' if key == "context" else f"{key}={value}" for key, value in data]
    page = ",".join(words)
    if len(page.encode("utf-8", "surrogateescape")) > PAGE_LIMIT:
        raise InvalidSpec(f"mount {mount.destination}: options: more than the {PAGE_LIMIT} bytes that the kernel takes")
    return page


def _mount(steps: Program, mount: schema.Mount, kind: Argument, flags: tuple[str, ...], page: str, why: str) -> None:
    source: Argument = mount.source or "none"
    hint = f"{mount.destination}: the file system does not know an option, or may not be mounted so"
    steps.call("mount", source, ".", kind, Flags(flags), page or 0, why=why, hint=hint)
