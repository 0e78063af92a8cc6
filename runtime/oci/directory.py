"""Where containers are remembered: ROOT/ID with what create, start and delete leave each other; and what state they are in.

    state.json    who it is: written whole, by rename
    config.json   the bundle's, as it was at create: changes after that have no effect
    ready, start  FIFOs on which the init speaks and waits (``launch.py``)
    facts.json    what was found on the node, from which the program was composed
    report        the results of its steps, which the runner and the init write themselves
    root          an empty directory: where the init attaches its root, in its own mount namespace

The state is not written down but seen: a process is a number and the time at which it started, a created one still
waits at ``start``, a paused one is in a frozen cgroup.  Whoever changes something holds the directory's lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from pathlib import Path

import msgspec

from kernel.cgroup import Cgroup
from kernel.fd import Fd, open_path
from kernel.process import open_pidfd
from runtime.errors import ContainerNotFound, InvalidArgument, WrongState
from runtime.spec import schema

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"
STATE, CONFIG, READY, START, REPORT, ATTACH_POINT = "state.json", "config.json", "ready", "start", "report", "root"
FACTS = "facts.json"
#: What fits a file name together with ".new" and the like.
LONGEST_ID = 240
_ID = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]*", re.ASCII)


class Record(msgspec.Struct, omit_defaults=True):
    """state.json."""

    id: str
    bundle: str
    rootfs: str
    oci_version: str
    created: str
    pid: int = 0
    start_time: int = 0
    """Of the process, in the kernel's clock ticks: a number that is used again has another."""
    cgroup: str = ""
    """The cgroup's directory, as this mount namespace sees it; empty when the container has none of its own."""
    cgroup_inode: int = 0
    """Of that directory: one that was made since under the same name is somebody else's."""
    tree: str = ""
    annotations: dict[str, str] = {}
    owner: int = 0
    shares_processes: bool = False
    """Its pid namespace is not its own: the end of its first process ends no other."""
    late_hooks: list[str] = []
    """Which kinds of hooks there are after create; the hooks themselves are in config.json."""
    keyring: str | None = None
    """The name of its session keyring, which what is exec'd later joins; None when it has its caller's."""
    extra: dict[str, str] = {}
    """What one part keeps for another, by its name: a resctrl group, say."""


