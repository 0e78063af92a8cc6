"""``start``: let a created container go on to its program."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Iterator

from kernel.fd import Fd, open_path
from kernel.report import read_progress
from runtime.errors import HookFailed, StartFailed, WrongState
from runtime.oci.around import run_poststart_hooks, run_start_hooks
from runtime.oci.delete import destroy
from runtime.oci.directory import CREATED, READY, REPORT, START, STOPPED, Container
from runtime.oci.launch import GO
from runtime.oci.request import Request

FLAGS: dict[str, str] = {}
USAGE = "ID"


def run(request: Request) -> int:
    request.check_count(1)
    with request.container() as container:
        status = container.status()
        if status == STOPPED:
            raise WrongState("cannot start a container that has stopped")
        if status != CREATED:
            raise WrongState(f"cannot start a container in the {status} state")
        start(container)
    return 0


def start(container: Container) -> None:
    """Release the init, wait until it has become the program, and run the hooks around that.

    Raises StartFailed when the program cannot be executed, HookFailed when a hook fails: the container is gone then.
    """
    hooks = container.record.late_hooks
    if "startContainer" in hooks:
        with _destroyed_by_failure(container):
            run_start_hooks(container)
    _release(container)
    if "poststart" in hooks:
        with _destroyed_by_failure(container):
            run_poststart_hooks(container)


@contextlib.contextmanager
def _destroyed_by_failure(container: Container) -> Iterator[None]:
    """When a hook fails: all that a delete does, the hooks for that included (runtime.md, lifecycle)."""
    try:
        yield
    except HookFailed as failure:
        raise HookFailed("; ".join((str(failure), *destroy(container)))) from failure


def _release(container: Container) -> None:
    with open_path(container.path / READY, os.O_RDONLY | os.O_NONBLOCK) as ready:
        try:
            with open_path(container.path / START, os.O_WRONLY | os.O_NONBLOCK) as waiting:
                os.write(waiting.fileno(), GO)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise WrongState(f"start container {container.id}: it ended before it was started") from None
            raise
        _wait_for_hang_up(ready)
    with open_path(container.path / REPORT) as report:
        progress = read_progress(report)
    if progress.failed is not None:
        from runtime.container.failure import command_hint
        from runtime.spec import schema

        process = container.spec().process or schema.Process(args=[""])
        with open_path(container.record.rootfs, os.O_PATH | os.O_DIRECTORY) as root:
            hint = command_hint(process, progress.errno, root)
        reason = os.strerror(progress.errno).lower() + (f" — {hint}" if hint else "")
        raise StartFailed(f"exec {process.args[0]}: {reason}")


def _wait_for_hang_up(ready: Fd) -> None:
    """Until nobody has the other end: execve closed it, or death did."""
    poller = select.poll()
    poller.register(ready, 0)
    poller.poll()
