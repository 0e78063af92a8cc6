"""``list``: the containers there are."""

from __future__ import annotations

import sys

import msgspec

from runtime.errors import ContainerNotFound, InvalidArgument, WrongState
from runtime.oci.command import find_root
from runtime.oci.directory import all_ids, open_container
from runtime.oci.flags import SWITCH, TEXT
from runtime.oci.ps import user_name
from runtime.oci.request import Request

FLAGS = {"format f": TEXT, "quiet q": SWITCH}
USAGE = "[--quiet] [--format table|json]"
HEADER = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def run(request: Request) -> int:
    request.check_count(0)
    form = request.flags.text("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument(f'--format "{form}": must be table or json')
    if not request.root.is_dir() and request.root != find_root():
        raise ContainerNotFound(f"--root {request.root}: there is no such directory")
    states = _states(request)
    if request.flags.switch("quiet"):
        sys.stdout.write("".join(f"{state['id']}\n" for state in states))
    elif form == "json":
        sys.stdout.write(msgspec.json.encode(states).decode() + "\n")
    else:
        rows = [tuple(str(state[key.lower()]) for key in HEADER) for state in states]
        sys.stdout.write(table([HEADER, *rows]))
    return 0


def table(rows: list[tuple[str, ...]]) -> str:
    """*rows* in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _states(request: Request) -> list[dict[str, object]]:
    found = []
    for container_id in all_ids(request.root):
        try:
            with open_container(request.root, container_id, lock=False) as container:
                found.append(container.as_state() | {"owner": user_name(container.record.owner)})
        except ContainerNotFound:
            continue  # it went while we looked
        except WrongState as error:
            request.log.warning(str(error))
    return found
