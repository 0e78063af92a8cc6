"""``ps``: the processes of a container, by their numbers on the host."""

from __future__ import annotations

import os
import pwd
import sys
import time
from pathlib import Path

import msgspec

from runtime.errors import InvalidArgument
from runtime.oci.directory import Container
from runtime.oci.flags import TEXT
from runtime.oci.request import Request

FLAGS = {"format f": TEXT}
USAGE = "[--format table|json] ID"
HEADER = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
#: What people give to ps(1) to see everything in full: here that is all there is.
EVERYTHING = frozenset({"-e", "-f", "-ef", "-A", "-a", "-x", "-ax", "ax"})


def run(request: Request) -> int:
    form = request.flags.text("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument(f'--format "{form}": must be table or json')
    for option in request.arguments[1:]:
        if option not in EVERYTHING:
            raise InvalidArgument(f"ps {option}: columns cannot be chosen; --format json gives the process ids")
    with request.container(lock=False) as container:
        pids = pids_of(container)
    if form == "json":
        sys.stdout.write(msgspec.json.encode(pids).decode() + "\n")
    else:
        sys.stdout.write(table([row for pid in pids if (row := _row(pid))]))
    return 0


def pids_of(container: Container) -> list[int]:
    """Every process of the container, its first one first."""
    cgroup = container.cgroup
    if cgroup is None or not cgroup.exists():
        return [container.record.pid] if container.is_alive() else []
    found = {pid for group in (cgroup, *cgroup.descendants()) for pid in group.processes()}
    return sorted(found, key=lambda pid: (pid != container.record.pid, pid))


def table(rows: list[tuple[str, ...]]) -> str:
    """*rows* below the header, in the columns of ps -ef."""
    widths = [max(len(row[column]) for row in (HEADER, *rows)) for column in range(len(HEADER) - 1)]
    lines = []
    for row in (HEADER, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append(" ".join((*cells, row[-1])))
    return "\n".join(lines) + "\n"


def _row(pid: int) -> tuple[str, ...]:
    """One process; empty when it has gone."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
        name, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    fields = rest.split()
    ticks, used = os.sysconf("SC_CLK_TCK"), int(fields[11]) + int(fields[12])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks
    started = time.localtime(time.time() - age)
    seconds = used // ticks
    return (
        user_name(owner),
        str(pid),
        fields[1],
        str(min(99, int(100 * used / ticks / age))) if age > 0 else "0",
        time.strftime("%H:%M" if age < 86_400 else "%b%d", started),
        _terminal(int(fields[4])),
        f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}",
        command or f"[{name.partition('(')[2]}]",
    )


def user_name(uid: int) -> str:
    """The name of a user of this host, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terminal(number: int) -> str:
    if number == 0:
        return "?"
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor}" if 136 <= major <= 143 else f"{major},{minor}"
