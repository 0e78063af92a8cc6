"""A failed step as a sentence: which, of how many, what it called, why the kernel refused, what to try."""

from __future__ import annotations

import errno as errno_module
import os
from collections.abc import Sequence

from kernel.program import Program, Vector


def describe_failure(program: Program, failed: int, errno: int, results: Sequence[int] = ()) -> str:
    """*step 14 of 61, pivot_root(".", "."): invalid argument — the new root must be a mount point*.

    Of several places where a program was looked for, the one that said more than "no such file" is told.
    """
    steps = program.all_steps
    if steps[failed].call == "execve":
        for index in range(failed):
            if steps[index].call == "execve" and index < len(results) and results[index] == -errno_module.EACCES:
                failed, errno = index, errno_module.EACCES
    step = steps[failed]
    reason = os.strerror(errno).lower() if errno else "the process ended there"
    hint = f" — {step.hint}" if step.hint else ""
    return f"step {failed + 1} of {len(steps)}, {shorten(str(step))}: {reason}{hint}"


def command_failure(program: Program, errno: int) -> str:
    """What a failed execve means to the person who wrote the command."""
    last = program.steps[-1]
    vector = last.arguments[1]
    assert isinstance(vector, Vector)
    name = os.fsdecode(vector.items[0])
    return f"cannot execute {name!r}: {os.strerror(errno).lower()}" + (f" — {last.hint}" if last.hint else "")


def shorten(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
