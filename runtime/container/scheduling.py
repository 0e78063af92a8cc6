"""When, where and out of which memory a process runs: scheduler, I/O priority, CPUs, memory nodes, execution domain."""

from __future__ import annotations

import errno
import struct

from kernel.program import Flags, Program, Words
from runtime.errors import Unsupported
from runtime.spec import schema
from runtime.spec.checks import parse_numbers

#: struct sched_attr (sched_setattr(2)) as of Linux 5.3: size, policy, flags, nice, priority, three times, two clamps.
_ATTRIBUTES = struct.Struct("<IIQiIQQQII")
_IO_NICE = "a real-time class takes CAP_SYS_NICE or CAP_SYS_ADMIN"
#: Of linux/mempolicy.h, since Linux 6.9.
_WEIGHTED_INTERLEAVE = 6


def schedule(steps: Program, process: schema.Process) -> None:
    """The process's scheduling policy and I/O priority, while it has the right to better ones."""
    if process.scheduler is None and process.io_priority is None:
        return
    steps.heading("scheduling")
    if process.scheduler is not None:
        _schedule(steps, process.scheduler)
    if process.io_priority is not None:
        kind, priority = process.io_priority.class_, process.io_priority.priority
        value = Flags((kind,)).value() << Flags(("IOPRIO_CLASS_SHIFT",)).value() | priority
        words = f"I/O priority {priority} of {kind}"
        steps.call("ioprio_set", Flags(("IOPRIO_WHO_PROCESS",)), 0, value, why=words, hint=_IO_NICE)


def _schedule(steps: Program, wanted: schema.Scheduler) -> None:
    if wanted.policy == "SCHED_ISO":
        raise Unsupported("process.scheduler.policy: SCHED_ISO is a name that Linux keeps for a policy that it does not have")
    flags = Flags(tuple(wanted.flags))
    attributes = _ATTRIBUTES.pack(
        *(_ATTRIBUTES.size, Flags((wanted.policy,)).value(), flags.value(), wanted.nice, wanted.priority),
        *(wanted.runtime, wanted.deadline, wanted.period, 0, 0),
    )
    told = [wanted.policy, f"nice {wanted.nice}", f"priority {wanted.priority}", str(flags)]
    if wanted.policy == "SCHED_DEADLINE":
        told.append(f"{wanted.runtime} of {wanted.period} ns by {wanted.deadline}")
    steps.call(
        "sched_setattr",
        0,
        Words(1, tuple(attributes), label="{" + ", ".join(told) + "}"),
        0,
        why=f"schedule by {wanted.policy}",
        hint="real-time policies and a nice value below our own take CAP_SYS_NICE; else a number is out of the policy's range",
    )


def set_affinity(steps: Program, cpus: str, field: str, why: str) -> None:
    """Run on *cpus* (``0-3,7``) alone; raises InvalidSpec naming process.execCPUAffinity's *field*."""
    if not cpus:
        return
    numbers = parse_numbers(cpus, f"process.execCPUAffinity.{field}")
    mask = _bits(numbers)
    hint = "none of these processors is online, or the cgroup's cpuset has none of them"
    steps.call("sched_setaffinity", 0, 8 * len(mask), Words(8, mask, label=f"{{{cpus}}}"), why=why, hint=hint)


def set_memory_policy(steps: Program, policy: schema.MemoryPolicy | None) -> None:
    """The NUMA nodes that memory comes from (set_mempolicy(2)); a kernel without them has the default alone."""
    if policy is None:
        return
    steps.heading("memory policy")
    known = policy.mode != "MPOL_WEIGHTED_INTERLEAVE"
    mode = (Flags((policy.mode,)).value() if known else _WEIGHTED_INTERLEAVE) | Flags(tuple(policy.flags)).value()
    mask = _bits(parse_numbers(policy.nodes, "linux.memoryPolicy.nodes")) if policy.nodes else ()
    steps.call(
        "set_mempolicy",
        mode,
        Words(8, mask, label=f"{{{policy.nodes}}}") if mask else 0,
        64 * len(mask) + 1 if mask else 0,  # the kernel takes one bit less than it is told
        tolerate=(errno.ENOSYS,) if policy.mode == "MPOL_DEFAULT" else (),
        why=f"memory by {'|'.join((policy.mode, *policy.flags))}" + (f" of nodes {policy.nodes}" if policy.nodes else ""),
        hint="this kernel has no NUMA or not this mode, or none of these nodes is there and allowed",
    )


def set_personality(steps: Program, personality: schema.Personality | None) -> None:
    """The execution domain: under LINUX32 uname(2) tells of a 32-bit machine."""
    if personality is not None:
        steps.heading("execution domain")
        steps.call("personality", Flags((f"PER_{personality.domain}",)), why=f"the execution domain {personality.domain}")


def _bits(numbers: list[int]) -> tuple[int, ...]:
    """A bit for each number, in words of 64."""
    words = [0] * (max(numbers) // 64 + 1)
    for number in numbers:
        words[number // 64] |= 1 << number % 64
    return tuple(words)
