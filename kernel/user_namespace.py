"""User namespaces (user_namespaces(7)): make one with its id maps before anybody lives in it.

The maps of a user namespace are written from outside, through /proc/PID of a process inside.  That
process is a program of three steps (``kernel.program``), so Python never forks, and a process with
threads, which may not unshare a user namespace itself, can make one all the same (0.5 ms).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from kernel import process
from kernel.errors import failure
from kernel.fd import Fd, open_path, pipe
from kernel.namespace import open_namespace
from kernel.program import Buffer, Flags, Program
from kernel.spawn import spawn

MapKind = Literal["uid", "gid"]

#: Descriptors of the process inside: on one it says that it is there, on the other it waits until it is not needed.
_SAYS, _WAITS = 5, 6


class IdRange(NamedTuple):
    """*size* ids from *inside* on are those from *outside* on, in the namespace of whoever writes the map."""

    inside: int
    outside: int
    size: int


def new_user_namespace(write_maps: Callable[[int], None]) -> Fd:
    """A user namespace below the caller's, owned by its effective user.

    *write_maps* is called with the pid of a process inside, to write what it wants mapped; what it raises is
    raised.  Raises OSError (ENOSPC) above /proc/sys/user/max_user_namespaces or 32 levels, EPERM where making
    one is forbidden.
    """
    ready, says = pipe()
    waits, hold = pipe()
    with ready, hold:
        with says, waits:
            pid, report = spawn(_inside(), "kernelet-userns", {_SAYS: says, _WAITS: waits})
        try:
            if not os.read(ready.fileno(), 1):
                raise failure(report.read().errno, "unshare", "user namespace")
            write_maps(pid)
            return open_namespace(pid, "user")
        finally:
            hold.close()  # it ends by itself, as it would if this process died
            process.reap(pid)
            report.memory.close()


def _inside() -> Program:
    steps = Program("holder of a user namespace")
    steps.call("unshare", Flags(("CLONE_NEWUSER",)), why="a user namespace with nothing mapped yet")
    steps.call("write", _SAYS, "u", 1, why="its maps can be written now")
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