class Container:
    """One container's directory, open and, from ``open_container`` on, locked."""

    def __init__(self, path: Path, lock: Fd, record: Record, *, is_locked: bool) -> None:
        self.path, self.record, self._lock, self._is_locked = path, record, lock, is_locked

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.close()

    def unlock(self) -> None:
        """Let others change it, while this process only waits for its end."""
        fcntl.flock(self._lock.fileno(), fcntl.LOCK_UN)

    def lock_again(self) -> bool:
        """Lock it, as at first; whether it is still there."""
        fcntl.flock(self._lock.fileno(), fcntl.LOCK_EX)
        return os.fstat(self._lock.fileno()).st_nlink > 0

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def cgroup(self) -> Cgroup | None:
        """Its cgroup; None when it has none of its own, or none any more: its name may be another container's by now."""
        if not self.record.cgroup:
            return None
        try:
            inode = os.stat(self.record.cgroup).st_ino
        except OSError:
            inode = 0
        if inode and self.record.cgroup_inode and inode != self.record.cgroup_inode:
            return None
        return Cgroup(Path(self.record.cgroup))

    def spec(self) -> schema.Spec:
        """The config.json that it was created with."""
        from runtime.spec.load import load

        return load((self.path / CONFIG).read_bytes())

    def save(self) -> None:
        """Write the record down, whole or not at all."""
        write_whole(self.path / STATE, msgspec.json.encode(self.record))

    def is_alive(self) -> bool:
        """Whether its first process is there, and no zombie."""
        return self.record.start_time > 0 and start_time(self.record.pid) == self.record.start_time

    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        if not self.record.pid:
            return CREATING if self._is_being_created() else STOPPED
        if not self.is_alive():
            return STOPPED
        if self.is_paused():
            return PAUSED
        return CREATED if self._waits() else RUNNING

    def is_paused(self) -> bool:
        """Whether its cgroup is frozen, or being frozen."""
        try:
            return self.cgroup is not None and self.cgroup.read("cgroup.freeze").strip() == "1"
        except OSError:
            return False

    def open_init(self) -> Fd:
        """A pidfd of its first process, seen to be that; raises ProcessLookupError when it has ended."""
        if self.is_alive():
            pidfd = open_pidfd(self.record.pid)
            if self.is_alive():  # asked again: what was opened is what was looked at
                return pidfd
            pidfd.close()
        raise ProcessLookupError(errno.ESRCH, "no such process")

    def as_state(self) -> dict[str, object]:
        """What ``state`` prints, runc's properties in runc's order."""
        status = self.status()
        return {
            "ociVersion": self.record.oci_version,
            "id": self.id,
            "pid": 0 if status == STOPPED else self.record.pid,
            "status": status,
            "bundle": self.record.bundle,
            "rootfs": self.record.rootfs,
            "created": self.record.created,
            "annotations": self.record.annotations,
            "owner": "",
        }

    def hook_state(self) -> schema.State:
        """What hooks are told."""
        return schema.State(
            oci_version=self.record.oci_version,
            id=self.id,
            status="",
            pid=self.record.pid,
            bundle=self.record.bundle,
            annotations=self.record.annotations,
        )

    def remove(self) -> None:
        """Forget it: the directory goes, the name is free when this returns."""
        for name in os.listdir(self.path):
            if name != ATTACH_POINT:
                os.unlink(self.path / name)
        for name in (ATTACH_POINT, ""):
            try:
                os.rmdir(self.path / name)
            except FileNotFoundError:
                continue

    def _waits(self) -> bool:
        """Whether the init still has ``start`` open to read from: its execve closes it."""
        try:
            os.close(os.open(self.path / START, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT):
                return False
            raise
        return True

    def _is_being_created(self) -> bool:
        """Whether somebody else holds the lock: one that was killed over a create has left a stopped container behind."""
        if self._is_locked:
            return False
        try:
            with open_path(self.path, os.O_DIRECTORY) as other:
                fcntl.flock(other.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def check_id(container_id: str) -> str:
    """*container_id*, which becomes a file name; raises InvalidArgument for what cannot."""
    if not container_id:
        raise InvalidArgument("container id cannot be empty")
    if len(container_id) > LONGEST_ID:
        raise InvalidArgument(f"invalid container ID format: {container_id[:80]}...: longer than {LONGEST_ID} letters")
    if not _ID.fullmatch(container_id):
        raise InvalidArgument(
            f"invalid container ID format: invalid character in {container_id!r}: letters, digits and _ + - ., no . first"
        )
    return container_id


def make_container(root: Path, record: Record) -> Container:
    """A new container's directory, locked; raises WrongState when there is one of that name."""
    before = os.umask(0o022)  # what is above is nobody else's to write to, whatever the caller's umask
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    os.umask(before)
    path = root / check_id(record.id)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        raise WrongState(f"container with given ID already exists: {record.id}") from None
    lock = _locked(path)
    container = Container(path, lock, record, is_locked=True)
    try:
        container.save()
    except BaseException:  # the disk is full, say: the name must not be taken for good
        container.remove()
        container.close()
        raise
    return container


def open_container(root: Path, container_id: str, *, lock: bool = True) -> Container:
    """The container of that name; locked against everybody else who opens it so, unless *lock* is false.

    Raises ContainerNotFound.
    """
    path = root / check_id(container_id)
    try:
        held = _locked(path) if lock else open_path(path, os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            record = msgspec.json.decode((path / STATE).read_bytes(), type=Record)
        except BaseException:
            held.close()
            raise
    except (FileNotFoundError, NotADirectoryError):
        raise ContainerNotFound(f"container {container_id}: container does not exist") from None
    except msgspec.MsgspecError as error:
        raise WrongState(f"container {container_id}: {path / STATE} is not one of ours: {error}") from error
    return Container(path, held, record, is_locked=lock)


def remove_remains(root: Path, container_id: str) -> None:
    """Remove the directory of one that was killed before it had noted down anything: its name would be taken for good."""
    path = root / check_id(container_id)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), _locked(path):
        if not (path / STATE).exists():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path / f"{STATE}.new")
            os.rmdir(path)


def all_ids(root: Path) -> list[str]:
    """The names of the containers in *root*, sorted."""
    try:
        return sorted(name for name in os.listdir(root) if _ID.fullmatch(name) and (root / name / STATE).exists())
    except FileNotFoundError:
        return []


def start_time(pid: int) -> int:
    """When process *pid* started, in clock ticks since boot; 0 for none, and for one that has ended and was not reaped."""
    try:
        with open_path(f"/proc/{pid}/stat") as file:
            fields = os.read(file.fileno(), 4096).rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def write_whole(path: Path | str, content: bytes, mode: int = 0o600) -> None:
    """Write a file that is there whole or not at all."""
    fresh = f"{path}.new"
    with open_path(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode) as file:
        view = memoryview(content)
        while view:
            view = view[os.write(file.fileno(), view) :]
    os.rename(fresh, path)


def _locked(path: Path) -> Fd:
    """The directory, locked; waits for whoever has it, and raises FileNotFoundError when that one removed it."""
    held = open_path(path, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held.fileno(), fcntl.LOCK_EX)
        if os.fstat(held.fileno()).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "removed meanwhile", str(path))
    except BaseException:
        held.close()
        raise
    return held
