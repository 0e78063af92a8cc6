"""Run a program the way the monitor does, and nothing more: for tests of programs themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping

from kernel import process
from kernel.fd import Fd, memory
from kernel.program import PROGRAM_FD, REPORT_FD, Program, runner_image
from kernel.report import Outcome, Report

ABOVE = 200


def run(program: Program, descriptors: Mapping[int, Fd] | None = None) -> tuple[Outcome, int]:
    """Run *program* to the end of its runner; the outcome and the runner's exit code."""
    report = Report(len(program.all_steps))
    with memory("kernelet-runner", runner_image()) as image, memory("program", program.pack()) as code:
        lifted = {PROGRAM_FD: code.duplicate(ABOVE), REPORT_FD: report.memory.duplicate(ABOVE)}
        lifted |= {number: file.duplicate(ABOVE) for number, file in (descriptors or {}).items()}
        with image.duplicate(ABOVE) as runner:
            pid = process.spawn(runner.fileno(), "runner", {number: file.fileno() for number, file in lifted.items()})
        for file in lifted.values():
            file.close()
        _, status = os.waitpid(pid, 0)
    outcome = report.read()
    report.memory.close()
    return outcome, os.waitstatus_to_exitcode(status)
