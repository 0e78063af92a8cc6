"""A cgroup of the v2 tree: make, limit, look, kill, remove.  It is all files (cgroups(7), Linux 5.14 for cgroup.kill)."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterable
from pathlib import Path

from kernel.fd import Fd, open_path
from kernel.mountinfo import load_mountinfo

DEFAULT_MOUNT = Path("/sys/fs/cgroup")
#: More than any of these files has but cgroup.procs.
_READ_BYTES = 16 << 10


def find_tree() -> Path:
    """Where the v2 tree is mounted: /sys/fs/cgroup, or on a hybrid host wherever the last mount of it is.

    Raises FileNotFoundError when no cgroup2 file system is mounted.
    """
    targets = [Path(row.target) for row in load_mountinfo() if row.filesystem == "cgroup2"]
    if DEFAULT_MOUNT in targets:
        return DEFAULT_MOUNT
    if not targets:
        raise FileNotFoundError(errno.ENOENT, "no cgroup2 file system is mounted; mount one at", str(DEFAULT_MOUNT))
    return targets[-1]


class Cgroup:
    """One directory of the tree."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Cgroup:
        return Cgroup(self.path / name)

    def create(self) -> None:
        """Make it, with its parents; one that exists is taken as it is."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def exists(self) -> bool:
        return self.path.is_dir()

    def open(self) -> Fd:
        """A descriptor for clone3's CLONE_INTO_CGROUP, which has no visible cost (a write to cgroup.procs: 5 to 9 ms)."""
        return open_path(self.path, os.O_PATH | os.O_DIRECTORY)

    def controllers(self) -> frozenset[str]:
        """The controllers that this cgroup's files can use."""
        return frozenset(self.read("cgroup.controllers").split())

    def enable(self, names: Iterable[str]) -> None:
        """Hand controllers down to the children; raises OSError (EBUSY) when processes sit here themselves."""
        wanted = set(names) - set(self.read("cgroup.subtree_control").split())
        if wanted:
            self.write("cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted)))

    def read(self, file: str) -> str:
        """The whole of *file*, by descriptor: thousands of these are read to know what a node uses (pathlib: twice as long)."""
        path = f"{self.path}/{file}"
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(descriptor, _READ_BYTES):
                parts.append(part)
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(descriptor)
        return b"".join(parts).decode()

    def write(self, file: str, value: str) -> None:
        """Write *value* to *file* in one write(2), as the kernel wants it."""
        with open_path(self.path / file, os.O_WRONLY) as target:
            try:
                os.write(target.fileno(), value.encode())
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror}: writing {value!r}", str(self.path / file)) from error

    def fields(self, file: str) -> dict[str, int]:
        """A flat-keyed file ("oom_kill 0") as numbers; empty when the controller is not there."""
        try:
            lines = self.read(file).splitlines()
        except FileNotFoundError:
            return {}
        return {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}

    def number(self, file: str) -> int | None:
        """A file that holds one number; None where there is no such file, or it says "max"."""
        try:
            text = self.read(file).strip()
        except FileNotFoundError:
            return None
        return None if text == "max" else int(text)

    def kind(self) -> str:
        """cgroup.type: "domain", "threaded", "domain threaded" or "domain invalid"; empty where it has none: the root."""
        try:
            return self.read("cgroup.type").strip()
        except FileNotFoundError:
            return ""

    def processes(self) -> list[int]:
        """The pids in it, those of its children not included."""
        try:
            return [int(line) for line in self.read("cgroup.procs").split()]
        except (FileNotFoundError, OSError):
            return []

    def all_processes(self) -> list[int]:
        """The pids in it and below, each once; none when it is gone."""
        found: set[int] = set()
        for cgroup in (self, *self.descendants()):
            found.update(cgroup.processes())
        return sorted(found)

    def kill(self) -> None:
        """SIGKILL to everything in it and below, also to what is being forked right now; nothing if it is gone."""
        try:
            self.write("cgroup.kill", "1")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # ENODEV: removed between open and write
                raise

    def freeze(self, *, deadline_seconds: float = 10.0) -> None:
        """Stop everything in it and below, and wait until it is stopped (cgroup.freeze, Linux 5.2).

        Raises TimeoutError when a process does not come to where it can be stopped, as in an uninterruptible wait;
        everything goes on then.
        """
        self.write("cgroup.freeze", "1")
        try:
            self._await_frozen(frozen=1, deadline_seconds=deadline_seconds)
        except BaseException:
            self.write("cgroup.freeze", "0")
            raise

    def thaw(self, *, deadline_seconds: float = 10.0) -> None:
        """Let everything in it and below go on; what is frozen on its own account, or from above, stays so."""
        self.write("cgroup.freeze", "0")
        self._await_frozen(frozen=0, deadline_seconds=deadline_seconds)

    def is_frozen(self) -> bool:
        """Whether it was told to freeze, itself or from above, and has."""
        return self.fields("cgroup.events").get("frozen") == 1

    def _await_frozen(self, *, frozen: int, deadline_seconds: float) -> None:
        end = time.monotonic() + deadline_seconds
        with open_path(self.path / "cgroup.events") as events:
            poll = select.poll()
            poll.register(events.fileno(), select.POLLPRI)  # the kernel wakes readers when a field changes
            while f"frozen {frozen}".encode() not in os.pread(events.fileno(), 4096, 0).splitlines():
                left = end - time.monotonic()
                if left <= 0:
                    what = "freeze" if frozen else "thaw"
                    raise TimeoutError(errno.ETIMEDOUT, f"did not {what} within {deadline_seconds:g} s", str(self.path))
                poll.poll(left * 1000)

    def remove(self, *, deadline_seconds: float = 5.0) -> None:
        """Remove it and all below; waits for the last process to be gone, which the kernel does on its own time.

        Raises OSError (EBUSY) when something still lives there at the deadline.
        """
        deadline = time.monotonic() + deadline_seconds
        delay = 0.0005
        while True:
            try:
                self._remove_tree()
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
            time.sleep(delay)
            delay = min(delay * 2, 0.05)

    def _remove_tree(self) -> None:
        for directory, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(FileNotFoundError):  # somebody else removes one below at the same time: go on
                os.rmdir(directory)

    def descendants(self) -> list[Cgroup]:
        """Every cgroup below, deepest first."""
        return [Cgroup(Path(directory)) for directory, _, _ in os.walk(self.path, topdown=False) if directory != str(self.path)]
