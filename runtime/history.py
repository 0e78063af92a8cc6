"""What a start really did, step by step, kept in the run dir for whoever asks (``kernelet explain``)."""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec

from kernel.program import Program
from kernel.report import SKIPPED, Outcome

FILE = "start.json.z"


class StepRecord(msgspec.Struct):
    """One step: what was called, why, what the kernel answered, and µs since the start when it was over (None: not reached)."""

    call: str
    why: str
    result: int
    at_us: float | None
    skipped: bool


def save(run_dir: Path, program: Program, outcome: Outcome) -> None:
    """Write down how far *program* came, about 3 KB."""
    records = [
        StepRecord(str(step), step.why, result, (at_ns - outcome.began_ns) / 1000 if at_ns else None, result == SKIPPED)
        for step, result, at_ns in zip(program.steps, outcome.results, outcome.times_ns, strict=False)
    ]
    (run_dir / FILE).write_bytes(zlib.compress(msgspec.json.encode(records), 1))


def load(run_dir: Path) -> list[StepRecord]:
    """The steps of the last start; empty when nothing was kept."""
    try:
        content = (run_dir / FILE).read_bytes()
    except FileNotFoundError:
        return []
    return msgspec.json.decode(zlib.decompress(content), type=list[StepRecord])
