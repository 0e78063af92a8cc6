"""``delete``: what the container had is given back, and its name is free."""

from __future__ import annotations

import select
import signal
import time

from kernel.fd import Fd
from kernel.process import reap_ended, send_signal
from runtime.errors import ContainerNotFound, TimedOut, WrongState
from runtime.oci.around import leave_class, run_poststop_hooks
from runtime.oci.directory import CREATED, STOPPED, Container, remove_remains
from runtime.oci.flags import SWITCH
from runtime.oci.request import Request

FLAGS = {"force f": SWITCH}
USAGE = "[--force] ID"
#: How long a killed process may take to go.
PATIENCE_SECONDS = 10.0


def run(request: Request) -> int:
    request.check_count(1)
    force = request.flags.switch("force")
    try:
        with request.container() as container:
            status = container.status()
            if status not in (STOPPED, CREATED) and not force:
                raise WrongState(f"cannot delete container {container.id} that is not stopped: {status}")
            for warning in destroy(container):
                request.log.warning(warning)
    except ContainerNotFound:
        if not force:
            raise
        remove_remains(request.root, request.arguments[0])
    return 0


def destroy(container: Container) -> list[str]:
    """End what lives in *container*, give back its cgroup, run its poststop hooks, and forget it.

    Returns what hooks that failed said.  Raises TimedOut, or OSError.
    """
    kill_all(container)
    if container.record.extra:
        from runtime.oci import scopes

        scopes.stop(container)
    if container.cgroup is not None:
        container.cgroup.remove(deadline_seconds=PATIENCE_SECONDS)
    leave_class(container)
    warnings = run_poststop_hooks(container) if "poststop" in container.record.late_hooks else []
    container.remove()
    return warnings


def kill_all(container: Container) -> None:
    """End the first process and all of its cgroup; returns when the first process is gone."""
    if container.cgroup is not None:
        container.cgroup.kill()
    try:
        pidfd = container.open_init()
    except ProcessLookupError:
        return
    with pidfd:
        send_signal(pidfd, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while container.is_alive():
            reap_ended(pidfd)
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"container {container.id}: process {container.record.pid} survived SIGKILL for {PATIENCE_SECONDS:g} s"
                )
            wait_for_end(pidfd, 0.1)


def wait_for_end(pidfd: Fd, seconds: float) -> bool:
    """Whether the process behind *pidfd* ended within *seconds*."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
