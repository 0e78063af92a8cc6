"""What the parent half of the runner does after the clone: wait, and leave the exit status behind.

It holds the monitor's ends of the streams, so that a container neither blocks for good nor loses
output while no monitor lives; it ends only when a monitor that has read all of it says so (SIGKILL).
PSS of a waiting reaper: 16 to 24 KB.
"""

from __future__ import annotations

import errno
import struct

from kernel.program import Buffer, Flags, Program, Slot, Structure
from runtime.container.descriptors import EXIT_FILE, EXIT_SIZE, SIGINFO_SIZE, Descriptor

LAST = 0xFFFFFFFF
CLOCK_REALTIME = 0
POLLIN = 1


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
    then(
        "openat",
        Descriptor.RUN_DIR,
        EXIT_FILE + ".new",
        Flags(("O_WRONLY", "O_CREAT", "O_TRUNC", "O_CLOEXEC")),
        0o600,
        store="file",
        why="a file beside the one that will be read",
    )
    then("write", Slot("file"), status, EXIT_SIZE, why="the kernel's own words: siginfo_t, then the time")
    then("renameat2", Descriptor.RUN_DIR, EXIT_FILE + ".new", Descriptor.RUN_DIR, EXIT_FILE, 0, why="whole or not at all")
    then("write", Descriptor.DONE, struct.pack("<Q", 1), 8, why="wake the monitor")
    then("ppoll", 0, 0, 0, 0, 0, why="hold the streams until a monitor has read them and ends this process")


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
    """(exit code, time in ns since the epoch) from an exit file; a death by signal is 128 + its number."""
    code, status = struct.unpack_from("<i", content, 8)[0], struct.unpack_from("<i", content, 24)[0]
    seconds, nanoseconds = struct.unpack_from("<qq", content, SIGINFO_SIZE)
    exited = 1  # CLD_EXITED
    return (status if code == exited else 128 + status), seconds * 1_000_000_000 + nanoseconds
