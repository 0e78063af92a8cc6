"""A runner started ahead of its program, so that a launch does not wait for a spawn.

```
    monitor                              spare
       │ ── spawn, while there is nothing to do ──> │  recvmsg
       │ ── program, report … (SCM_RIGHTS) ───────> │  chain: runs the program as if it had been started with it
```

The streams, the ready pipe and the events of its process are there already, at their numbers; the kernel puts
what is received at the lowest free ones, in order.  When the monitor dies before that, it ends.
*Measured*: 0.2 ms from the request to the first step, 0.45 with a spawn in between.  Not done: to tie it to the monitor's
processor up to the clone, which gained a sixth of a start on an idle machine, and lost more on a busy one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from itertools import pairwise

from kernel import process
from kernel.fd import Fd, memory
from kernel.program import PROGRAM_FD, REPORT_FD, Buffer, Program, Structure
from kernel.report import Report
from runtime.container.descriptors import FIRST_OPENED, Descriptor
from runtime.monitor.protocol import MAX_DESCRIPTORS

#: Where its end of the socket is: above all that it receives, and within the kernel's smallest table of descriptors.
SOCKET = 62
NAME = "kernelet:runner"
LAST = 0xFFFFFFFF
#: Numbers that no launch uses, and that must not be free meanwhile.
_UNUSED = (Descriptor.INIT, *range(Descriptor.EMPTY + 1, FIRST_OPENED))


def program(taken: Iterable[int]) -> Program:
    """Wait for a program and go on with it; of its descriptors, those *taken* are there already."""
    steps = Program("spare")
    size = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
    byte = Structure((Buffer("byte", 8), 1), "{1 byte}")
    message = Structure((0, 0, byte, 1, Buffer("control", size), size, 0), "{1 byte, descriptors}")
    for before, after in pairwise([-1, *sorted({*taken, SOCKET}), LAST + 1]):
        if after - before > 1:
            steps.call("close_range", before + 1, after - 1, 0, why="free for what will come; program and report are mapped")
    steps.call("recvmsg", SOCKET, message, 0, why="wait for a program and the descriptors that go with it")
    steps.call("close", SOCKET, why="there is one message")
    # At once, not when the parent half comes to it: whoever ends a container in between must find it.
    steps.call("close", Descriptor.INIT, why="the lowest free number now, so that the clone puts its pidfd there")
    steps.chain(why="go on with the program; there is none when the monitor has gone")
    return steps


class Spare:
    """A waiting runner that has *own* descriptors, by number; the rest of its numbers are *null*'s."""

    def __init__(self, runner: Fd, own: Mapping[int, Fd], null: Fd) -> None:
        self._null = null
        self._taken = {*own, *_UNUSED}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            steps = program(self._taken)
            report = Report(len(steps.all_steps))
            with memory("kernelet-spare", steps.pack()) as code, Fd(theirs.detach()) as end, report.memory:
                files = {**dict.fromkeys(_UNUSED, null), **own, PROGRAM_FD: code, REPORT_FD: report.memory, SOCKET: end}
                self.pid = process.spawn_above(runner, NAME, files)
            self.pidfd = process.open_pidfd(self.pid)
        except BaseException:
            self._socket.close()
            raise

    def hand_over(self, files: Mapping[int, Fd]) -> bool:
        """Let it run with *files*, by number; False when they are not for it, or it has ended.  Of no use after that."""
        last = max(files)
        if last >= SOCKET:
            return False
        ordered = [files.get(number, self._null).fileno() for number in range(last + 1) if number not in self._taken]
        try:
            socket.send_fds(self._socket, [b"p"], ordered)
            os.sched_yield()  # the kernel likes to put who is woken on the processor that we are on: it goes first (0.05 ms)
        except BrokenPipeError:
            return False
        finally:
            self._socket.close()
        return True

    def forsake(self) -> None:
        """Let it end, as it does when this process does."""
        self._socket.close()

    def end(self) -> None:
        """Do without it."""
        self._socket.close()
        process.send_signal(self.pidfd, 9)
        process.reap(self.pid)
        self.pidfd.close()
