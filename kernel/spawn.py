"""Start a program (``kernel.program``) beside this process: the runner, spawned with the descriptors that its steps name.

For the small ones, which nobody keeps watching: a hook, the holder of a namespace.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernel import process
from kernel.fd import Fd, memory
from kernel.program import PROGRAM_FD, REPORT_FD, Program, runner_image
from kernel.report import Report

#: Above all numbers that such a program names, so that no dup2 of the spawn overwrites another.
ABOVE = 32


def spawn(program: Program, name: str, files: Mapping[int, Fd]) -> tuple[int, Report]:
    """Start *program* under the *name* that ps shows until it executes another; its pid, and its report.

    *files* are what it has besides program and report, by the numbers below ``ABOVE`` that its steps use.
    """
    report = Report(len(program.all_steps))
    lifted: dict[int, Fd] = {}
    try:
        with memory("kernelet-runner", runner_image()) as image, memory("program", program.pack()) as code:
            for number, file in {**files, PROGRAM_FD: code, REPORT_FD: report.memory}.items():
                lifted[number] = file.duplicate(ABOVE)
            with image.duplicate(ABOVE) as runner:
                numbers = {number: file.fileno() for number, file in lifted.items()}
                return process.spawn(runner.fileno(), name, numbers), report
    except BaseException:
        report.memory.close()
        raise
    finally:
        for file in lifted.values():
            file.close()
