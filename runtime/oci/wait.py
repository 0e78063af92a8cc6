"""Wait for a process in the foreground: signals go on to it, orphans are reaped, its terminal is served meanwhile."""

from __future__ import annotations

import gc
import os
import select
import signal
from typing import TYPE_CHECKING, Protocol

from kernel.fd import Fd, pipe
from kernel.process import send_signal

if TYPE_CHECKING:
    from types import FrameType

#: Not passed on: the first are about us or our children, the others end or stop us before we could.
_KEPT = {signal.SIGCHLD, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}
#: What a fault of our own would raise; passing that on would hide it.
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}


class Served(Protocol):
    """What wants to be served while a process is waited for."""

    def files(self) -> dict[int, int]:
        """The descriptors to watch, with the events of poll(2)."""

    def serve(self, number: int) -> None:
        """Something came at descriptor *number*."""

    def resize(self) -> None:
        """Our terminal has another size now."""

    def finish(self) -> None:
        """The process has ended: what is left to be done?"""


class Waiting:
    """Signals are collected from when this is entered, so that none is lost before ``wait``."""

    def __init__(self) -> None:
        self._reader, self._writer = pipe()
        for file in (self._reader, self._writer):
            os.set_blocking(file.fileno(), False)

    def __enter__(self) -> Waiting:
        gc.freeze()  # what there is by now stays
        gc.enable()
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in signal.valid_signals() - _FAULTS - {signal.SIGKILL, signal.SIGSTOP}:
            if number not in (32, 33):
                signal.signal(number, _note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def wait(self, pid: int, pidfd: Fd, served: Served) -> int:
        """The exit code of our child *pid*, 128 + the signal's number if one ended it."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        poller.register(pidfd, select.POLLIN)
        watched: dict[int, int] = {}
        while True:
            watched = _watch(poller, watched, served.files())
            for number, _ in poller.poll():
                if number == pidfd.fileno():
                    served.finish()
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    return code if code >= 0 else 128 - code
                if number == self._reader.fileno():
                    self._pass_on(pid, pidfd, served)
                else:
                    served.serve(number)

    def _pass_on(self, pid: int, pidfd: Fd, served: Served) -> None:
        for number in os.read(self._reader.fileno(), 4096):
            if number == signal.SIGCHLD:
                _reap_others(pid)
            elif number == signal.SIGWINCH:
                served.resize()
            elif number not in _KEPT:
                send_signal(pidfd, number)


def _note(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has the number already."""


def _watch(poller: select.poll, watched: dict[int, int], wanted: dict[int, int]) -> dict[int, int]:
    if watched != wanted:
        for number in watched.keys() - wanted.keys():
            poller.unregister(number)
        for number, events in wanted.items():
            poller.register(number, events)
    return dict(wanted)


def _reap_others(pid: int) -> None:
    """Reap what was left to us by processes of the container; *pid* itself stays until it is asked for."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid == pid:
            return
        os.waitpid(ended.si_pid, 0)
