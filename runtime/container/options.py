"""Mount options of the runtime spec, sorted by what the kernel's new mount API does with each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

_ADD = {
    "ro": "MOUNT_ATTR_RDONLY",
    "nosuid": "MOUNT_ATTR_NOSUID",
    "nodev": "MOUNT_ATTR_NODEV",
    "noexec": "MOUNT_ATTR_NOEXEC",
    "nodiratime": "MOUNT_ATTR_NODIRATIME",
    "nosymfollow": "MOUNT_ATTR_NOSYMFOLLOW",
}
_CLEAR = {
    "rw": "MOUNT_ATTR_RDONLY",
    "suid": "MOUNT_ATTR_NOSUID",
    "dev": "MOUNT_ATTR_NODEV",
    "exec": "MOUNT_ATTR_NOEXEC",
    "diratime": "MOUNT_ATTR_NODIRATIME",
    "symfollow": "MOUNT_ATTR_NOSYMFOLLOW",
}
_TIMES = {"noatime": "MOUNT_ATTR_NOATIME", "strictatime": "MOUNT_ATTR_STRICTATIME", "relatime": "MOUNT_ATTR_RELATIME"}
_PROPAGATION = {"private", "slave", "shared", "unbindable"}
_WITHOUT_EFFECT = {
    "defaults",
    "bind",
    "rbind",
    "remount",
    "async",
    "loud",
    "silent",
    "nolazytime",
    "noiversion",
    "atime",
    "norelatime",
    "nostrictatime",
    "nomand",
    "mand",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a mount's options ask for; *data* is for the file system itself, flags with the value None."""

    add: tuple[str, ...]
    clear: tuple[str, ...]
    recursive_add: tuple[str, ...]
    recursive_clear: tuple[str, ...]
    propagation: str | None
    recursive_propagation: bool
    is_bind: bool
    is_recursive: bool
    data: tuple[tuple[str, str | None], ...]


def parse_options(options: list[str]) -> Options:
    """Sort *options*; one that is not a mount flag belongs to the file system, as the spec says."""
    return _parse(tuple(options))


@lru_cache(256)
def _parse(options: tuple[str, ...]) -> Options:
    add: dict[str, None] = {}
    clear: dict[str, None] = {}
    recursive_add: list[str] = []
    recursive_clear: list[str] = []
    data: list[tuple[str, str | None]] = []
    propagation: str | None = None
    for option in options:
        base = option.removeprefix("r") if option not in ("ro", "rw", "relatime") else option
        if option in _ADD:
            add[_ADD[option]] = None
            clear.pop(_ADD[option], None)
        elif option in _CLEAR:
            clear[_CLEAR[option]] = None
            add.pop(_CLEAR[option], None)
        elif option in _TIMES:
            add[_TIMES[option]] = None
        elif option in _WITHOUT_EFFECT:
            continue
        elif base in _PROPAGATION:
            propagation = base
        elif base in _ADD:
            recursive_add.append(_ADD[base])
        elif base in _CLEAR:
            recursive_clear.append(_CLEAR[base])
        elif base in _TIMES:
            recursive_add.append(_TIMES[base])
        else:
            key, separator, value = option.partition("=")
            data.append((key, value if separator else None))
    recursive_propagation = any(option[:1] == "r" and option[1:] in _PROPAGATION for option in options)
    return Options(
        tuple(add),
        tuple(clear),
        tuple(recursive_add),
        tuple(recursive_clear),
        propagation,
        recursive_propagation,
        "bind" in options or "rbind" in options,
        "rbind" in options,
        tuple(data),
    )
