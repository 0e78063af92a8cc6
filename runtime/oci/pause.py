"""``pause`` and ``resume``: stop everything in the container, and let it go on (the cgroup's freezer)."""

from __future__ import annotations

from kernel.cgroup import Cgroup
from runtime.errors import ContainerNotRunning, TimedOut, Unsupported, WrongState
from runtime.oci.directory import CREATED, PAUSED, RUNNING, Container
from runtime.oci.request import Request

FLAGS: dict[str, str] = {}
USAGE = "ID"


def run(request: Request) -> int:
    request.check_count(1)
    with request.container() as container:
        try:
            (pause if request.command == "pause" else resume)(container)
        except TimeoutError as error:
            raise TimedOut(f"{request.command} container {container.id}: {error.filename}: {error.strerror}") from None
    return 0


def pause(container: Container) -> None:
    """Returns when all of it stands still.  Raises ContainerNotRunning, Unsupported, or TimeoutError: it goes on then."""
    status = container.status()
    if status not in (CREATED, RUNNING):
        raise ContainerNotRunning(f"pause container {container.id}: container not running: it is {status}")
    _cgroup_of(container).freeze()


def resume(container: Container) -> None:
    """Returns when all of it goes on.  Raises WrongState when it is not paused, TimeoutError when it is so from above."""
    status = container.status()
    if status != PAUSED:
        raise WrongState(f"resume container {container.id}: container not paused: it is {status}")
    _cgroup_of(container).thaw()


def _cgroup_of(container: Container) -> Cgroup:
    if container.cgroup is None:
        raise Unsupported(f"container {container.id}: cannot be paused, for it has no cgroup of its own")
    return container.cgroup
