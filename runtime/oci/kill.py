"""``kill``: a signal to the container's first process, or with --all to every one."""

from __future__ import annotations

import contextlib
import signal

from kernel.cgroup import Cgroup
from kernel.fd import Fd
from kernel.process import open_pidfd, send_signal
from runtime.errors import ContainerNotRunning, InvalidArgument
from runtime.oci.directory import STOPPED, Container
from runtime.oci.flags import SWITCH, is_number
from runtime.oci.request import Request

FLAGS = {"all a": SWITCH}
USAGE = "[--all] ID [SIGNAL]"
#: Processes that are held while a signal is sent: an ordinary limit of descriptors is a thousand.
AT_ONCE = 256


def run(request: Request) -> int:
    request.check_count(1, 2)
    number = parse_signal(request.arguments[1] if len(request.arguments) > 1 else "SIGTERM")
    with request.container(lock=False) as container:
        if request.flags.switch("all") or (number == signal.SIGKILL and container.record.shares_processes):
            _send_to_all(container, number)
        else:
            _send(container, number)
    return 0


def parse_signal(text: str) -> int:
    """The number of "9", "KILL", "SIGKILL" or "SIGRTMIN+3"; raises InvalidArgument."""
    if is_number(text):
        number = int(text)
        if number > signal.SIGRTMAX:
            raise InvalidArgument(f'unknown signal "{text}"')
        return number
    name, plus, offset = text.upper().partition("+")
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, signal.Signals) or (plus and not is_number(offset)):
        raise InvalidArgument(f'unknown signal "{text[:80]}"')
    number = int(found) + (int(offset) if plus else 0)
    if number > signal.SIGRTMAX:
        raise InvalidArgument(f'unknown signal "{text[:80]}"')
    return number


def _send(container: Container, number: int) -> None:
    if container.status() == STOPPED:
        raise ContainerNotRunning("container not running")
    try:
        with container.open_init() as pidfd:
            if not send_signal(pidfd, number):
                raise ProcessLookupError
    except ProcessLookupError:
        raise ContainerNotRunning("container not running") from None


def _send_to_all(container: Container, number: int) -> None:
    """To all of the cgroup: what is there may have outlived the first process, if that had no pid namespace of its own."""
    cgroup = container.cgroup
    if cgroup is None or not cgroup.exists():
        _send(container, number)
        return
    if number == signal.SIGKILL:
        cgroup.kill()
        return
    for group in (*cgroup.descendants(), cgroup):
        pids = group.processes()
        for first in range(0, len(pids), AT_ONCE):
            _send_to_members(group, pids[first : first + AT_ONCE], number)


def _send_to_members(group: Cgroup, pids: list[int], number: int) -> None:
    """To *pids*, as far as they are in *group* still: a number from a list may be another process's when it is opened."""
    with contextlib.ExitStack() as opened:
        pidfds: dict[int, Fd] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                pidfds[pid] = opened.enter_context(open_pidfd(pid))
        for pid in pidfds.keys() & set(group.processes()):
            send_signal(pidfds[pid], number)
