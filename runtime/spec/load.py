"""JSON to the schema, and what is wrong with it.

``load`` raises InvalidSpec and nothing else, whatever it is given; the message names the field as
the document spells it: ``process.user.uid: expected int, got str``.  ``validate`` holds what types
cannot say and serves specs that were made, not read, as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from runtime.errors import InvalidSpec
from runtime.spec import schema

#: A large real document (200 mounts, a seccomp profile of 400 calls) has 120 KiB.
SIZE_LIMIT_BYTES = 4 << 20

NAMESPACES = frozenset({"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"})

RLIMITS = frozenset(
    {
        "RLIMIT_AS",
        "RLIMIT_CORE",
        "RLIMIT_CPU",
        "RLIMIT_DATA",
        "RLIMIT_FSIZE",
        "RLIMIT_LOCKS",
        "RLIMIT_MEMLOCK",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_NICE",
        "RLIMIT_NOFILE",
        "RLIMIT_NPROC",
        "RLIMIT_RSS",
        "RLIMIT_RTPRIO",
        "RLIMIT_RTTIME",
        "RLIMIT_SIGPENDING",
        "RLIMIT_STACK",
    }
)

#: The last number is (uid_t) -1, which setuid(2) and friends read as "leave it".
MAX_ID = 2**32 - 2

#: JSON has one way to write a NUL byte, so a search of the text tells whether there is one.
_ESCAPED_NUL = b"\\u0000"

Model = TypeVar("Model", bound=schema.Model)

_AT = re.compile(r"(?P<what>.*) - at `(?P<where>.*)`", re.DOTALL)


class _Version(schema.Model):
    """What is read first: the one property that a document of any version has."""

    oci_version: str


def load(document: bytes) -> schema.Spec:
    """The spec in *document* (config.json).  Raises InvalidSpec, naming the wrong field."""
    _check_version(_decode(document, _Version).oci_version)
    spec = _decode(document, schema.Spec)
    if _ESCAPED_NUL in document:
        _check_text(spec, "")
    _check_values(spec)
    return spec


def load_process(document: bytes) -> schema.Process:
    """The process in *document*, which is what config.json has under "process".  Raises InvalidSpec, as ``load`` does."""
    process = _decode(document, schema.Process)
    if _ESCAPED_NUL in document:
        _check_text(process, "process")
    _check_process(process)
    return process


def check_process(process: schema.Process) -> None:
    """Raise InvalidSpec for what the types let through in a process that was changed after it was read."""
    _check_text(process, "process")
    _check_process(process)


def _decode(document: bytes, kind: type[Model]) -> Model:
    if len(document) > SIZE_LIMIT_BYTES:
        raise InvalidSpec(f"the document has {len(document)} bytes, more than the {SIZE_LIMIT_BYTES} that are read")
    try:
        return msgspec.json.decode(document, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidSpec(_spell(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSpec(f"not a JSON document: {_lower(str(error))}") from None


def validate(spec: schema.Spec) -> None:
    """Raise InvalidSpec for what the types let through; the first fault found is the one named."""
    try:
        may_have_nul = _ESCAPED_NUL in msgspec.json.encode(spec)
    except UnicodeEncodeError:
        may_have_nul = True  # lone surrogates: bytes that are no UTF-8, as os.fsdecode spells them
    if may_have_nul:
        _check_text(spec, "")
    _check_values(spec)


def _check_values(spec: schema.Spec) -> None:
    _check_version(spec.oci_version)
    if spec.root is not None and not spec.root.path:
        raise InvalidSpec("root.path: empty")
    if spec.process is not None:
        _check_process(spec.process)
    for index, mount in enumerate(spec.mounts):
        _check_absolute(mount.destination, f"mounts[{index}].destination")
    _check_linux(spec.linux)
    _check_hooks(spec.hooks)


def _check_hooks(hooks: schema.Hooks) -> None:
    for kind in msgspec.structs.fields(schema.Hooks):
        for index, hook in enumerate(getattr(hooks, kind.name)):
            where = f"hooks.{kind.encode_name}[{index}]"
            _check_absolute(hook.path, f"{where}.path")
            if hook.timeout is not None and hook.timeout <= 0:
                raise InvalidSpec(f"{where}.timeout: {hook.timeout} is not a number of seconds greater than zero")


def _check_process(process: schema.Process) -> None:
    if not process.args:
        raise InvalidSpec("process.args: empty, there is nothing to run")
    _check_absolute(process.cwd, "process.cwd")
    _check_range(process.user.uid, 0, MAX_ID, "process.user.uid")
    _check_range(process.user.gid, 0, MAX_ID, "process.user.gid")
    for index, gid in enumerate(process.user.additional_gids):
        _check_range(gid, 0, MAX_ID, f"process.user.additionalGids[{index}]")
    if process.user.umask is not None:
        _check_range(process.user.umask, 0, 0o777, "process.user.umask")
    if process.oom_score_adj is not None:
        _check_range(process.oom_score_adj, -1000, 1000, "process.oomScoreAdj")
    _check_unique((limit.type for limit in process.rlimits), "process.rlimits", "type")
    for index, limit in enumerate(process.rlimits):
        _check_rlimit(limit, f"process.rlimits[{index}]")


def _check_rlimit(limit: schema.Rlimit, where: str) -> None:
    if limit.type not in RLIMITS:
        raise InvalidSpec(f"{where}.type: Linux has no {limit.type!r}")
    _check_range(limit.hard, 0, 2**64 - 1, f"{where}.hard")
    _check_range(limit.soft, 0, limit.hard, f"{where}.soft")


def _check_linux(linux: schema.Linux) -> None:
    _check_unique((namespace.type for namespace in linux.namespaces), "linux.namespaces", "type")
    for index, namespace in enumerate(linux.namespaces):
        if namespace.type not in NAMESPACES:
            raise InvalidSpec(f"linux.namespaces[{index}].type: Linux has no {namespace.type!r} namespace")
        if namespace.path:
            _check_absolute(namespace.path, f"linux.namespaces[{index}].path")
    for index, device in enumerate(linux.devices):
        _check_absolute(device.path, f"linux.devices[{index}].path")
        if device.type not in {"c", "b", "u", "p"}:
            raise InvalidSpec(f"linux.devices[{index}].type: {device.type!r} is none of c, b, u, p")
        _check_range(device.major, 0, 2**32 - 1, f"linux.devices[{index}].major")
        _check_range(device.minor, 0, 2**32 - 1, f"linux.devices[{index}].minor")
    for name, mappings in (("uidMappings", linux.uid_mappings), ("gidMappings", linux.gid_mappings)):
        for index, mapping in enumerate(mappings):
            _check_mapping(mapping, f"linux.{name}[{index}]")
    for name, paths in (("maskedPaths", linux.masked_paths), ("readonlyPaths", linux.readonly_paths)):
        for index, path in enumerate(paths):
            _check_absolute(path, f"linux.{name}[{index}]")


def _check_mapping(mapping: schema.IdMapping, where: str) -> None:
    _check_range(mapping.container_id, 0, MAX_ID, f"{where}.containerID")
    _check_range(mapping.host_id, 0, MAX_ID, f"{where}.hostID")
    _check_range(mapping.size, 1, 2**32 - 1, f"{where}.size")


def _check_version(version: str) -> None:
    major, dot, _ = version.partition(".")
    if major != "1" or not dot:
        raise InvalidSpec(f"ociVersion: {version!r} is not a version 1 of the specification")


def _check_absolute(path: str, where: str) -> None:
    if not path.startswith("/"):
        raise InvalidSpec(f"{where}: {path!r} is not an absolute path")


def _check_range(value: int, lowest: int, highest: int, where: str) -> None:
    if not lowest <= value <= highest:
        raise InvalidSpec(f"{where}: {value} is not between {lowest} and {highest}")


def _check_unique(names: Iterable[str], where: str, field: str) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise InvalidSpec(f"{where}[{index}].{field}: {name!r} is given twice")
        seen.add(name)


def _check_text(value: object, where: str) -> None:
    """Refuse a NUL byte anywhere: C would read a shorter string than was checked here.  Names the place, in 0.7 ms."""
    for path, text in _texts(value, where):
        if "\0" in text:
            raise InvalidSpec(f"{path}: holds a NUL byte")


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Every string below *value*, keys included, with its place."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{where}: the key {key!r}", key
            yield from _texts(item, f"{where}[{key!r}]")
    elif isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            place = f"{where}.{field.encode_name}" if where else field.encode_name
            yield from _texts(getattr(value, field.name), place)


def _spell(message: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.process.user.uid`" in our order."""
    match = _AT.fullmatch(message)
    if match is None:
        return _lower(message.replace("`", ""))
    where = match["where"].removeprefix("$").removeprefix(".")
    return f"{where}: {_lower(match['what'].replace('`', ''))}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
