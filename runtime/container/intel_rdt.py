"""linux.intelRdt: a container's class of service in the resctrl file system: its share of cache and memory bandwidth.

A class is a directory; a process is in it when its number is in "tasks", and what it forks is born there.  As the
runtime specification says: a class that is named and there already is joined as it is, never changed, for others may be
in it; one that is not named has the container's ID and ends with it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from kernel.fd import open_path
from kernel.mountinfo import load_mountinfo
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema

#: Under this name a container's record keeps its group; under the other one what was made for it, a path a line.
RECORDED, RECORDED_MADE = "intel_rdt", "intel_rdt_made"
#: Names in every group that are none of a group.
_TAKEN = frozenset({"", ".", "..", "info", "mon_data", "mon_groups"})


class Group(NamedTuple):
    """The directory that a container is in, and what was made for it, to be removed after it: the innermost last."""

    path: Path
    made: tuple[Path, ...]


def find_resctrl() -> Path:
    """Where resctrl is mounted.  Raises Unsupported when it is not, as on a processor without it."""
    for row in load_mountinfo():
        if row.filesystem == "resctrl":
            return Path(row.target)
    raise Unsupported(
        "linux.intelRdt: no resctrl file system is mounted; on a processor that has it: mount -t resctrl resctrl /sys/fs/resctrl"
    )


def join(wanted: schema.IntelRdt, container_id: str, pid: int, root: Path | None = None) -> Group:
    """Put the process *pid* into the group that *wanted* means, below *root*, by default where resctrl is mounted.

    Raises InvalidSpec, Unsupported, or OSError with the kernel's own words; nothing is left behind then.
    """
    top = find_resctrl() if root is None else root
    group = top / _name(wanted.clos_id or container_id)
    lines = schemata_of(wanted)
    made: list[Path] = []
    try:
        if _make(group, made, needed=bool(lines) or not wanted.clos_id):
            if lines:
                _write(group, "schemata", "\n".join(lines), top)
        elif missing := _missing(group, lines):
            raise InvalidSpec(f"linux.intelRdt.closID {group.name}: the class is there, and does not say {missing!r}")
        _write(group, "tasks", str(pid), top)
        if wanted.enable_monitoring:
            monitor = group / "mon_groups" / _name(container_id)
            _make(monitor, made, needed=True)
            _write(monitor, "tasks", str(pid), top)
    except BaseException:
        leave(tuple(made))
        raise
    return Group(group, tuple(made))


def leave(made: tuple[Path, ...]) -> None:
    """Remove what ``join`` made.  What is still in there goes to the class above, which the kernel sees to."""
    for path in reversed(made):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)


def write_schemata(group: Path, wanted: schema.IntelRdt) -> None:
    """Write what *wanted* says to *group*, which keeps what it does not speak of."""
    _write(group, "schemata", "\n".join(schemata_of(wanted)), group.parent)


def schemata_of(wanted: schema.IntelRdt) -> list[str]:
    """The lines of *wanted*; of two that speak of memory bandwidth memBwSchema counts.  Raises InvalidSpec."""
    for index, line in enumerate(wanted.schemata or ()):
        if "\n" in line or not line.strip():
            raise InvalidSpec(f"linux.intelRdt.schemata[{index}]: {line!r} is not one line")
    cache = [line for line in wanted.l3_cache_schema.split("\n") if line.strip()]
    if wanted.mem_bw_schema:
        if not wanted.mem_bw_schema.startswith("MB:") or "\n" in wanted.mem_bw_schema:
            raise InvalidSpec(f"linux.intelRdt.memBwSchema: {wanted.mem_bw_schema!r} is not a line that begins with MB:")
        cache = [*(line for line in cache if not line.lstrip().startswith("MB:")), wanted.mem_bw_schema]
    return [*cache, *(wanted.schemata or ())]


def _name(text: str) -> str:
    if text in _TAKEN or "/" in text or "\n" in text:
        raise InvalidSpec(f"linux.intelRdt.closID: {text!r} cannot be the name of a class of service")
    return text


def _make(path: Path, made: list[Path], *, needed: bool) -> bool:
    """Whether *path* was made now; what is only to be joined must be there."""
    if not needed:
        if not path.is_dir():
            raise InvalidSpec(f"linux.intelRdt.closID {path.name}: there is no such class, and nothing says what it should be")
        return False
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        return False
    made.append(path)
    return True


def _missing(group: Path, lines: list[str]) -> str:
    """The first of *lines* that does not hold in *group*; empty when all do."""
    holds = dict(map(_parse, (group / "schemata").read_text().splitlines()))
    for line in lines:
        kind, values = _parse(line)
        if not values.items() <= holds.get(kind, {}).items():
            return line
    return ""


def _parse(line: str) -> tuple[str, dict[str, str]]:
    """``L3:0=00f;1=f0`` as ("L3", {"0": "f", "1": "f0"}): the kernel fills up with blanks and zeros."""
    kind, _, rest = line.strip().partition(":")
    pairs = (item.partition("=") for item in rest.split(";") if item.strip())
    return kind, {number.strip(): value.strip().lstrip("0") or "0" for number, _, value in pairs}


def _write(group: Path, file: str, text: str, top: Path) -> None:
    path = group / file
    with open_path(path, os.O_WRONLY | os.O_TRUNC) as opened:
        try:
            os.write(opened.fileno(), f"{text}\n".encode())
        except OSError as error:
            status = top / "info" / "last_cmd_status"
            words = status.read_text().strip() if status.exists() else ""
            raise OSError(
                error.errno, f"{error.strerror}: writing {text!r}" + (f" ({words})" if words else ""), str(path)
            ) from error
