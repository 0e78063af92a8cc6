"""Resource limits (prlimit(2)) and the out-of-memory score of a container's process."""

from __future__ import annotations

import errno
import resource

from kernel.program import Flags, Program, Words
from runtime.container import procfs as procfs_steps
from runtime.errors import InvalidSpec
from runtime.spec import schema
from runtime.spec.process_checks import RLIMITS

FILES = "RLIMIT_NOFILE"
_SCORE = "self/oom_score_adj"


def above_ours(process: schema.Process) -> tuple[str, ...]:
    """Which limits of *process* are higher than this process's own: to raise one takes CAP_SYS_RESOURCE of the node."""
    known = [rlimit for rlimit in process.rlimits if rlimit.type in RLIMITS]
    return tuple(rlimit.type for rlimit in known if 0 <= _hard_limit(rlimit.type) < rlimit.hard)


def _hard_limit(name: str) -> int:
    """Ours, -1 for none; Python has no name for the limit of file locks, which no kernel heeds."""
    number = getattr(resource, name, None)
    return -1 if number is None else resource.getrlimit(number)[1]


def prepare(steps: Program, process: schema.Process, procfs: int | None, raised: tuple[str, ...]) -> None:
    """Before a user namespace is entered: what only the node's own root may do."""
    for rlimit in process.rlimits:
        if rlimit.type in raised:
            value = Words(8, (rlimit.hard, rlimit.hard))
            why = f"raise {rlimit.type}, which no root of another user namespace may"
            steps.call("prlimit64", 0, Flags((rlimit.type,)), value, 0, why=why, hint="it takes CAP_SYS_RESOURCE")
    if process.oom_score_adj is not None and process.oom_score_adj < 0:
        _score(steps, process.oom_score_adj, procfs)


def limit(
    steps: Program, process: schema.Process, procfs: int | None, *, has_users: bool = False, later: tuple[str, ...] = ()
) -> None:
    """The limits but those of *later*, and the score; with *has_users* a negative score was set by ``prepare``."""
    steps.heading("limits")
    names = [rlimit.type for rlimit in process.rlimits]
    for rlimit in process.rlimits:
        if rlimit.type not in RLIMITS or names.count(rlimit.type) > 1:
            raise InvalidSpec(f"process.rlimits {rlimit.type!r}: not the name of a limit, or there twice")
        if rlimit.type not in later:
            _limit(steps, rlimit)
    if process.oom_score_adj is not None and not (has_users and process.oom_score_adj < 0):
        _score(steps, process.oom_score_adj, procfs)


def limit_files(steps: Program, process: schema.Process) -> None:
    """The limit of descriptors, when those of the set-up are closed: it is the program's, not ours."""
    for rlimit in process.rlimits:
        if rlimit.type == FILES:
            _limit(steps, rlimit)


def _limit(steps: Program, rlimit: schema.Rlimit) -> None:
    steps.call(
        "prlimit64",
        0,
        Flags((rlimit.type,)),
        Words(8, (rlimit.soft, rlimit.hard)),
        0,
        why=f"limit {rlimit.type} to {rlimit.soft}, {rlimit.hard} at most",
        hint="raising a hard limit takes CAP_SYS_RESOURCE",
    )


def _score(steps: Program, score: int, procfs: int | None) -> None:
    procfs_steps.write(
        steps,
        procfs,
        _SCORE,
        str(score),
        store="score",
        tolerate=(errno.EACCES,),
        why="how soon the kernel should end this process when memory is short (EACCES: lowering takes CAP_SYS_RESOURCE)",
    )
