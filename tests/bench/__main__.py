"""``python -m tests.bench [CASE]``: measure, print a table, write build/bench.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench import memory, start_exit
from tests.bench.measure import Figure
from tests.support.isolation import Run, isolated

CASES: dict[str, Callable[[Path, Run], list[Figure]]] = {"start-exit": start_exit.measured, "memory": memory.measured}
OUTPUT = Path("build/bench.json")


def main() -> None:
    wanted = sys.argv[1:] or list(CASES)
    unknown = [name for name in wanted if name not in CASES]
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; there are: {', '.join(CASES)}")
    figures: list[Figure] = []
    for name in wanted:
        with isolated() as run:
            directory = run.directory / name
            directory.mkdir()
            figures += CASES[name](directory, run)
    OUTPUT.parent.mkdir(exist_ok=True)
    kept = [row for row in _earlier() if row["case"] not in {figure.case for figure in figures}]
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
