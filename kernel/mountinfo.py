"""/proc/PID/mountinfo as typed rows (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """One row: a mount as its namespace sees it."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    target: str
    options: tuple[str, ...]
    peer_group: str | None
    filesystem: str
    source: str
    super_options: tuple[str, ...]

    @property
    def is_shared(self) -> bool:
        return self.peer_group is not None


def parse_mountinfo(text: str) -> list[Mount]:
    """The rows of *text*, in mount order; raises ValueError for a line that is not mountinfo."""
    return [_parse_line(line) for line in text.splitlines() if line]


def load_mountinfo(pid: int | str = "self") -> list[Mount]:
    """The mounts that process *pid* sees."""
    return parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape"))


def _parse_line(line: str) -> Mount:
    fields = line.split(" ")
    separator = fields.index("-", 6)
    mount_id, parent_id, device, root, target, options = fields[:6]
    kind, source, super_options = fields[separator + 1 : separator + 4]
    shared = next((field.partition(":")[2] for field in fields[6:separator] if field.startswith("shared:")), None)
    return Mount(
        int(mount_id),
        int(parent_id),
        device,
        _unescape(root),
        _unescape(target),
        tuple(options.split(",")),
        shared,
        kind,
        _unescape(source),
        tuple(super_options.split(",")),
    )


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
