"""Annotations that set properties of the container's scope, "org.systemd.property.TimeoutStopUSec": "uint64 10000000".

podman writes some.  A value is spelled as GVariant spells it, plain ones alone.  Whoever writes config.json may do anything
a container's starter may; a caller that copies annotations from elsewhere must know these (CVE-2024-3154), and ``features``
lists them as unsafe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from runtime.cgroups.message import Variant
from runtime.cgroups.properties import Properties
from runtime.errors import InvalidSpec

PREFIX = "org.systemd.property."
#: These are what makes the scope the container's.
_OURS = frozenset({"PIDs", "Slice", "Delegate", "CollectMode", "DefaultDependencies"})
_NAME = re.compile(r"[A-Za-z]{3,}", re.ASCII)
_TYPES = {"byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t"}
_RANGES = {"y": (0, 8), "n": (1, 15), "q": (0, 16), "i": (1, 31), "u": (0, 32), "x": (1, 63), "t": (0, 64)}
_INTEGER = re.compile(r"(?:([a-z0-9]+) )?(-?[0-9]{1,20})", re.ASCII)
_TEXT = re.compile(r"""'([^'\\]*)'|"([^"\\]*)\"""")


def properties_of(annotations: Mapping[str, str]) -> Properties:
    """The properties that *annotations* ask for; "Sec" is in seconds, as in a unit's file.  Raises InvalidSpec, naming one."""
    found = []
    for key, text in annotations.items():
        if key.startswith(PREFIX):
            name = key.removeprefix(PREFIX)
            if not _NAME.fullmatch(name) or name in _OURS:
                raise InvalidSpec(f"annotations: {key}: not a property that may be set so")
            found.append(_in_microseconds(name, _value(key, text)))
    return found


def _value(key: str, text: str) -> Variant:
    if text in ("true", "false"):
        return Variant("b", text == "true")
    quoted = _TEXT.fullmatch(text)
    if quoted:
        return Variant("s", quoted[1] or quoted[2] or "")
    number = _INTEGER.fullmatch(text)
    kind = _TYPES.get(number[1] or "int32") if number else None
    if number is None or kind is None:
        raise InvalidSpec(f"annotations: {key}: {text[:80]!r} is none of true, 'text', 5 and uint64 5")
    signed, bits = _RANGES[kind]
    value = int(number[2])
    if not (-(1 << bits) if signed else 0) <= value < 1 << bits:
        raise InvalidSpec(f"annotations: {key}: {value} is not within the range of its type")
    return Variant(kind, value)


def _in_microseconds(name: str, value: Variant) -> tuple[str, Variant]:
    if not name.endswith("Sec") or name.endswith("USec") or value.signature in ("b", "s"):
        return name, value
    return f"{name.removesuffix('Sec')}USec", Variant("t", value.value * 1_000_000)
