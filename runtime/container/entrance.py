"""Look at a running container before a process is exec'd into it: what ``join.program`` has to know, and the files it needs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from kernel import namespace, procfs
from kernel.capability import last_capability, read_sets
from kernel.fd import Fd, open_path
from kernel.process import open_pidfd
from kernel.user_namespace import is_initial
from runtime.container import join
from runtime.container.descriptors import Descriptor
from runtime.errors import ContainerNotRunning
from runtime.spec import schema

#: In the order in which they are named; the user namespace first, as setns(2) enters them.
_KINDS: tuple[tuple[namespace.Kind, str], ...] = (
    ("user", "CLONE_NEWUSER"),
    ("pid", "CLONE_NEWPID"),
    ("mnt", "CLONE_NEWNS"),
    ("net", "CLONE_NEWNET"),
    ("ipc", "CLONE_NEWIPC"),
    ("uts", "CLONE_NEWUTS"),
    ("cgroup", "CLONE_NEWCGROUP"),
    ("time", "CLONE_NEWTIME"),
)


@dataclass(slots=True)
class Opened:
    """The facts of an exec, and the descriptors that its program names."""

    entrance: join.Entrance
    descriptors: dict[int, Fd] = field(default_factory=dict)

    def close(self) -> None:
        for file in self.descriptors.values():
            file.close()


def prepare(
    process: schema.Process,
    pid: int,
    cgroup: Fd | None,
    *,
    linux: schema.Linux | None = None,
    has_reaper: bool = True,
    waits: bool = False,
    preserved: int = 0,
    keyring: str | None = "",
) -> Opened:
    """What *process* needs to enter the container whose init is *pid*; *cgroup*, if given, passes to the result.

    *linux* is the container's spec, for what holds for all its processes.  Raises ContainerNotRunning.
    """
    files: dict[int, Fd] = {} if cgroup is None else {Descriptor.CGROUP: cgroup}
    try:
        files[join.CONTAINER] = open_pidfd(pid)
        kinds = kinds_of(pid)
        if "CLONE_NEWNS" not in kinds:
            files[join.ROOT] = open_path(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
        if join.needs_procfs(process):
            files[join.PROCFS] = procfs.share_procfs()
    except (ProcessLookupError, FileNotFoundError) as error:
        for file in files.values():
            file.close()
        raise ContainerNotRunning("exec: the container has just ended") from error
    entrance = join.Entrance(
        kinds,
        last_capability(),
        in_cgroup=cgroup is not None,
        has_reaper=has_reaper,
        waits=waits,
        preserved=preserved,
        keyring=keyring,
        grantable=~0 if "CLONE_NEWUSER" in kinds else read_sets()[1],
        is_rootless=not is_initial(),
        personality=linux.personality if linux else None,
        memory_policy=linux.memory_policy if linux else None,
    )
    return Opened(entrance, files)


def kinds_of(pid: int) -> tuple[str, ...]:
    """The CLONE_NEW* constants of the namespaces in which *pid* is and this process is not."""
    found = []
    for kind, flag in _KINDS:
        try:
            with namespace.open_namespace(pid, kind) as theirs, namespace.open_namespace("thread-self", kind) as ours:
                if namespace.identity(theirs) != namespace.identity(ours):
                    found.append(flag)
        except FileNotFoundError:
            if not os.path.exists(f"/proc/self/ns/{kind}"):
                continue  # a kernel without such namespaces
            raise
    return tuple(found)


def cgroup_of(pid: int, mount: Path) -> Fd:
    """The cgroup that *pid* is in now, below the v2 hierarchy at *mount*: where an exec goes when the container's own
    cgroup takes no process any more (EBUSY), because the container has handed its controllers on.

    Raises ContainerNotRunning when there is no such process.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        path = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
        return open_path(mount / path, os.O_PATH | os.O_DIRECTORY)
    except (FileNotFoundError, ProcessLookupError, StopIteration) as error:
        raise ContainerNotRunning("exec: the container has just ended") from error
