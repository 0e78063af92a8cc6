"""What a program did: the page on which the runner writes each step's result and time while Python reads it.

The layout is runner.c's ``struct report``; tests/kernel/test_program.py holds the two equal.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

from kernel.fd import Fd, memory

_REPORT = struct.Struct("<iiiiq")
_ENTRY = struct.Struct("<qq")

#: The result of a step that was not made, because a slot that it needs is empty.
SKIPPED = -4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a report says: the new process's pid, how far it got, and the step that failed, if one did."""

    pid: int
    at: int
    failed: int | None
    results: tuple[int, ...]
    times_ns: tuple[int, ...]
    began_ns: int
    reaper_failed: int | None

    @property
    def errno(self) -> int:
        """The errno of the failed step, 0 if none failed."""
        return -self.results[self.failed] if self.failed is not None else 0


class Report:
    """The page on which a runner writes each step's result and time while Python reads it."""

    def __init__(self, step_count: int) -> None:
        self._count = step_count
        self.size = report_size(step_count)
        self.memory = memory("kernelet-report", b"\0" * self.size, seal=False)
        fcntl.fcntl(self.memory.fileno(), fcntl.F_SETFL, os.O_APPEND)  # what a program writes to it is behind all steps

    def read(self) -> Outcome:
        """The state of the start right now."""
        return read_report(self.memory, self._count)


def report_size(step_count: int) -> int:
    """Bytes that a report of *step_count* steps takes."""
    return _REPORT.size + step_count * _ENTRY.size


@dataclass(frozen=True, slots=True)
class Progress:
    """The head of a report: enough to know whether a start went well.  *failed* is a step's index, *errno* its errno."""

    pid: int
    at: int
    failed: int | None
    errno: int


def read_progress(file: Fd) -> Progress:
    """How far the start whose report is in *file* has come."""
    pid, failed, at, _, _ = _REPORT.unpack(os.pread(file.fileno(), _REPORT.size, 0))
    if not failed:
        return Progress(pid, at, None, 0)
    result, _ = _ENTRY.unpack(os.pread(file.fileno(), _ENTRY.size, report_size(failed - 1)))
    return Progress(pid, at, failed - 1, -result)


def read_report(file: Fd, step_count: int) -> Outcome:
    """The whole report of a program of *step_count* steps."""
    content = os.pread(file.fileno(), report_size(step_count), 0)
    pid, failed, at, reaper_failed, began_ns = _REPORT.unpack_from(content)
    entries = list(_ENTRY.iter_unpack(content[_REPORT.size :]))
    return Outcome(
        pid,
        at,
        failed - 1 if failed else None,
        tuple(result for result, _ in entries),
        tuple(at_ns for _, at_ns in entries),
        began_ns,
        reaper_failed - 1 if reaper_failed else None,
    )
