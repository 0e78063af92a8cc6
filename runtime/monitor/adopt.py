"""Find the reapers that an earlier monitor left, and take their descriptors over.

The kernel is the record: a reaper is a process whose executable is the runner's memfd and whose
descriptor RUN_DIR lies below our run directory.  Nothing had to be written down before the crash.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from kernel import process
from kernel.capability import mask_of, sets_of
from kernel.fd import Fd, take_from
from runtime.container.descriptors import Descriptor
from runtime.monitor.launch import RUNNER_NAME
from runtime.monitor.watch import Kind, Watch

#: Below the run directory of a daemon, those of containers and pods, by their ids (``runtime.paths``).
CONTAINERS = "containers"


@dataclass(slots=True)
class Found:
    """A reaper without a monitor, by the run directory that it serves."""

    pid: int
    pidfd: Fd
    run_dir: Path


def find_reapers(run_dir: Path) -> dict[Path, Found]:
    """Every reaper whose process's run directory lies below *run_dir*, by that directory."""
    found: dict[Path, Found] = {}
    ids = set(os.listdir(run_dir / CONTAINERS)) if (run_dir / CONTAINERS).is_dir() else set()
    for pid in process.all_pids():
        if not _is_runner(pid) or _is_runner(process.parent_of(pid)):
            continue
        try:
            pidfd = process.open_pidfd(pid)
        except ProcessLookupError:
            continue
        served = _served_by(pid)
        if served is not None and _is_runner(pid) and served.is_relative_to(run_dir) and _is_ours(pid, ids):
            found[served] = Found(pid, pidfd, served)
        else:
            pidfd.close()
    return found


def take_over(found: Found, watch_id: str, kind: Kind) -> tuple[Watch, dict[int, Fd]]:
    """A watch over *found*, and the monitor's ends of its streams, by Descriptor."""

    def take(number: int) -> Fd:
        return take_from(found.pidfd, number)

    watch = Watch(
        watch_id,
        kind,
        found.run_dir,
        found.pid,
        found.pidfd,
        take(Descriptor.READY_READ),
        take(Descriptor.START),
        take(Descriptor.DONE),
        take(Descriptor.REPORT),
    )
    ends = {}
    for number in (Descriptor.OUTPUT, Descriptor.ERRORS, Descriptor.INPUT):
        try:
            file = take(number)
        except OSError as error:
            if number is Descriptor.INPUT and error.errno == errno.EBADF:
                continue  # it was closed for good
            raise
        if _is_null(file):
            file.close()
        else:
            ends[int(number)] = file
    return watch, ends


def _is_ours(pid: int, ids: set[str]) -> bool:
    """Whether *pid* is a process of ours and no impostor, a container's or of some other user.

    A container can execute a memfd of the runner's name, with a directory of its own that has the path of another
    container's; but not with CAP_SYS_ADMIN in our user namespace, or it needs no tricks.  Those of a pod with users of
    its own are in its user namespace, where anybody has all capabilities who is in one that he has made: they are of
    our user all the same, and in no cgroup that is named by one of the *ids* of containers, which these cannot leave.
    """
    try:
        if not sets_of(pid).effective & mask_of(["CAP_SYS_ADMIN"]):
            return False
        if os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:
            return True
        return _user_of(pid) == os.getuid() and ids.isdisjoint(_cgroup_of(pid).split("/"))
    except OSError:
        return False


def _user_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(errors="surrogateescape").splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])


def _cgroup_of(pid: int) -> str:
    """Its path in the v2 tree."""
    lines = Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines()
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")


def _is_runner(pid: int) -> bool:
    return process.executable_of(pid).startswith(f"/memfd:{RUNNER_NAME}")


def _served_by(pid: int) -> Path | None:
    try:
        return Path(os.readlink(f"/proc/{pid}/fd/{int(Descriptor.RUN_DIR)}"))
    except OSError:
        return None


def _is_null(file: Fd) -> bool:
    status = os.fstat(file.fileno())
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
