"""What the parent half of the runner does after the clone: wait, and leave the exit status behind.

It holds the monitor's ends of the streams, so that a container neither blocks for good nor loses
output while no monitor lives; it ends only when a monitor that has read all of it says so (SIGKILL).
PSS of a waiting reaper: 16 to 24 KB.

The status is left twice: in the run dir, where it outlives the reaper, and before that behind the report, in memory that
is no file system's, for a run dir may be full when the time comes.
"""

from __future__ import annotations

import errno
import os
import struct

from kernel.fd import Fd
from kernel.program import Buffer, Flags, Program, Slot, Structure
from runtime.container.descriptors import EXIT_FILE, EXIT_SIZE, SIGINFO_SIZE, Descriptor

LAST = 0xFFFFFFFF
#: Why a run dir may not take the status.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
CLOCK_REALTIME = 0
POLLIN = 1
#: What siginfo_t says of a child that has ended (siginfo.h): by itself, by a signal, by one that leaves a core.
SIGCHLD, CLD_EXITED, CLD_DUMPED = 17, 1, 3


def stay_behind(program: Program, *, lets_go_of_input: bool = False) -> None:
    """Add the reaper's steps to *program*; with *lets_go_of_input* it can be told to close its end of stdin."""
    then = program.afterwards
    status = Buffer("status", EXIT_SIZE)
    then("setsid", why="no signal to the monitor's session or terminal may reach a reaper")
    then("prctl", Flags(("PR_SET_NAME",)), "kernelet:reaper", 0, 0, 0, why="say who this is, for ps")
    then(
        "dup3",
        Slot("pidfd"),
        Descriptor.INIT,
        Flags(("O_CLOEXEC",)),
        tolerate=(errno.EINVAL,),
        why="keep the new process's pidfd where a monitor looks for it (EINVAL: it is there already)",
    )
    then(
        "close_range", Descriptor.STDIN, Descriptor.STDERR, 0, why="hold no end of the container's own streams, or they never end"
    )
    then("close", Descriptor.READY, why="let the ready pipe end with the new process")
    then("close", Descriptor.PROGRAM, why="the program is mapped")
    then("close", Descriptor.CGROUP, tolerate=(errno.EBADF,), why="the cgroup was needed for the clone alone")
    then("close_range", Descriptor.INIT + 1, LAST, 0, why="namespaces and mounts were needed for the start alone")
    if lets_go_of_input:
        _let_go_of_input(program)
    then("waitid", Flags(("P_ALL",)), 0, status, Flags(("WEXITED",)), 0, why="wait for the one child there is")
    then("clock_gettime", CLOCK_REALTIME, Buffer("status", EXIT_SIZE, SIGINFO_SIZE), why="note when")
    then("write", Descriptor.REPORT, status, EXIT_SIZE, why="the kernel's own words, siginfo_t, and the time: behind the report")
    _leave(program, status)
    then("write", Descriptor.DONE, struct.pack("<Q", 1), 8, why="wake the monitor")
    then("ppoll", 0, 0, 0, 0, 0, why="hold the streams until a monitor has read them and ends this process")


def _leave(program: Program, status: Buffer) -> None:
    """Write *status* to a file of the run dir, which may have no room for it."""
    then = program.afterwards
    then(
        "openat",
        Descriptor.RUN_DIR,
        EXIT_FILE + ".new",
        Flags(("O_WRONLY", "O_CREAT", "O_TRUNC", "O_CLOEXEC")),
        0o600,
        store="file",
        tolerate=NO_ROOM,
        why="a file beside the one that will be read",
    )
    then("write", Slot("file"), status, EXIT_SIZE, tolerate=NO_ROOM, why="the same once more")
    then(
        "renameat2",
        Descriptor.RUN_DIR,
        EXIT_FILE + ".new",
        Descriptor.RUN_DIR,
        EXIT_FILE,
        0,
        tolerate=(errno.ENOENT, *NO_ROOM),
        why="whole or not at all (when there was no room, nobody takes it for a status)",
    )


def _let_go_of_input(program: Program) -> None:
    """Close our end of stdin when the start event says so once more, or the process has ended.

    A pipe ends when the last copy of its other end is closed, and one of them is ours.  Until the new process has
    executed its program, which is when the ready pipe ends, the event is that process's.
    """
    then = program.afterwards
    started = Structure((_polled(Descriptor.READY_READ, 0),), "{ready_read}")
    either = Structure((_polled(Descriptor.INIT, POLLIN), _polled(Descriptor.START, POLLIN)), "{init, start}")
    then("ppoll", started, 1, 0, 0, 0, why="leave the start event to the new process until it has started")
    then("ppoll", either, 2, 0, 0, 0, why="wait until stdin is to end for good, or the process has ended")
    then("close", Descriptor.INPUT, why="it is the last copy when the monitor has closed its own")


def _polled(number: int, events: int) -> int:
    """A struct pollfd as one word."""
    return number | events << 32


def read_exit(content: bytes) -> tuple[int, int]:
    """(exit code, time in ns since the epoch) from an exit file; a death by signal is 128 + its number.

    Raises ValueError for what is no status: a file for which there was no room, or that a power cut has emptied.
    """
    if len(content) != EXIT_SIZE:
        raise ValueError(f"an exit status has {EXIT_SIZE} bytes, not {len(content)}")
    number, code, status = (struct.unpack_from("<i", content, at)[0] for at in (0, 8, 24))
    if number != SIGCHLD or not CLD_EXITED <= code <= CLD_DUMPED:
        raise ValueError("not an exit status")
    seconds, nanoseconds = struct.unpack_from("<qq", content, SIGINFO_SIZE)
    return (status if code == CLD_EXITED else 128 + status), seconds * 1_000_000_000 + nanoseconds


def read_exit_behind(report: Fd) -> tuple[int, int]:
    """The same from behind a report.  Raises ValueError when none was written: a report ends in times then, no small numbers."""
    size = os.fstat(report.fileno()).st_size
    return read_exit(os.pread(report.fileno(), EXIT_SIZE, max(0, size - EXIT_SIZE)))
