"""The program of a process that is exec'd into a running container: enter, become the user, execve.

It re-applies everything: user, groups, capabilities, no_new_privs, filter, limits.  An exec that
forgot one would be a way around it.
"""

from __future__ import annotations

from kernel.program import Flags, Program
from runtime.container import process, reaper
from runtime.container.descriptors import FIRST_OPENED, Descriptor
from runtime.container.init import leave_the_monitor
from runtime.spec import schema

#: The pidfd of the container's init, by which all its namespaces are joined at once (setns(2), Linux 5.8).
CONTAINER = FIRST_OPENED


def program(
    title: str,
    spec_process: schema.Process,
    kinds: tuple[str, ...],
    last_capability: int,
    filter_code: bytes | None,
    *,
    in_cgroup: bool,
) -> Program:
    """The steps of *spec_process* in the namespaces *kinds* of the container whose pidfd is at CONTAINER."""
    steps = enter(title, spec_process, kinds, last_capability, filter_code, in_cgroup=in_cgroup)
    process.execute(steps, spec_process)
    reaper.stay_behind(steps)
    return steps


def enter(
    title: str,
    spec_process: schema.Process,
    kinds: tuple[str, ...],
    last_capability: int,
    filter_code: bytes | None,
    *,
    in_cgroup: bool,
    has_reaper: bool = True,
) -> Program:
    """As ``program``, up to execve; without a reaper the new process is the child of who started the runner."""
    steps = Program(title)
    leave_the_monitor(steps)
    steps.heading("the new process")
    if "CLONE_NEWPID" in kinds:
        steps.call(
            "setns",
            CONTAINER,
            Flags(("CLONE_NEWPID",)),
            why="children of this process are born into the container's pid namespace",
            hint="the container is gone",
        )
    steps.clone(
        () if has_reaper else ("CLONE_PARENT",),
        cgroup=Descriptor.CGROUP if in_cgroup else None,
        why="the new process, in the container's cgroup",
    )
    process.limit(steps, spec_process)
    process.label(steps, spec_process)
    rest = tuple(kind for kind in kinds if kind != "CLONE_NEWPID")
    steps.heading("namespaces")
    steps.call(
        "setns",
        CONTAINER,
        Flags(rest),
        why="enter all the container's namespaces; its root becomes /",
        hint="the container is gone",
    )
    process.attach_terminal(steps, spec_process)
    process.close_all(steps)
    process.become(steps, spec_process, last_capability, filter_code)
    return steps
