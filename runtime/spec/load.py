"""JSON to the schema, and what is wrong with it.

``load`` raises InvalidSpec and nothing else, whatever it is given; the message names the field as
the document spells it: ``process.user.uid: expected int, got str``.  ``validate`` holds what types
cannot say and serves specs that were made, not read, as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from runtime.errors import InvalidSpec
from runtime.spec import linux_checks, process_checks, schema
from runtime.spec.checks import MAX_ID, check_absolute, check_count, check_mappings, check_path, check_range

#: A large real document (200 mounts, a seccomp profile of 400 calls) has 120 KiB.
SIZE_LIMIT_BYTES = 4 << 20

#: The longest host name (HOST_NAME_MAX) and domain name that the kernel keeps.
MAX_NAME_BYTES = 64

#: A day: what waits longer for a hook waits for ever.
MAX_TIMEOUT_SECONDS = 86_400

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
    _map_every_id(spec.linux)
    _check_values(spec)
    return spec


def _map_every_id(linux: schema.Linux) -> None:
    """In a new user namespace without any map each id is itself, as with crun: fewer rights than without the namespace."""
    if linux.uid_mappings or linux.gid_mappings:
        return
    if any(namespace.type == "user" and not namespace.path for namespace in linux.namespaces):
        linux.uid_mappings = [schema.IdMapping(container_id=0, host_id=0, size=MAX_ID + 1)]
        linux.gid_mappings = [schema.IdMapping(container_id=0, host_id=0, size=MAX_ID + 1)]


def load_process(document: bytes) -> schema.Process:
    """The process in *document*, which is what config.json has under "process".  Raises InvalidSpec, as ``load`` does."""
    process = _decode(document, schema.Process)
    if _ESCAPED_NUL in document:
        _check_text(process, "process")
    process_checks.check_process(process)
    return process


def check_process(process: schema.Process) -> None:
    """Raise InvalidSpec for what the types let through in a process that was changed after it was read."""
    _check_text(process, "process")
    process_checks.check_process(process)


def _decode(document: bytes, kind: type[Model]) -> Model:
    if len(document) > SIZE_LIMIT_BYTES:
        raise InvalidSpec(f"the document has {len(document)} bytes, more than the {SIZE_LIMIT_BYTES} that are read")
    try:
        try:
            return msgspec.json.decode(document, type=kind)
        except msgspec.ValidationError as error:
            if "got `null`" not in str(error):
                raise
            # What writes documents in Go may write null for a list or a string that it does not have.
            return msgspec.convert(_without_nulls(msgspec.json.decode(document)), type=kind)
    except msgspec.ValidationError as error:
        raise InvalidSpec(_spell(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSpec(f"not a JSON document: {_lower(str(error))}") from None


def _without_nulls(value: Any) -> Any:
    """*value* without the properties that are null; in a list a null stays, for it is a value of the wrong type."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


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
    if spec.root is not None:
        if not spec.root.path:
            raise InvalidSpec("root.path: empty")
        check_path(spec.root.path, "root.path")
    for field, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
            raise InvalidSpec(f"{field}: longer than the {MAX_NAME_BYTES} bytes that the kernel keeps")
    if spec.process is not None:
        process_checks.check_process(spec.process)
    check_count(spec.mounts, "mounts")
    for index, mount in enumerate(spec.mounts):
        _check_mount(mount, f"mounts[{index}]")
    linux_checks.check_linux(spec.linux)
    _check_hooks(spec.hooks)
    if "" in spec.annotations:
        raise InvalidSpec("annotations: the empty string is no key")


def _check_mount(mount: schema.Mount, where: str) -> None:
    if not mount.destination:
        raise InvalidSpec(f"{where}.destination: empty")  # a relative one is below /, as for runc
    check_path(mount.destination, f"{where}.destination")
    check_path(mount.source, f"{where}.source")
    check_mappings(mount.uid_mappings, f"{where}.uidMappings")
    check_mappings(mount.gid_mappings, f"{where}.gidMappings")
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        missing = "gidMappings" if mount.uid_mappings else "uidMappings"
        raise InvalidSpec(f"{where}.{missing}: missing, and the other one is there")


def _check_hooks(hooks: schema.Hooks) -> None:
    for name, kind in zip(hooks.__struct_fields__, hooks.__struct_encode_fields__, strict=True):
        for index, hook in enumerate(getattr(hooks, name)):
            where = f"hooks.{kind}[{index}]"
            check_absolute(hook.path, f"{where}.path")
            if hook.timeout is not None and hook.timeout <= 0:
                raise InvalidSpec(f"{where}.timeout: {hook.timeout} is not a number of seconds greater than zero")
            if hook.timeout is not None:
                check_range(hook.timeout, 1, MAX_TIMEOUT_SECONDS, f"{where}.timeout")


def _check_version(version: str) -> None:
    major, dot, _ = version.partition(".")
    if major != "1" or not dot:
        raise InvalidSpec(f"ociVersion: {version!r} is not a version 1 of the specification")


def _check_text(value: object, where: str) -> None:
    """Refuse a NUL byte anywhere: C would read a shorter string than was checked here.  Names the place, in 0.7 ms."""
    for path, text in _texts(value, where):
        if "\0" in text:
            raise InvalidSpec(f"{path}: holds a NUL byte")
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise InvalidSpec(f"{path}: {text[:80]!r} stands for no bytes") from None


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
        for field, name in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            yield from _texts(getattr(value, field), f"{where}.{name}" if where else name)


def _spell(message: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.process.user.uid`" in our order."""
    match = _AT.fullmatch(message)
    if match is None:
        return _lower(message.replace("`", ""))
    where = match["where"].removeprefix("$").removeprefix(".")
    return f"{where}: {_lower(match['what'].replace('`', ''))}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
