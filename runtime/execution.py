"""A further process in a running container, waited for: ExecSync."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from kernel.fd import Fd, memory
from runtime import exec_process
from runtime.context import Context
from runtime.errors import Cancelled, ExecTimedOut, MonitorLost

#: What fits one answer: stdout and stderr together stay below the kubelet's 16 MiB for a message.
OUTPUT_LIMIT = 7 * 1024 * 1024
CANCEL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ExecResult:
    stdout: bytes
    stderr: bytes
    exit_code: int


def exec_sync(
    context: Context, container_id: str, arguments: list[str], timeout_seconds: float, cancelled: threading.Event | None = None
) -> ExecResult:
    """Run *arguments* in the container and return what came of it; 0 seconds is no limit.

    When *cancelled* is set nobody waits any more: the process is ended, as after a time-out, with what it started.
    Raises ExecTimedOut, Cancelled, ContainerNotRunning, StartFailed, MonitorLost.
    """
    container = context.inventory.find_container(container_id)
    container.require_running("exec")
    place = exec_process.make_place(context, container)
    try:
        with memory("stdout", b"", seal=False) as stdout, memory("stderr", b"", seal=False) as stderr:
            output = exec_process.Output(sinks=(stdout, stderr), limit=OUTPUT_LIMIT)
            exec_process.launch(context, container, place, exec_process.process_of(container, arguments), output)
            if not _wait(place.ended, timeout_seconds, cancelled):
                if cancelled is not None and cancelled.is_set():
                    raise Cancelled(f"exec {arguments[0]} in {container.config.name}: the caller went away; killed")
                raise ExecTimedOut(
                    f"exec {arguments[0]} in {container.config.name}: not done after {timeout_seconds:g} s; killed"
                )
            code = place.ended.result()
            if code is None:
                raise MonitorLost("exec: the monitor that had its output was killed; try again")
            return ExecResult(_content(stdout), _content(stderr), code)
    finally:
        exec_process.clean_up(context, place)


def _wait(ended: Future[int | None], timeout_seconds: float, cancelled: threading.Event | None) -> bool:
    """Whether it has ended; not when the time is over or the caller went away."""
    deadline = time.monotonic() + timeout_seconds if timeout_seconds else float("inf")
    while not ended.done():
        left = deadline - time.monotonic()
        if left <= 0 or (cancelled is not None and cancelled.is_set()):
            return False
        try:
            # An event cannot be waited for together with a future; for who went away half a second is soon enough.
            ended.result(min(left, CANCEL_SECONDS))
        except TimeoutError:
            continue
    return True


def _content(file: Fd) -> bytes:
    return os.pread(file.fileno(), OUTPUT_LIMIT, 0)
