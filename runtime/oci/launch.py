"""Run a program until the new process waits, and leave it to whoever adopts it: no process of ours stays.

```
    us ── posix_spawn ──> runner ── clone3(CLONE_PARENT) ──> init, a child of ours until we end
       <───── ready (FIFO): "h" hooks' turn, "c" created, end of file: execve, or dead ─────┘
       ────── start (FIFO): 8 bytes: go on ─────────────────────────────────────────────────>
```

FIFOs rather than pipes, because it is another command that starts the container; a report that is a file, because
that command wants to know how it went.  The init has ``start`` open both ways, so that it waits also when nobody
has it open; who writes opens it without waiting, and is refused (ENXIO) when the init is gone or has gone on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kernel import process
from kernel.fd import Fd, eventfd, memory, open_path, pipe
from kernel.program import Program, runner_image
from kernel.report import Progress, Report, read_progress, report_size
from runtime.container.descriptors import FIRST_PRESERVED, Descriptor
from runtime.container.ground_binds import open_null_device
from runtime.oci.directory import READY, REPORT, START

#: All that a launch needs of ours lies above what the program's descriptors are numbered.
ABOVE = 1 << 7
GO = (1).to_bytes(8, "little")


class Launch:
    """A process on its way: hear what it says, let it go on."""

    def __init__(self, report: Fd, ready: Fd, start: Fd) -> None:
        self._report, self._ready, self._start = report, ready, start
        self.pid = 0

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of our ends; the process goes on waiting."""
        for file in (self._report, self._ready, self._start):
            file.close()

    def end(self) -> None:
        """Kill the process, and reap it."""
        pid = self.progress().pid
        if pid:
            with contextlib.suppress(ProcessLookupError), process.open_pidfd(pid) as pidfd:
                process.send_signal(pidfd, signal.SIGKILL)
            process.reap(pid)

    def hear(self) -> str:
        """What it says next: "h" or "c"; empty when it has died, or become the program."""
        said = os.read(self._ready.fileno(), 1).decode()
        self.pid = self.progress().pid
        return said

    def progress(self) -> Progress:
        """How far it has come."""
        return read_progress(self._report)

    @property
    def report(self) -> Fd:
        """What its steps came to."""
        return self._report

    def go_on(self) -> None:
        """Let it go on from where it waits."""
        os.write(self._start.fileno(), GO)


class Ends(NamedTuple):
    """What a launch speaks over: the report; ready, to read and to write; start."""

    report: Fd
    ready: Fd
    speaking: Fd
    start: Fd


def ends_in(directory: Path, program: Program) -> Ends:
    """Ends that other commands find in *directory*, which must not have any yet."""
    for name in (READY, START):
        os.mkfifo(directory / name, 0o600)
    report = open_path(directory / REPORT, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.truncate(report.fileno(), report_size(len(program.all_steps)))
    ready = open_path(directory / READY, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(ready.fileno(), True)
    return Ends(report, ready, open_path(directory / READY, os.O_WRONLY), open_path(directory / START, os.O_RDWR))


def private_ends(program: Program) -> Ends:
    """Ends for a process that nobody but us speaks with."""
    return Ends(Report(len(program.all_steps)).memory, *pipe(), eventfd())


def launch(program: Program, descriptors: Mapping[int, Fd], ends: Ends, preserved: Sequence[Fd] = ()) -> Launch:
    """Spawn *program* with *descriptors*, and our own streams where these name none.  Returns when the runner is done.

    The files *preserved* are for the container, from descriptor 3 on.
    """
    with (
        ends.speaking,
        memory("kernelet-runner", runner_image()) as runner,
        memory("kernelet-program", program.pack()) as code,
        contextlib.ExitStack() as opened,
    ):
        theirs: dict[int, Fd] = {
            **null_streams(opened, descriptors),
            **descriptors,
            Descriptor.PROGRAM: code,
            Descriptor.REPORT: ends.report,
            Descriptor.READY: ends.speaking,
            Descriptor.START: ends.start,
            **{FIRST_PRESERVED + index: file for index, file in enumerate(preserved)},
        }
        process.reap(_spawn(runner, theirs))
    return Launch(ends.report, ends.ready, ends.start)


def null_streams(opened: contextlib.ExitStack, given: Container[int] = ()) -> dict[int, Fd]:
    """For those of our streams that are the null device, and not among *given*: it, on a read-only mount of its own.

    The program gives its streams to the container's user, and a container may change the owner and mode of what it has
    open: not those of the host's /dev/null, which is most callers' stdin.  *opened* closes what is returned.
    """
    found: dict[int, Fd] = {}
    for number in (Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR):
        status = os.fstat(number)
        if number in given or not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
            continue
        with contextlib.suppress(PermissionError):  # who may not mount may not change the owner of a device either
            found[number] = opened.enter_context(open_null())
    return found


def open_null() -> Fd:
    """The null device on a read-only mount of its own: nobody changes the owner or mode of the host's by it."""
    with open_null_device() as mount:
        return open_path(f"/proc/self/fd/{mount.fileno()}", os.O_RDWR)


def _spawn(runner: Fd, theirs: Mapping[int, Fd]) -> int:
    """Spawn the runner; no number of ours may be one that is given to it, or one would overwrite another."""
    above = max(ABOVE, max(number for number in theirs if number < FIRST_PRESERVED) + 1)
    lifted = {number: file.duplicate(above) for number, file in theirs.items()}
    try:
        with runner.duplicate(above) as image:
            return process.spawn(image.fileno(), "kernelet:init", {number: file.fileno() for number, file in lifted.items()})
    finally:
        for file in lifted.values():
            file.close()
