"""Mounts as another user namespace than the caller's owns them, or would see them.

Who makes a file system owns it: only then are the terminals of a container's devpts its users', say.  And what a less
privileged mount namespace gets of a more privileged one is locked: nobody in it can make a read-only mount of the
node's writable, or take "nodev" away (mount_namespaces(7)).  Python cannot enter a user namespace (a process with
threads may not), so a program does, and what it has made there is taken over.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel import mount, process
from kernel.errors import failure
from kernel.fd import Fd, pipe, take_from
from kernel.namespace import in_namespace, open_namespace
from kernel.process import open_pidfd
from kernel.program import Buffer, Flags, Program, Slot
from kernel.report import Report
from kernel.spawn import spawn

#: Descriptors of the process inside: the user namespace, where it says that it is ready, and where it waits.
NAMESPACE, _SAYS, _WAITS = 5, 6, 7
_MADE = "mount"


def new_filesystem(
    namespace: Fd, kind: str, options: Iterable[tuple[str, str | None] | str] = (), *, attributes: tuple[str, ...] = ()
) -> Fd:
    """As ``mount.new_filesystem``, by root of the user namespace *namespace*; *attributes* are MOUNT_ATTR_* names."""
    steps = _maker(kind, options, attributes)
    made = next(index for index, step in enumerate(steps.steps) if step.store == _MADE)
    with running(steps, namespace) as (pid, report), open_pidfd(pid) as pidfd:
        return take_from(pidfd, report.read().results[made])


def new_mount_namespace(namespace: Fd) -> Fd:
    """A copy of the caller's mount namespace, owned by the user namespace *namespace*: all in it is locked."""
    steps = Program("holder of a mount namespace")
    _enter(steps)
    wait(steps)
    with running(steps, namespace) as (pid, _):
        return open_namespace(pid, "mnt")


def clone_tree(mounts: Fd, path: Path | str, *, recursive: bool = False) -> Fd:
    """As ``mount.clone_tree``, of what is at *path* in the mount namespace *mounts*, with the caller's rights to files.

    OSError (EINVAL) without *recursive* when something is mounted below: what that covers is not to be uncovered.
    """
    return in_namespace(mounts, "mnt", lambda: mount.clone_tree(path, recursive=recursive))


@contextmanager
def running(steps: Program, namespace: Fd) -> Iterator[tuple[int, Report]]:
    """The pid and the report of a process that has made *steps* in *namespace* and waits until the block is left."""
    ready, says = pipe()
    waits, hold = pipe()
    with ready, hold:
        with says, waits:
            pid, report = spawn(steps, "kernelet-mount", {NAMESPACE: namespace, _SAYS: says, _WAITS: waits})
        try:
            if not os.read(ready.fileno(), 1):
                outcome = report.read()
                index = outcome.at if outcome.failed is None else outcome.failed
                raise failure(outcome.errno or errno.ECHILD, steps.steps[index].call, steps.steps[index].why)
            yield pid, report
        finally:
            hold.close()  # it ends by itself, as it would if this process died
            process.reap(pid)
            report.memory.close()


def _enter(steps: Program) -> None:
    steps.call("setns", NAMESPACE, Flags(("CLONE_NEWUSER",)), why="be in the user namespace that is to own it")
    become_root(steps)
    steps.call("unshare", Flags(("CLONE_NEWNS",)), why="a mount namespace that it owns")


def become_root(steps: Program) -> None:
    """Be the root of the user namespace, if it has one."""
    for call in ("setresgid", "setresuid"):
        steps.call(call, 0, 0, 0, tolerate=(errno.EINVAL,), why="as its root, if it has one")


def wait(steps: Program) -> None:
    """Say that all is made, and stay until it has been taken."""
    steps.call("write", _SAYS, "m", 1, why="it is there to be taken")
    steps.call("close", _SAYS, why="nothing more will be said")
    steps.call("read", _WAITS, Buffer("nothing", 8), 8, why="until it is")


def _maker(kind: str, options: Iterable[tuple[str, str | None] | str], attributes: tuple[str, ...]) -> Program:
    steps = Program(f"maker of a {kind}")
    _enter(steps)
    context = steps.call("fsopen", kind, Flags(("FSOPEN_CLOEXEC",)), store="context", why=f"begin a {kind}")
    for option in options:
        key, value = (option, None) if isinstance(option, str) else option
        command = Flags(("FSCONFIG_SET_FLAG" if value is None else "FSCONFIG_SET_STRING",))
        why = f"{kind} option {key}" + ("" if value is None else f"={value}")
        steps.call("fsconfig", context, command, key, 0 if value is None else value, 0, why=why)
    steps.call("fsconfig", context, Flags(("FSCONFIG_CMD_CREATE",)), 0, 0, 0, why=kind)
    steps.call("fsmount", Slot("context"), Flags(("FSMOUNT_CLOEXEC",)), Flags(attributes), store=_MADE, why=kind)
    wait(steps)
    return steps
