"""``python -m tests.bench [CASE]``: measure, print a table, write build/bench.json."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import burst, cold, created, cri, execution, first_instruction, memory, start_exit
from tests.bench.measure import Figure
from tests.support.isolation import Run, isolated

CASES: dict[str, Callable[[Path, Run], list[Figure]]] = {
    "first-instruction": first_instruction.measured,
    "first-instruction-join": first_instruction.measured_join,
    "first-instruction-seccomp": first_instruction.measured_seccomp,
    "start-created": created.measured,
    "exec": execution.measured,
    "burst-100": burst.measured,
    "cold-oci-run": cold.measured,
    "start-exit": start_exit.measured,
    "memory": memory.measured,
    "cri": cri.measured,
    "cri-list-200": cri.measured_list,
}
#: Measured together, each name good for all of them.
GROUPS = {f"cri-{part}": "cri" for part in cri.PARTS}
OUTPUT = Path("build/bench.json")


def main() -> None:
    wanted = list(dict.fromkeys(GROUPS.get(name, name) for name in sys.argv[1:])) or list(CASES)
    unknown = [name for name in wanted if name not in CASES]
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; there are: {', '.join(CASES)}")
    if len(wanted) > 1:
        for name in wanted:  # a process for each: what one leaves in memory is not the next one's
            subprocess.run([sys.executable, "-m", "tests.bench", name], check=True)
        return
    with isolated() as run:
        directory = run.directory / wanted[0]
        directory.mkdir()
        write(CASES[wanted[0]](directory, run))


def write(figures: list[Figure]) -> None:
    """Put *figures* in the place of those that the file has of the same cases."""
    OUTPUT.parent.mkdir(exist_ok=True)
    new = {figure.case for figure in figures}
    kept = [row for row in _earlier() if row["case"] not in new]
    OUTPUT.write_text(json.dumps([*kept, *(figure.document() for figure in figures)], indent=1) + "\n")
    print(f"\n{len(figures)} figures written to {OUTPUT}")


def _earlier() -> list[dict[str, object]]:
    """The figures of other cases from earlier runs, so that one case can be measured again alone."""
    try:
        return list(json.loads(OUTPUT.read_text()))
    except (FileNotFoundError, ValueError):
        return []


if __name__ == "__main__":
    main()
