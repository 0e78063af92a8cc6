"""User namespaces (user_namespaces(7)): make one with its id maps before anybody lives in it.

The maps of a user namespace are written from outside, through /proc/PID of a process inside.  That
process is a program of three steps (``kernel.program``), so Python never forks, and a process with
threads, which may not unshare a user namespace itself, can make one all the same (0.3 ms).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from kernel import process
from kernel.errors import failure
from kernel.fd import Fd, open_path, pipe
from kernel.namespace import open_namespace
from kernel.program import Buffer, Flags, Program
from kernel.spawn import spawn

MapKind = Literal["uid", "gid"]

#: Descriptors of the process inside: on one it says that it is there, on the other it waits until it is not needed.
_SAYS, _WAITS, _NAMESPACE = 5, 6, 7
#: The first number that the kernel gives to a user namespace (PROC_USER_INIT_INO, linux/proc_ns.h).
_INITIAL = 0xEFFFFFFD


class IdRange(NamedTuple):
    """*size* ids from *inside* on are those from *outside* on, in the namespace of whoever writes the map."""

    inside: int
    outside: int
    size: int


def is_initial() -> bool:
    """Whether this process is in the node's own user namespace, whose root may do everything."""
    return os.stat("/proc/self/ns/user").st_ino == _INITIAL


def new_user_namespace(write_maps: Callable[[int], None]) -> Fd:
    """A user namespace below the caller's, owned by its effective user.

    *write_maps* is called with the pid of a process inside, to write what it wants mapped; what it raises is
    raised.  Raises OSError (ENOSPC) above /proc/sys/user/max_user_namespaces or 32 levels, EPERM where making
    one is forbidden.
    """
    with _held(None) as pid:
        write_maps(pid)
        return open_namespace(pid, "user")


def read_maps(namespace: Fd) -> tuple[list[IdRange], list[IdRange]]:
    """The maps of users and of groups of *namespace*, as seen from the caller's.

    Raises OSError (EPERM) for one whose root the caller is not.
    """
    with _held(namespace) as pid:
        uids, gids = (Path(f"/proc/{pid}/{kind}_map").read_text().splitlines() for kind in ("uid", "gid"))
        return [IdRange(*map(int, line.split())) for line in uids], [IdRange(*map(int, line.split())) for line in gids]


@contextmanager
def _held(namespace: Fd | None) -> Iterator[int]:
    """The pid of a process in *namespace*, or in a new one, which stays until the block is left."""
    ready, says = pipe()
    waits, hold = pipe()
    with ready, hold:
        with says, waits:
            files = {_SAYS: says, _WAITS: waits, **({} if namespace is None else {_NAMESPACE: namespace})}
            pid, report = spawn(_inside(joins=namespace is not None), "kernelet-userns", files)
        try:
            if not os.read(ready.fileno(), 1):
                raise failure(report.read().errno, "unshare" if namespace is None else "setns", "user namespace")
            yield pid
        finally:
            hold.close()  # it ends by itself, as it would if this process died
            process.reap(pid)
            report.memory.close()


def _inside(*, joins: bool) -> Program:
    steps = Program("holder of a user namespace")
    if joins:
        steps.call("setns", _NAMESPACE, Flags(("CLONE_NEWUSER",)), why="the user namespace to be looked at")
    else:
        steps.call("unshare", Flags(("CLONE_NEWUSER",)), why="a user namespace with nothing mapped yet")
    steps.call("write", _SAYS, "u", 1, why="its maps can be seen to now")
    steps.call("close", _SAYS, why="nothing more will be said")
    steps.call("read", _WAITS, Buffer("end", 8), 8, why="stay until somebody else holds the namespace")
    return steps


def write_map(pid: int, kind: MapKind, ranges: Iterable[IdRange]) -> None:
    """Write the *kind* map of the user namespace that *pid* is in; each takes exactly one write.

    Raises OSError: EPERM without CAP_SETUID (CAP_SETGID) in the parent namespace, unless all that is mapped is
    the caller's own id, and for groups setgroups(2) was denied; EINVAL for ranges that overlap or too many.
    """
    text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in ranges)
    _write(pid, f"{kind}_map", text)


def deny_setgroups(pid: int) -> None:
    """Forbid setgroups(2) in the user namespace that *pid* is in, for good; only before its groups are mapped."""
    _write(pid, "setgroups", "deny")


def _write(pid: int, name: str, text: str) -> None:
    path = f"/proc/{pid}/{name}"
    with open_path(path, os.O_WRONLY) as file:
        try:
            os.write(file.fileno(), text.encode())
        except OSError as error:
            raise failure(error.errno or 0, "write", path) from error
