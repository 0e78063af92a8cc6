"""Processes: spawn without forking Python, pidfds, names, and the controls of prctl(2).

python-prctl serves for the controls that it has; pidfds are the standard library's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from kernel.fd import Fd

#: Signals to reset, all that can be, because being ignored survives execve: Python ignores two, whoever started the
#: daemon any other (a shell without job control, nohup).
_RESET = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def set_name(name: str) -> None:
    """Name this process for ps, 15 bytes at most."""
    import prctl

    prctl.set_name(name)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    import _prctl  # python-prctl's own calls: what it puts before them takes 1 ms to import

    _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)


def spawn(image: int, name: str, descriptors: Mapping[int, int]) -> int:
    """Start the executable behind *image* with *descriptors* (number there -> number here) and nothing else; return its pid.

    posix_spawn(3): no Python runs in between, a fork-unsafe parent is harmless, 0.12 ms.  Numbers
    here must lie above all numbers there, or one would overwrite another.
    """
    actions = [(os.POSIX_SPAWN_DUP2, here, there) for there, here in descriptors.items()]
    return os.posix_spawn(f"/proc/self/fd/{image}", [name], {}, file_actions=actions, setsigdef=_RESET, setsigmask=())


def spawn_above(image: Fd, name: str, descriptors: Mapping[int, Fd]) -> int:
    """``spawn`` with copies of those that lie among the numbers there."""
    above = max(descriptors) + 1
    lifted: list[Fd] = []

    def number_of(file: Fd) -> int:
        if file.fileno() < above:
            file = file.duplicate(above)
            lifted.append(file)
        return file.fileno()

    try:
        return spawn(number_of(image), name, {number: number_of(file) for number, file in descriptors.items()})
    finally:
        for file in lifted:
            file.close()


def start_session(command: Sequence[str], log: Path) -> int:
    """Start *command* in a session of its own, with nothing of ours but *log* to write errors to; return its pid.

    It outlives this process and its terminal.
    """
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.fspath(log), append, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    environment = {"LANG": "C.UTF-8"}
    return os.posix_spawn(
        command[0], list(command), environment, file_actions=actions, setsid=True, setsigdef=_RESET, setsigmask=()
    )


def has_ended(pid: int) -> bool:
    """Whether the child *pid* has ended; it is reaped then, and of no more use."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def open_pidfd(pid: int) -> Fd:
    """A pidfd of *pid*; raises ProcessLookupError when there is no such process."""
    return Fd(os.pidfd_open(pid))


def is_running(pidfd: Fd) -> bool:
    """Whether the process behind *pidfd* has not ended.

    What was opened by its number before, while the pidfd was held, was its own then: a number is used again only after
    the end of who had it.
    """
    poller = select.poll()
    poller.register(pidfd.fileno(), select.POLLIN)
    return not poller.poll(0)


def send_signal(pidfd: Fd, number: int) -> bool:
    """Send signal *number*; False when the process is gone already."""
    try:
        signal.pidfd_send_signal(pidfd.fileno(), number)
    except ProcessLookupError:
        return False
    return True


def reap(pid: int) -> None:
    """Wait for *pid* to end; one that is not our child is somebody else's to reap."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def end(pid: int) -> None:
    """Kill the child *pid*, and reap it; nobody else does, so that the number is still its own."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    reap(pid)


def executable_of(pid: int) -> str:
    """What /proc/PID/exe points at; empty when the process is gone or a kernel thread."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def reap_ended(pidfd: Fd) -> None:
    """Reap the process behind *pidfd* if it is a child of ours that has ended; never waits.

    By pidfd: the number of one that was somebody else's child may be that of a living child of ours by now.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED | os.WNOHANG)


def parent_of(pid: int) -> int:
    """The parent's pid, 0 when *pid* is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def all_pids() -> Sequence[int]:
    """The pids in /proc now."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
