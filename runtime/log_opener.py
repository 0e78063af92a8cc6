"""A container's log, opened for whoever writes it, by a thread that may be left behind: the disk of logs may hang.

The one thing to know is that an open(2) cannot be given up.  Who asks for a log is told after ``HANG_SECONDS`` that
there is none yet; the thread goes on waiting, one for each path, and what it opens in the end is closed, or brought to
a container whose output waits for it.  What is opened is a handle (O_PATH), see ``runtime.monitor.disk``.
"""

from __future__ import annotations

import errno
import os
import queue
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kernel.fd import Fd, open_path
from runtime.container.state import Container
from runtime.errors import NotReady

#: What somebody can do about it.
LOOK = "look at the kernel's log, and at the server if it is NFS"
HANG_SECONDS = 5.0
#: For who can go on without it.
SHORT_SECONDS = 2.0
#: The same when it is known that some disk hangs.
SHORTEST_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Log:
    """A handle on the file, one on the directory that it is in, and the file system of both, by st_dev."""

    file: Fd
    directory: Fd
    device: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.directory.close()


class LogAwaited(OSError):
    """It is not open yet: its disk has not answered."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ETIMEDOUT, f"its disk does not answer; {LOOK}", path)


class _Opening(threading.Thread):
    """One that is under way."""

    def __init__(self, path: str) -> None:
        super().__init__(name="open log", daemon=True)
        self._path = path
        self._opened: queue.SimpleQueue[Log | OSError] = queue.SimpleQueue()
        self._late: Callable[[Log], None] | None = None

    def run(self) -> None:
        try:
            outcome: Log | OSError = _open(self._path)
        except OSError as error:
            outcome = error
        with _lock:
            if _hanging.get(self._path) is not self:
                self._opened.put(outcome)
                return
            del _hanging[self._path]
        if isinstance(outcome, Log):
            with outcome:
                if self._late is not None:
                    self._late(outcome)

    def wait(self, seconds: float, late: Callable[[Log], None] | None) -> Log:
        try:
            outcome = self._opened.get(timeout=seconds)
        except queue.Empty:
            with _lock:
                if self._opened.empty():
                    _hanging[self._path] = self
                    self.if_late(late)
                    raise LogAwaited(self._path) from None
            outcome = self._opened.get()
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    def if_late(self, late: Callable[[Log], None] | None) -> None:
        self._late = late


_lock = threading.Lock()
_hanging: dict[str, _Opening] = {}


def open_log(path: str, late: Callable[[Log], None] | None = None) -> Log:
    """The log file at *path*, with its directory made.

    A regular file and nothing else: pods that collect logs can write where logs are, and a FIFO there would stop the
    logs of all on its disk.  Raises OSError when it cannot be made, and LogAwaited when that takes too long; then *late* is
    called with it, in a thread, when it comes.  Who gives that can do without it, and waits for a shorter time.
    """
    with _lock:
        before = _hanging.get(path)
        if before is not None:
            before.if_late(late)
            raise LogAwaited(path)
        seconds = HANG_SECONDS if late is None else SHORTEST_SECONDS if _hanging else SHORT_SECONDS
    opening = _Opening(path)
    opening.start()
    return opening.wait(seconds, late)


def open_new_log(container: Container) -> Log:
    """The log of one that is being created.  Raises NotReady that says why there is none."""
    try:
        return open_log(container.config.log_path)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise NotReady(f"create container {container.config.name}: log {container.config.log_path}: {why}") from error


def _open(path: str) -> Log:
    place = Path(path).parent
    place.mkdir(parents=True, exist_ok=True)
    with open_path(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "a log must be a regular file", path)
        handle = open_path(f"/proc/self/fd/{file.fileno()}", os.O_PATH)
    return Log(handle, open_path(place, os.O_PATH | os.O_DIRECTORY), status.st_dev)
