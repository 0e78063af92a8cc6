"""Devices by name, as vendors describe them: the Container Device Interface (CDI 1.1).

A file below one of the directories says what a container needs to have for ``vendor.com/class=name``: nodes, mounts,
variables, hooks.  It is JSON or YAML, read when a container asks, because drivers write it at any time.  A file in a later
directory takes the place of what an earlier one says of the same device; two that say different things with the same right
make it nobody's.  What the daemon cannot do is refused by name: half a device would fail somewhere later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from runtime import pod_hooks
from runtime.container.devices import find_devices
from runtime.errors import InvalidArgument, KerneletError, Unsupported
from runtime.spec import schema
from runtime.spec.checks import MAX_ID

#: Where vendors put files, and where they put those of this boot.
DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
#: More than any vendor's file has.
FILE_LIMIT_BYTES = 4 * 1024 * 1024
SUFFIXES = (".json", ".yaml", ".yml")
_VERSIONS = frozenset({"0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"})
_KIND = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?", re.ASCII)

Value = TypeVar("Value")


class _Model(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """Strict: what an unknown field asks for would be missing."""


class DeviceNode(_Model):
    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = "rwm"
    uid: int | None = None
    gid: int | None = None


class Mount(_Model):
    host_path: str
    container_path: str
    options: list[str] = []
    type: str = "bind"


class Hook(_Model):
    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Edits(_Model):
    """What is changed in a container's spec."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    mounts: list[Mount] = []
    hooks: list[Hook] = []
    additional_gids: list[int] = msgspec.field(default=[], name="additionalGids")
    intel_rdt: dict[str, object] = {}
    net_devices: list[dict[str, object]] = []


class Device(_Model):
    name: str
    container_edits: Edits = msgspec.field(default_factory=Edits)
    annotations: dict[str, str] = {}


class Document(_Model):
    """One file."""

    cdi_version: str
    kind: str
    devices: list[Device] = []
    container_edits: Edits = msgspec.field(default_factory=Edits)
    annotations: dict[str, str] = {}


def find(names: Iterable[str], directories: Sequence[str] = DIRECTORIES) -> list[Edits]:
    """The edits of the devices *names*, each preceded by what its file says for all of its own, once.

    Raises InvalidArgument for a name that no file has, that two have, or whose file is wrong.
    """
    known, faults = _read(directories)
    found: list[Edits] = []
    general: list[Document] = []
    for name in names:
        if not _is_qualified(name):
            raise InvalidArgument(f"CDI device {name!r}: not of the form vendor.com/class=name")
        places = known.get(name, [])
        if len(places) > 1:
            raise InvalidArgument(f"CDI device {name}: in {' and in '.join(str(path) for path, _, _ in places)}; which is meant?")
        if not places:
            raise InvalidArgument(f"CDI device {name}: unknown in {', '.join(directories)}{_told(faults)}")
        path, document, device = places[0]
        if not any(each is document for each in general):
            general.append(document)
            found.append(_checked(document.container_edits, f"{path}: containerEdits"))
        found.append(_checked(device.container_edits, f"{path}: devices {device.name}: containerEdits"))
    return found


def inject(spec: schema.Spec, edits: Iterable[Edits]) -> list[int]:
    """Put *edits* into *spec*, in which they win over what it has by the same name or at the same place.

    Returns the groups that the process is to be in, too.  Raises HostPathNotFound, InvalidArgument.
    """
    groups: list[int] = []
    for each in edits:
        if spec.process is not None:
            names = {entry.partition("=")[0] for entry in each.env}
            spec.process.env = [entry for entry in spec.process.env if entry.partition("=")[0] not in names] + each.env
        for node in each.device_nodes:
            _add_node(spec.linux, node)
        places = {mount.container_path for mount in each.mounts}
        spec.mounts = [mount for mount in spec.mounts if mount.destination not in places]
        spec.mounts += [
            schema.Mount(destination=mount.container_path, type=mount.type, source=mount.host_path, options=mount.options)
            for mount in each.mounts
        ]
        for hook in each.hooks:
            found = getattr(spec.hooks, pod_hooks.KINDS[hook.hook_name])
            seconds = pod_hooks.SECONDS if hook.timeout is None else hook.timeout
            found.append(schema.Hook(path=hook.path, args=hook.args, env=hook.env, timeout=seconds))
        groups += each.additional_gids
    spec.mounts.sort(key=lambda mount: mount.destination.count("/"))  # parents first
    return list(dict.fromkeys(groups))


Place = tuple[Path, Document, Device]


