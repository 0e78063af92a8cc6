"""What a value of config.json may be: the checks that several parts of the document share.

Each raises InvalidSpec, naming the place as the document spells it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence, Sized

from runtime.errors import InvalidSpec
from runtime.spec import schema

#: The last number is (uid_t) -1, which setuid(2) and friends read as "leave it".
MAX_ID = 2**32 - 2
#: PATH_MAX without the NUL that ends a path.
MAX_PATH = 4095
#: More mounts, devices or hidden paths than any container has; each costs some steps of its program.
MAX_ENTRIES = 4096
#: Lines that the kernel takes for one map of ids (user_namespaces(7)).
MAX_MAPPINGS = 340
#: More processors or memory nodes than any machine has.
HIGHEST_NUMBER = 8191


def check_path(path: str, where: str) -> None:
    """A path that the kernel would take."""
    try:
        length = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise InvalidSpec(f"{where}: {path!r} holds what is no byte of a path") from None
    if length > MAX_PATH:
        raise InvalidSpec(f"{where}: {length} bytes, and a path has {MAX_PATH} at most: {path[:80]!r}…")


def check_absolute(path: str, where: str) -> None:
    if not path.startswith("/"):
        raise InvalidSpec(f"{where}: {path[:MAX_PATH]!r} is not an absolute path")
    check_path(path, where)


def check_count(values: Sized, where: str) -> None:
    if len(values) > MAX_ENTRIES:
        raise InvalidSpec(f"{where}: {len(values)} entries, and {MAX_ENTRIES} are taken at most")


def check_range(value: int, lowest: int, highest: int, where: str) -> None:
    if not lowest <= value <= highest:
        raise InvalidSpec(f"{where}: {value} is not between {lowest} and {highest}")


def check_unique(names: Iterable[str], where: str, field: str) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise InvalidSpec(f"{where}[{index}].{field}: {name!r} is given twice")
        seen.add(name)


def check_one_of(value: str, known: Collection[str], where: str) -> None:
    if value not in known:
        raise InvalidSpec(f"{where}: {value!r} is none of {', '.join(sorted(known))}")


def check_all_of(values: Sequence[str], known: Collection[str], where: str) -> None:
    for index, value in enumerate(values):
        check_one_of(value, known, f"{where}[{index}]")


def check_mappings(mappings: Sequence[schema.IdMapping], where: str) -> None:
    """Ranges of ids that exist and do not overlap, on either side."""
    if len(mappings) > MAX_MAPPINGS:
        raise InvalidSpec(f"{where}: {len(mappings)} ranges, and the kernel takes {MAX_MAPPINGS}")
    for index, mapping in enumerate(mappings):
        check_range(mapping.container_id, 0, MAX_ID, f"{where}[{index}].containerID")
        check_range(mapping.host_id, 0, MAX_ID, f"{where}[{index}].hostID")
        largest = MAX_ID + 1 - max(mapping.container_id, mapping.host_id)
        check_range(mapping.size, 1, largest, f"{where}[{index}].size")
        for side in ("container_id", "host_id"):
            _check_apart(mappings[:index], mapping, side, f"{where}[{index}].{side.removesuffix('_id')}ID")


def _check_apart(earlier: Sequence[schema.IdMapping], mapping: schema.IdMapping, side: str, where: str) -> None:
    first = getattr(mapping, side)
    for other in earlier:
        if first < getattr(other, side) + other.size and getattr(other, side) < first + mapping.size:
            raise InvalidSpec(f"{where}: the {mapping.size} ids from {first} overlap those of an earlier range")


def parse_numbers(text: str, where: str) -> list[int]:
    """The numbers of a list such as ``0-3,7``, in order."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_number(first) or (dash and not _is_number(last)):
            raise InvalidSpec(f"{where}: {text!r} is not a list of numbers and ranges such as 0-3,7")
        low, high = int(first), int(last) if dash else int(first)
        if not low <= high <= HIGHEST_NUMBER:
            raise InvalidSpec(f"{where}: {part!r} does not run upwards, to {HIGHEST_NUMBER} at most")
        found.update(range(low, high + 1))
    return sorted(found)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6
