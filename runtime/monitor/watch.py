"""One launched process as the monitor sees it.

```
    setting up ── "c" ──> created ── start, then end of the ready pipe ──> running ── done ──> ended
        └────────────── end of the ready pipe before its time: the set-up failed ──────────────┘
```

An exec'd process has no "c": its set-up ends in execve at once.  The pause of a pod has no execve: it
runs from its "c" on.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from kernel import process
from kernel.fd import Fd, open_path, take_from
from kernel.report import read_progress
from runtime.container.descriptors import EXIT_FILE, EXIT_SIZE, Descriptor
from runtime.container.reaper import read_exit, read_exit_behind
from runtime.monitor.disk import Disk, Here
from runtime.monitor.outputs import Output


class Kind(StrEnum):
    CONTAINER = "container"
    PAUSE = "pause"
    EXEC = "exec"


class State(StrEnum):
    SETTING_UP = "setting up"
    CREATED = "created"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(slots=True)
class Exit:
    """How a process ended; *code* None when nobody was there to see it.

    When its *log_is_behind*, the disk of its log hangs, and what it said last is written when that comes back.
    """

    code: int | None
    at_ns: int
    log_is_behind: bool = False


@dataclass(slots=True)
class Watch:
    """A process, its reaper, and the descriptors that the monitor holds for it."""

    id: str
    kind: Kind
    run_dir: Path
    reaper_pid: int
    reaper: Fd
    ready: Fd
    start: Fd
    done: Fd
    report: Fd
    state: State = State.SETTING_UP
    input: Fd | None = None
    #: Where its output goes, and who moves it; None while its log cannot be had.
    output: Output | None = None
    place: Disk | Here | None = None
    is_terminal: bool = False
    is_awaiting_log: bool = False
    #: Our ends of its streams, by Descriptor, and what they go to.
    ends: dict[int, Fd] = field(default_factory=dict)
    sinks: list[Fd] = field(default_factory=list)
    exit: Exit | None = None
    forgetting: bool = False

    def __post_init__(self) -> None:
        os.set_blocking(self.ready.fileno(), False)

    def pid(self) -> int:
        """The pid of the process itself, 0 before the clone."""
        return read_progress(self.report).pid

    def release(self) -> None:
        """Let a created container run."""
        os.eventfd_write(self.start.fileno(), 1)

    def send_signal(self, number: int) -> bool:
        """Signal the process through the pidfd that its reaper holds; False when it is gone."""
        try:
            with take_from(self.reaper, Descriptor.INIT) as pidfd:
                return process.send_signal(pidfd, number)
        except OSError:
            return False

    def read_exit(self) -> Exit:
        """The exit status that the reaper left."""
        with contextlib.suppress(ValueError):
            try:
                with open_path(f"{self.run_dir}/{EXIT_FILE}") as file:
                    return Exit(*read_exit(os.read(file.fileno(), EXIT_SIZE)))
            except (OSError, ValueError):  # there was no room for it
                return Exit(*read_exit_behind(self.report))
        return Exit(None, 0)

    def has_exit(self) -> bool:
        """Whether the reaper has left an exit status already."""
        return self.read_exit().code is not None

    def end_reaper(self) -> None:
        """Tell the reaper to end: it has nothing left to hold."""
        process.send_signal(self.reaper, 9)

    def bury_reaper(self) -> None:
        """Reap it, once its pidfd says that it has ended."""
        process.reap_ended(self.reaper)
        self.reaper.close()

    def close(self) -> None:
        """Close every descriptor but the reaper's, and those of its output."""
        for file in (self.ready, self.start, self.done, self.report, self.input):
            if file is not None:
                file.close()

    def close_ends(self) -> None:
        """Close those of its output, once nobody moves that any more."""
        for file in (*self.ends.values(), *self.sinks):
            file.close()
