"""Run a program the way the monitor does, and nothing more: for tests of programs themselves; by either executor."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from typing import NoReturn

from kernel import process, stepper
from kernel.fd import Fd, memory
from kernel.program import PROGRAM_FD, REPORT_FD, Program, runner_image
from kernel.report import Outcome, Report

ABOVE = 200


def run(program: Program, descriptors: Mapping[int, Fd] | None = None, *, adopts: bool = False) -> tuple[Outcome, int]:
    """Run *program* to the end of its runner; the outcome and the runner's exit code.

    With *adopts*, which needs CLONE_PARENT, to the end of the new process, whose exit code it is then.
    """
    report = Report(len(program.all_steps))
    with memory("kernelet-runner", runner_image()) as image, memory("program", program.pack()) as code:
        lifted = {PROGRAM_FD: code.duplicate(ABOVE), REPORT_FD: report.memory.duplicate(ABOVE)}
        lifted |= {number: file.duplicate(ABOVE) for number, file in (descriptors or {}).items()}
        with image.duplicate(ABOVE) as runner:
            pid = process.spawn(runner.fileno(), "runner", {number: file.fileno() for number, file in lifted.items()})
        for file in lifted.values():
            file.close()
    return _end(report, pid, adopts=adopts)


def run_stepped(
    program: Program,
    descriptors: Mapping[int, Fd] | None = None,
    main: Callable[[], NoReturn] = stepper.main,
    *,
    adopts: bool = False,
) -> tuple[Outcome, int]:
    """As ``run``, by the second executor, in a child with these descriptors and no others; *main* is what it runs."""
    report = Report(len(program.all_steps))
    with memory("program", program.pack()) as code:
        given = {PROGRAM_FD: code, REPORT_FD: report.memory, **(descriptors or {})}
        lifted = {number: file.duplicate(ABOVE) for number, file in given.items()}
        pid = os.fork()
        if pid == 0:
            _be_the_executor({number: file.fileno() for number, file in lifted.items()}, main)
        for file in lifted.values():
            file.close()
    return _end(report, pid, adopts=adopts)


def _end(report: Report, pid: int, *, adopts: bool) -> tuple[Outcome, int]:
    _, status = os.waitpid(pid, 0)
    if adopts and (adopted := report.read().pid):
        _, status = os.waitpid(adopted, 0)
    outcome = report.read()
    report.memory.close()
    return outcome, os.waitstatus_to_exitcode(status)


def _be_the_executor(descriptors: Mapping[int, int], main: Callable[[], NoReturn]) -> NoReturn:
    try:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for there, here in descriptors.items():
            os.dup2(here, there)
        for open_file in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # that of the listing itself
                if open_file not in descriptors and not os.get_inheritable(open_file):  # a spawn would not pass it on either
                    os.close(open_file)
        main()
    finally:
        os._exit(115)
