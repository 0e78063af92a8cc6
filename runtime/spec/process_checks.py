"""What is wrong with the ``process`` of a document, as far as it can be said without asking a kernel."""

from __future__ import annotations

from runtime.errors import InvalidSpec
from runtime.spec import schema
from runtime.spec.checks import MAX_ID, check_absolute, check_all_of, check_one_of, check_range, check_unique, parse_numbers

RLIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in (
        *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS"),
        *("RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
    )
)
POLICIES = frozenset(f"SCHED_{name}" for name in ("OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE"))
SCHEDULER_FLAGS = frozenset(
    f"SCHED_FLAG_{name}"
    for name in ("RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX")
)
IO_CLASSES = frozenset({"IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"})
#: The shortest runtime of a deadline process: the scheduler reckons in units of 1,024 ns (DL_SCALE).
LEAST_NANOSECONDS = 1 << 10
#: NGROUPS_MAX.
MAX_GROUPS = 65536
_REAL_TIME = ("SCHED_FIFO", "SCHED_RR")


def check_process(process: schema.Process, where: str = "process") -> None:
    """Raise InvalidSpec naming the first wrong field."""
    if not process.args:
        raise InvalidSpec(f"{where}.args: empty, there is nothing to run")
    check_absolute(process.cwd, f"{where}.cwd")
    _check_user(process.user, f"{where}.user")
    if process.console_size is not None:
        check_range(process.console_size.height, 0, 2**16 - 1, f"{where}.consoleSize.height")
        check_range(process.console_size.width, 0, 2**16 - 1, f"{where}.consoleSize.width")
    if process.oom_score_adj is not None:
        check_range(process.oom_score_adj, -1000, 1000, f"{where}.oomScoreAdj")
    check_unique((limit.type for limit in process.rlimits), f"{where}.rlimits", "type")
    for index, limit in enumerate(process.rlimits):
        _check_rlimit(limit, f"{where}.rlimits[{index}]")
    if process.scheduler is not None:
        _check_scheduler(process.scheduler, f"{where}.scheduler")
    if process.io_priority is not None:
        check_one_of(process.io_priority.class_, IO_CLASSES, f"{where}.ioPriority.class")
        check_range(process.io_priority.priority, 0, 7, f"{where}.ioPriority.priority")
    if process.exec_cpu_affinity is not None:
        for field in ("initial", "final"):
            if cpus := getattr(process.exec_cpu_affinity, field):
                parse_numbers(cpus, f"{where}.execCPUAffinity.{field}")


def _check_user(user: schema.User, where: str) -> None:
    check_range(user.uid, 0, MAX_ID, f"{where}.uid")
    check_range(user.gid, 0, MAX_ID, f"{where}.gid")
    if len(user.additional_gids) > MAX_GROUPS:
        raise InvalidSpec(f"{where}.additionalGids: {len(user.additional_gids)} groups, and the kernel takes {MAX_GROUPS}")
    for index, gid in enumerate(user.additional_gids):
        check_range(gid, 0, MAX_ID, f"{where}.additionalGids[{index}]")
    if user.umask is not None:
        check_range(user.umask, 0, 0o777, f"{where}.umask")


def _check_rlimit(limit: schema.Rlimit, where: str) -> None:
    if limit.type not in RLIMITS:
        raise InvalidSpec(f"{where}.type: Linux has no {limit.type!r}")
    check_range(limit.hard, 0, 2**64 - 1, f"{where}.hard")
    check_range(limit.soft, 0, limit.hard, f"{where}.soft")


def _check_scheduler(wanted: schema.Scheduler, where: str) -> None:
    check_one_of(wanted.policy, POLICIES, f"{where}.policy")
    check_all_of(wanted.flags, SCHEDULER_FLAGS, f"{where}.flags")
    check_range(wanted.nice, -20, 19, f"{where}.nice")
    if wanted.policy in _REAL_TIME:
        check_range(wanted.priority, 1, 99, f"{where}.priority")
    elif wanted.priority:
        raise InvalidSpec(f"{where}.priority: {wanted.policy} has none, it is for {' and '.join(_REAL_TIME)}")
    for field in ("runtime", "deadline", "period"):
        check_range(getattr(wanted, field), 0, 2**64 - 1, f"{where}.{field}")
        if wanted.policy != "SCHED_DEADLINE" and getattr(wanted, field):
            raise InvalidSpec(f"{where}.{field}: {wanted.policy} has none, it is for SCHED_DEADLINE")
    if wanted.policy == "SCHED_DEADLINE":
        _check_deadline(wanted, where)


def _check_deadline(wanted: schema.Scheduler, where: str) -> None:
    """What the kernel asks of the three times (__checkparam_dl), in crun's words: its callers look for them."""
    said = "sched_setattr: `SCHED_DEADLINE`"
    if not wanted.runtime:
        raise InvalidSpec(f"{where}.runtime: {said} requires `runtime`; {said} runtime must be greater than 0")
    if not wanted.deadline:
        raise InvalidSpec(f"{where}.deadline: {said} requires `deadline`")
    if not LEAST_NANOSECONDS <= wanted.runtime < 2**63:
        raise InvalidSpec(f"{where}.runtime: {said} runtime {wanted.runtime} must be between {LEAST_NANOSECONDS} and {2**63 - 1}")
    if wanted.runtime > wanted.deadline:
        raise InvalidSpec(f"{where}.runtime: {said} runtime {wanted.runtime} must be <= deadline {wanted.deadline}")
    if wanted.period and wanted.deadline > wanted.period:
        raise InvalidSpec(f"{where}.deadline: {said} deadline {wanted.deadline} must be <= period {wanted.period}")
