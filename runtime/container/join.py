"""The program of a process that is exec'd into a running container: enter, become the user, execve.

It re-applies everything: user, groups, capabilities, no_new_privs, filter, limits.  An exec that
forgot one would be a way around it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernel.program import Flags, Program
from runtime.container import label, process, reaper, rlimits, scheduling
from runtime.container.descriptors import FIRST_OPENED, Descriptor
from runtime.container.filter import SystemCallFilter
from runtime.container.init import leave_the_monitor
from runtime.spec import schema

#: The pidfd of the container's init, by which all its namespaces are joined at once (setns(2), Linux 5.8).
CONTAINER = FIRST_OPENED
#: The container's root, needed when it has no mount namespace of its own.
ROOT = FIRST_OPENED + 2
#: A procfs of our own (kernel.procfs), needed when ``needs_procfs`` says so.
PROCFS = FIRST_OPENED + 1


@dataclass(frozen=True, slots=True)
class Entrance:
    """What was found out before a process is exec'd into a container: the facts of its start.

    *kinds* are the CLONE_NEW* constants of the namespaces in which the container's init is and the launcher is not,
    CLONE_NEWUSER among them if it has one.
    """

    kinds: tuple[str, ...]
    last_capability: int
    in_cgroup: bool = True
    """Descriptor.CGROUP is the directory of the cgroup to be born in; where that refuses (EBUSY), init's own is given."""
    has_reaper: bool = True
    """The runner's parent half stays behind as the reaper; otherwise the new process is the child of who started the runner."""
    waits: bool = False
    """It says "c" when all is done but execve, and waits for START: its listener is fetched, or its pid written down, before."""
    preserved: int = 0
    """How many descriptors from 3 on the caller hands on; they stand at FIRST_PRESERVED meanwhile."""
    keyring: str | None = ""
    """The name of the container's session keyring; none for a nameless new one, None to keep the caller's."""
    grantable: int = ~0
    """The capabilities (bits) that can be given here; what else the process asks for is left out."""
    is_rootless: bool = False
    """The launcher is itself in a user namespace, whose root may less than the node's."""
    personality: schema.Personality | None = None
    memory_policy: schema.MemoryPolicy | None = None


def program(
    title: str, spec_process: schema.Process, entrance: Entrance, system_calls: SystemCallFilter | None = None
) -> Program:
    """The steps of *spec_process* in the container whose pidfd is at CONTAINER."""
    steps = enter(title, spec_process, entrance, system_calls)
    process.execute(steps, spec_process)
    if entrance.has_reaper:
        reaper.stay_behind(steps)
    return steps


def needs_procfs(spec_process: schema.Process) -> bool:
    """Whether the program writes to procfs, so that PROCFS has to be there."""
    return spec_process.oom_score_adj is not None or label.wants_label(spec_process)


def enter(title: str, spec_process: schema.Process, entrance: Entrance, system_calls: SystemCallFilter | None) -> Program:
    """As ``program``, up to execve.

    The order is the kernel's: pid and time namespaces are for children, so the runner enters them; limits are raised
    and labels written with the launcher's rights; the user namespace is entered together with all others, in one call
    that asks for the rights over each before it takes them away.
    """
    steps = Program(title)
    kinds = set(entrance.kinds)
    has_users = "CLONE_NEWUSER" in kinds
    leave_the_monitor(steps)
    affinity = spec_process.exec_cpu_affinity or schema.CpuAffinity()
    scheduling.set_affinity(steps, affinity.initial, "initial", "where to run until the process is in the container's cgroup")
    _join(steps, [kind for kind in ("CLONE_NEWPID", "CLONE_NEWTIME") if kind in kinds], "children are born into these")
    steps.heading("the new process")
    steps.clone(
        () if entrance.has_reaper else ("CLONE_PARENT",),
        cgroup=Descriptor.CGROUP if entrance.in_cgroup else None,
        why="the new process, in the container's cgroup",
        hint="the cgroup is gone, or hands controllers on and so takes no process itself",
    )
    rlimits.limit(steps, spec_process, PROCFS, later=(rlimits.FILES,))
    label.label(steps, spec_process, PROCFS)
    scheduling.schedule(steps, spec_process)
    scheduling.set_affinity(steps, affinity.final, "final", "where to run from now on")
    steps.heading("namespaces")
    rest = [kind for kind in entrance.kinds if kind not in ("CLONE_NEWPID", "CLONE_NEWTIME")]
    _join(steps, rest, "enter all the container's namespaces; its root becomes /")
    if "CLONE_NEWNS" not in kinds:
        steps.call("fchdir", ROOT, why="the container has no mount namespace of its own: stand in its root")
        steps.call("chroot", ".", why="and be confined to it, as its init is")
    if has_users:
        process.become_root(steps)
    process.attach_terminal(steps, spec_process, entrance.keyring)
    pipes = process.close_all(steps, entrance.preserved)
    scheduling.set_personality(steps, entrance.personality)
    scheduling.set_memory_policy(steps, entrance.memory_policy)
    how = process.Becoming(
        entrance.last_capability, entrance.grantable, system_calls, has_users=has_users or entrance.is_rootless
    )
    process.become(steps, spec_process, how)
    if entrance.waits:
        process.wait_for_start(steps, pipes)
    return steps


def _join(steps: Program, kinds: list[str], why: str) -> None:
    if kinds:
        steps.call("setns", CONTAINER, Flags(tuple(kinds)), why=why, hint="the container is gone")