def _read(directories: Sequence[str]) -> tuple[dict[str, list[Place]], list[str]]:
    """All devices by name, and what is wrong with which file; one bad file does not make all others unknown."""
    known: dict[str, list[Place]] = {}
    faults: list[str] = []
    for directory in directories:
        here: dict[str, list[Place]] = {}
        for path in _files(Path(directory)):
            try:
                document = _load(path)
            except InvalidArgument as error:
                faults.append(str(error))
                continue
            for device in document.devices:
                here.setdefault(f"{document.kind}={device.name}", []).append((path, document, device))
        known |= here
    return known, faults


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _load(path: Path) -> Document:
    """Raises InvalidArgument, naming the file and what is wrong in it."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
        if len(content) > FILE_LIMIT_BYTES:
            raise InvalidArgument(f"{path}: larger than {FILE_LIMIT_BYTES} bytes")
        if path.suffix == ".json":
            document = msgspec.json.decode(content, type=Document)
        else:
            import yaml  # slow to import, and few nodes have such a file

            document = msgspec.convert(yaml.safe_load(content), Document)
    except OSError as error:
        raise InvalidArgument(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except KerneletError:
        raise
    except Exception as error:  # of yaml, msgspec, or Python: whatever the file does, others are not to suffer
        raise InvalidArgument(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from None
    if document.cdi_version.removeprefix("v") not in _VERSIONS:
        raise InvalidArgument(f"{path}: cdiVersion {document.cdi_version!r} is not known")
    if not _KIND.fullmatch(document.kind):
        raise InvalidArgument(f"{path}: kind {document.kind!r} is not of the form vendor.com/class")
    for device in document.devices:
        if not _NAME.fullmatch(device.name):
            raise InvalidArgument(f"{path}: {device.name!r} is not the name of a device")
    return document


def _is_qualified(name: str) -> bool:
    kind, sign, device = name.partition("=")
    return bool(sign and _KIND.fullmatch(kind) and _NAME.fullmatch(device))


def _told(faults: list[str]) -> str:
    return f"; what is wrong there: {'; '.join(faults)}" if faults else ""


def _checked(edits: Edits, where: str) -> Edits:
    """*edits*, if all of it can be done."""
    for name, wish in (("intelRdt", edits.intel_rdt), ("netDevices", edits.net_devices)):
        if wish:
            raise Unsupported(f"{where}.{name}: containers of a pod do not have this")
    for hook in edits.hooks:
        if hook.hook_name not in pod_hooks.KINDS:
            known = ", ".join(pod_hooks.KINDS)
            raise Unsupported(f"{where}.hooks: {hook.hook_name} {hook.path}: containers of a pod have {known} alone")
    for entry in edits.env:
        if "=" not in entry.lstrip("=") or "\0" in entry:
            raise InvalidArgument(f"{where}.env: {entry.partition('=')[0]!r} is not of the form NAME=value")
    for mount in edits.mounts:
        if not mount.container_path.startswith("/") or (mount.type == "bind" and not mount.host_path.startswith("/")):
            raise InvalidArgument(f"{where}.mounts {mount.container_path}: paths must be absolute")
        if mount.type == "bind" and not {"bind", "rbind"} & set(mount.options):
            mount.options = ["rbind", *mount.options]
    for gid in edits.additional_gids:
        if not 0 < gid <= MAX_ID:
            raise InvalidArgument(f"{where}.additionalGids: {gid} is no group's id")
    return edits


def _add_node(linux: schema.Linux, node: DeviceNode) -> None:
    """A node, and the right to open it; what is not said is as the host's own is."""
    if not node.path.startswith("/") or set(node.permissions) - set("rwm"):
        raise InvalidArgument(f"CDI device node {node.path!r}: the path must be absolute, and permissions of r, w, m")
    source = node.host_path or node.path
    if node.type == "p":
        raise Unsupported(f"CDI device node {node.path}: a FIFO is not a device")
    if node.type and node.major is not None and node.minor is not None:
        device = schema.Device(path=node.path, type=node.type.replace("u", "c"), major=node.major, minor=node.minor)
    else:
        found = find_devices(source)
        if len(found) != 1 or os.path.isdir(source):
            raise InvalidArgument(f"CDI device node {source}: a directory, where a device is named")
        device = found[0]
        device.path = node.path
    for field in ("file_mode", "uid", "gid"):
        if getattr(node, field) is not None:
            setattr(device, field, getattr(node, field))
    linux.devices = [each for each in linux.devices if each.path != device.path] + [device]
    if linux.resources is not None:
        rule = schema.DeviceRule(
            allow=True, type=device.type, major=device.major, minor=device.minor, access=node.permissions or "rwm"
        )
        linux.resources.devices = [*linux.resources.devices, rule]
