"""A failed step as a sentence: which, of how many, what it called, why the kernel refused, what to try."""

from __future__ import annotations

import errno as errno_module
import os
from collections.abc import Sequence

from kernel.fd import Fd
from kernel.program import Program, Step
from runtime.spec import schema


def describe_failure(program: Program, failed: int, errno: int, results: Sequence[int] = (), root: Fd | None = None) -> str:
    """*step 14 of 61, pivot_root(".", "."): invalid argument — the new root must be a mount point*.

    Of several places where a program was looked for, the one that said more than "no such file" is told.  With *root*,
    the container's, a missing interpreter is told from a missing program.
    """
    steps = program.all_steps
    if steps[failed].call == "execve":
        for index in range(failed):
            if steps[index].call == "execve" and index < len(results) and results[index] == -errno_module.EACCES:
                failed, errno = index, errno_module.EACCES
    step = steps[failed]
    reason = os.strerror(errno).lower() if errno else "the process ended there"
    hint = _hint(program, step, errno, root)
    if _may_be_filtered(steps[:failed], step, errno):
        hint = f"{hint}{'; or ' if hint else ''}linux.seccomp forbids {step.call}: its filter is in place by then"
    return f"step {failed + 1} of {len(steps)}, {shorten(_call(step))}: {reason}" + (f" — {hint}" if hint else "")


def command_failure(process: schema.Process, errno: int, root: Fd | None = None) -> str:
    """What a failed execve means to the person who wrote the command; *root* as above."""
    hint = command_hint(process, errno, root)
    return f"cannot execute {process.args[0]!r}: {os.strerror(errno).lower()}" + (f" — {hint}" if hint else "")


def command_hint(process: schema.Process, errno: int, root: Fd | None = None) -> str:
    """What to try when *process* could not be executed; empty when there is nothing to say."""
    from runtime.container.process import execute

    steps = Program("the command")
    execute(steps, process)
    return _hint(steps, steps.steps[-1], errno, root)


def shorten(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _may_be_filtered(before: Sequence[Step], step: Step, errno: int) -> bool:
    """Whether a system call filter may have answered in the kernel's place: of execve only what the kernel seldom says."""
    if not any(each.call == "seccomp" for each in before):
        return False
    return step.call != "execve" or errno in (errno_module.EPERM, errno_module.ENOSYS)


def _call(step: Step) -> str:
    """The call as text; of an execve without the environment, whose values may be secrets."""
    from kernel.decode import decode  # as all here that only a failure needs

    if step.call == "execve":
        step = step._replace(arguments=step.arguments[:2])
    return decode(step)


def _hint(program: Program, step: Step, errno: int, root: Fd | None) -> str:
    from runtime.container.executable import missing_interpreter
    from runtime.container.hints import hint_for

    if step.call == "execve" and errno == errno_module.ENOENT and root is not None:
        candidates = [str(each.arguments[0]) for each in program.steps if each.call == "execve"]
        found = missing_interpreter(root, candidates)
        if found is not None:
            return "{} is there, but not {}, which it names as its interpreter".format(*found)
        return f"there is no {' nor '.join(candidates)} in the image" if len(candidates) == 1 else "no directory of PATH has it"
    return hint_for(step, errno)
