"""The steps that make device nodes and the links beside them; which they are is here too."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator

from kernel.program import Flags, Program, Slot
from runtime.container.facts import Facts
from runtime.container.options import parse_options
from runtime.container.rootfs_paths import DIRECTORY, EMPTY, find, make_directory, make_file
from runtime.errors import InvalidSpec
from runtime.spec import defaults, schema, standard_dev

TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
#: A device number has twelve bits for the driver and twenty for the device (include/linux/kdev_t.h).
LAST_MAJOR, LAST_MINOR = (1 << 12) - 1, (1 << 20) - 1


def has_own_dev(spec: schema.Spec) -> bool:
    """Whether /dev is the container's to fill; what is bound there from the node is the node's."""
    return not any(
        mount.destination.rstrip("/") == "/dev" and (mount.type in ("bind", "rbind") or parse_options(mount.options).is_bind)
        for mount in spec.mounts
    )


def wanted_devices(spec: schema.Spec) -> dict[str, schema.Device]:
    """The devices of *spec*, by path, after those that every container has (config-linux.md, "Default Devices").

    Raises InvalidSpec for a type that there is not, or a path that leads nowhere.
    """
    own_dev = has_own_dev(spec)
    wanted = {device.path: device for device in defaults.devices()} if own_dev else {}
    for index, device in enumerate(spec.linux.devices):
        where = f"linux.devices[{index}]"
        if device.type not in TYPES:
            raise InvalidSpec(f"{where}.type {device.path}: unknown type {device.type!r}")
        if not device.path.startswith("/") or "\0" in device.path or not device.path.strip("/"):
            raise InvalidSpec(f"{where}.path {device.path!r}: must be an absolute path")
        if device.type != "p" and (device.major > LAST_MAJOR or device.minor > LAST_MINOR):
            raise InvalidSpec(f"{where}.major {device.path}: {device.major}:{device.minor} is more than a device number holds")
        path = posixpath.normpath("/" + device.path.lstrip("/"))
        if own_dev or not path.startswith("/dev/"):
            wanted[path] = device
    wanted.pop("/dev/ptmx", None)  # the link to the container's own
    if spec.process is not None and spec.process.terminal:
        wanted.pop("/dev/console", None)
    return wanted


def has_standard_dev(spec: schema.Spec) -> bool:
    """Whether the devices in a /dev that was made ready are as *spec* wants them, and its directories are mounted on."""
    wanted = wanted_devices(spec)
    places = {mount.destination for mount in spec.mounts}
    if not has_own_dev(spec) or not places.issuperset(f"/dev/{name}" for name in standard_dev.DIRECTORIES):
        return False
    return all(
        (device := wanted.get(path)) is not None
        and (device.type, device.major, device.minor) in (("c", major, minor), ("u", major, minor))
        and mode_of(device) == stat.S_IFCHR | standard_dev.DEVICE_MODE
        and not (device.uid or device.gid)
        for path, major, minor in standard_dev.DEVICES
    )


def mode_of(device: schema.Device) -> int:
    """Type and permissions, as mknod(2) takes them."""
    return TYPES[device.type] | (0o666 if device.file_mode is None else device.file_mode & 0o7777)


def number_of(device: schema.Device) -> int:
    """Its number, as mknod(2) takes it; a FIFO has none, though documents give it one."""
    return 0 if device.type == "p" else os.makedev(device.major, device.minor)


def make_devices(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """Make what was not seen to beforehand: what comes on a file system that init has mounted itself."""
    seen_to = dict(facts.devices)
    wanted = wanted_devices(spec)
    own_dev = has_own_dev(spec)
    is_filled = not own_dev or (facts.has_ready_dev and facts.console is None)
    if is_filled and all(path in seen_to for path in wanted):
        return
    steps.heading("devices")
    dev = find(steps, facts.root, "/dev", store="dev", flags=DIRECTORY) if own_dev else Slot("dev")
    for path, device in wanted.items():
        if path not in seen_to:
            _make_device(steps, spec, facts, dev, path, device)
        elif (number := seen_to[path]) is not None:
            _bind_device(steps, spec, facts, path, number)
    if not own_dev:
        return
    for target, name in () if facts.has_ready_dev else standard_dev.LINKS:
        steps.call("symlinkat", target, dev, name, tolerate=(errno.EEXIST,), why=f"programs expect /dev/{name}")
    if facts.console is not None:
        # Not sooner: before Linux 6.15 what is in no mount table cannot be copied.
        flags = Flags(("OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC", "AT_EMPTY_PATH"))
        terminal = steps.call("open_tree", facts.console, "", flags, store="terminal", why="a second mount of the terminal")
        make_file(steps, facts.root, "/dev/console")
        console = find(steps, facts.root, "/dev/console", store="console", flags=("O_PATH", "O_NOFOLLOW", "O_CLOEXEC"))
        steps.call("move_mount", terminal, "", console, "", EMPTY, why="the terminal is the console")


def _make_device(steps: Program, spec: schema.Spec, facts: Facts, dev: Slot, path: str, device: schema.Device) -> None:
    above, name = os.path.split(path)
    for parent in _parents(spec, above):
        make_directory(steps, facts.root, parent)
    directory = dev if above == "/dev" else find(steps, facts.root, above, store="parent", flags=DIRECTORY)
    steps.call(
        "mknodat",
        directory,
        name,
        mode_of(device),
        number_of(device),
        why=f"the device {device.type} {device.major}:{device.minor}",
        hint="making device nodes takes CAP_MKNOD in the initial user namespace; or something of that name is there already",
    )
    if device.uid or device.gid:
        steps.call("fchownat", directory, name, device.uid, device.gid, Flags(("AT_SYMLINK_NOFOLLOW",)), why="its owner")


def _bind_device(steps: Program, spec: schema.Spec, facts: Facts, path: str, number: int) -> None:
    for parent in _parents(spec, os.path.dirname(path)):
        make_directory(steps, facts.root, parent)
    make_file(steps, facts.root, path)
    target = find(steps, facts.root, path, store="target", flags=("O_PATH", "O_NOFOLLOW", "O_CLOEXEC"))
    steps.call("move_mount", number, "", target, "", EMPTY, why=f"the device {path}, which may not be made in a user namespace")


def _parents(spec: schema.Spec, directory: str) -> Iterator[str]:
    """The directories on the way to *directory* that may be absent: those below the last mount on the way."""
    base = max(
        (mount.destination for mount in spec.mounts if f"{directory}/".startswith(f"{mount.destination.rstrip('/')}/")),
        key=len,
        default="",
    ).rstrip("/")
    here = base
    for part in directory[len(base) :].strip("/").split("/"):
        if part:
            here = f"{here}/{part}"
            yield here
