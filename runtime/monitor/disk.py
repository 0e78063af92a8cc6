"""A thread for each file system that logs are on, so that one that hangs stops nobody but its own logs.

A write(2), an open(2) or a close(2) cannot be given up once it is begun: of an NFS server that is gone, or a device in
error recovery, it comes back in hours or never (D state).  So all that may wait for a disk of logs is done by its own
thread, with a loop of its own (``outputs``): the whole way from the pipe to the log, so that a batch is handed over to
nobody: to wake another thread for each write takes tens of µs, more than the write.  RWF_NOWAIT, which would say
beforehand that a write waits, is refused by ext4 for what goes through the page cache, and by NFS and FUSE.

```
    main thread                          thread of a disk
       │ ── ask(function) ──────────────> │  open, recover, drain, reopen, view ...
       │ <── then() ────────────────────  │  done
       └── late(), after HANG_SECONDS     ┊  and what had not begun is not done any more
```

The thread has a **table of descriptors of its own** (``kernel.fd.leave_table``), and a log is open for writing in that alone;
the main thread has only a handle on it (O_PATH).  For closing a file of NFS or FUSE waits for the server too (flush), and
whatever the main thread spawns begins with a copy of its table and closes that.  And when the monitor is killed, its
socket and its lock go although a thread that hangs cannot end: the next monitor is there at once.

That thread still may come back from its write: the next monitor's, of the same disk, waits for its end (a lock on a file
for each) before it looks at what was written.  A thread stays for good; there are as many as file systems of logs.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import time
import traceback
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path

from kernel import process
from kernel.fd import Fd, eventfd, leave_table, open_path, take_from
from runtime.monitor.log_file import Gap
from runtime.monitor.loop import Letter, Loop
from runtime.monitor.outputs import Outputs

#: What others wait for a disk: the end of a process is told then, without the rest of its output, a rotation refused.
HANG_SECONDS = 5.0


class Side(Enum):
    DISK = "disk"
    MAIN = "main"


#: Done by the thread of a disk; *is_wanted* decides in that moment that it is not too late, and says so.
Function = Callable[[Outputs, Callable[[], bool]], object]


class Errand:
    """Something that the main thread has asked for, and how it goes on."""

    __slots__ = ("_winner", "due", "function", "late", "then")

    def __init__(self, function: Function, then: Callable[[object], None], late: Callable[[], None] | None, due: float) -> None:
        self.function = function
        self.then = then
        self.late = late
        self.due = due
        self._winner: dict[None, Side] = {}

    def claim(self, side: Side) -> bool:
        """Whether *side* is the first to come: the disk, that it is done, or the main thread, that it is too late."""
        return self._winner.setdefault(None, side) is side  # one step of the interpreter: nobody comes in between


class Here:
    """The main thread itself, for what goes to no disk: the same door, and nobody to wait for."""

    is_told = False

    def __init__(self, loop: Loop, tell: Callable[[str, Gap], None]) -> None:
        self.outputs = Outputs(loop, lambda file: file.duplicate(), tell)

    def ask(
        self, function: Function, then: Callable[[object], None] = lambda _: None, late: Callable[[], None] | None = None
    ) -> None:
        del late
        then(_outcome(function, self.outputs, lambda: True))


def _outcome(function: Function, outputs: Outputs, is_wanted: Callable[[], bool]) -> object:
    """What *function* returns, or the OSError that it raises."""
    try:
        return function(outputs, is_wanted)
    except OSError as error:
        return error


class Disk:
    """The main thread's side: all but ``_run`` and what it calls is done there."""

    def __init__(
        self,
        run_dir: Path,
        device: int,
        main: Loop,
        tell: Callable[[str, Gap], None],
        on_return: Callable[[list[str], int], None],
    ) -> None:
        self.device = device
        #: Since when it is at one and the same thing; None while it waits for something to do.  By CLOCK_MONOTONIC.
        self.since: float | None = time.monotonic()
        #: Whose logs were on it when it was told that it hangs.
        self.told: list[str] | None = None
        self._run_dir = run_dir
        self._letters: deque[Letter] = deque()
        self._bell = eventfd()
        self._main = main
        self._tell, self._on_return = tell, on_return
        self._errands: set[Errand] = set()
        _thread.start_new_thread(self._run, ())

    def ask(
        self, function: Function, then: Callable[[object], None] = lambda _: None, late: Callable[[], None] | None = None
    ) -> None:
        """Have *function* done there, then *then* here with its outcome; without that in time, *late* if it is given."""
        now = time.monotonic()
        errand = Errand(function, then, late, now if self.is_told else now + HANG_SECONDS)
        if late is not None:
            self._errands.add(errand)
        self._letters.append(partial(self._do, errand))
        os.eventfd_write(self._bell.fileno(), 1)

    def patience(self) -> float | None:
        """Seconds until something has taken too long."""
        dues = [errand.due for errand in self._errands]
        since = self.since
        if since is not None and self.told is None:
            dues.append(since + HANG_SECONDS)
        return max(0.001, min(dues) - time.monotonic()) if dues else None

    @property
    def is_told(self) -> bool:
        return self.told is not None

    def is_hanging(self) -> bool:
        """Whether it has been at one and the same thing for too long."""
        since = self.since
        return since is not None and time.monotonic() - since >= HANG_SECONDS

    def give_up_late(self) -> None:
        """Go on without what takes too long."""
        now = time.monotonic()
        for errand in [each for each in self._errands if each.due <= now]:
            self._errands.discard(errand)
            if errand.late is not None and errand.claim(Side.MAIN):
                errand.late()

    def _finish(self, errand: Errand, outcome: object) -> None:
        self._errands.discard(errand)
        errand.then(outcome)

    # The thread's side.

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:  # as the main thread's, which the daemon notices
            traceback.print_exc()
            os._exit(1)

    def _serve(self) -> None:
        leave_table()
        process.set_name("kernelet-log")
        with process.open_pidfd(os.getpid()) as theirs:

            def bring(file: Fd) -> Fd:
                return take_from(theirs, file.fileno())

            self._ring = bring(self._main.bell)
            loop = Loop(bring(self._bell), self._letters)
            lock = open_path(self._run_dir / f"monitor.disk-{self.device}.lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
            self._outputs = Outputs(loop, bring, self._tell_there)
            while True:
                self._mark()
                self._outputs.do_what_is_due()
                loop.open_letters(self._mark)
                patience = self._outputs.patience()
                self._rest()
                loop.handle(loop.poll(patience), self._mark)

    def _mark(self) -> None:
        """Something else begins: it has come back from what was before."""
        since, self.since = self.since, time.monotonic()
        self._say_return(since)

    def _rest(self) -> None:
        since, self.since = self.since, None
        self._say_return(since)

    def _say_return(self, since: float | None) -> None:
        told, self.told = self.told, None
        if told is not None and since is not None:
            self._post(partial(self._on_return, told, round(time.monotonic() - since)))

    def _do(self, errand: Errand) -> None:
        outcome = _outcome(errand.function, self._outputs, partial(errand.claim, Side.DISK))
        if errand.claim(Side.DISK):
            self._post(partial(self._finish, errand, outcome))

    def _post(self, letter: Letter) -> None:
        self._main.letters.append(letter)
        os.eventfd_write(self._ring.fileno(), 1)

    def _tell_there(self, output_id: str, gap: Gap) -> None:
        self._post(partial(self._tell, output_id, gap))
