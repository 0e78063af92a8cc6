"""What the operations of this package work with, put together once by ``node.Node``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from kernel.bpf import LoadedPrograms
from kernel.cgroup import Cgroup
from runtime.cgroups import Driver
from runtime.errors import InvalidArgument
from runtime.history import Scribe
from runtime.image.store import ImageStore
from runtime.inventory import Inventory
from runtime.journal import Journal
from runtime.monitor.client import Exited, MonitorClient
from runtime.network import Network
from runtime.paths import Paths


@dataclass(slots=True)
class Context:
    paths: Paths
    inventory: Inventory
    journal: Journal
    images: ImageStore
    network: Network
    monitor: MonitorClient
    ended: Callable[[Exited], None]
    """Have an end of a process recorded."""
    tree: Path
    """Where the cgroup v2 tree is mounted."""
    cgroups: Driver
    """Makes and removes pods' cgroups."""
    stop_deadlines: dict[str, float] = field(default_factory=dict)
    """When a container that is being stopped is killed; a second stop may bring it forward."""
    starting: dict[str, list[Exited]] = field(default_factory=dict)
    """Containers whose start is under way, with an end that came before its answer: a start that failed says so itself."""
    executing: dict[str, Future[int | None]] = field(default_factory=dict)
    """By id, the exec'd processes that somebody waits for: their exit codes, None when the monitor died."""
    attached: dict[str, set[Future[int | None]]] = field(default_factory=dict)
    """By id, the containers whose end somebody waits for who is attached: likewise."""
    stopping: set[str] = field(default_factory=set)
    """Sandboxes that are being stopped: nothing new is made in them."""
    device_programs: LoadedPrograms = field(default_factory=LoadedPrograms)
    scribe: Scribe = field(default_factory=Scribe)
    closing: threading.Event = field(default_factory=threading.Event)
    """Set when the node is let go of: what waits to try again ends."""
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _locks: dict[str, tuple[threading.Lock, int]] = field(default_factory=dict)

    def is_for_the_start(self, exited: Exited) -> bool:
        """Whether the start of a container is under way, which then judges this end of it."""
        with self._guard:
            waiting = self.starting.get(exited.id)
            if waiting is not None:
                waiting.append(exited)
            return waiting is not None

    def start_is_over(self, container_id: str) -> list[Exited]:
        """End what ``starting`` holds; returns the ends that came meanwhile."""
        with self._guard:
            return self.starting.pop(container_id, [])

    @contextlib.contextmanager
    def unrecorded(self, process_id: str, take_over: Callable[[], Exited | None]) -> Iterator[None]:
        """For a block that launches a process and then records it: what happens to it in between is not missed.

        Its end is recorded afterwards; if the monitor was replaced, which knew nothing of it, *take_over* is called.
        """
        losses = self.monitor.losses
        with self._guard:
            self.starting[process_id] = []
        try:
            yield
        except BaseException:
            self.start_is_over(process_id)
            raise
        ends = self.start_is_over(process_id)
        if self.monitor.losses != losses and (end := take_over()) is not None:
            ends.append(end)
        for exited in ends:
            self.ended(exited)

    @contextlib.contextmanager
    def exclusive(self, owner: str) -> Iterator[None]:
        """Only one act on *owner* at a time; others wait.  For those that cannot run twice side by side, and are short."""
        with self._guard:
            lock, users = self._locks.get(owner, (threading.Lock(), 0))
            self._locks[owner] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks[owner]
                self._locks[owner] = lock, users - 1
                if users == 1:
                    del self._locks[owner]

    def cgroup(self, path: str) -> Cgroup:
        """The cgroup at *path*, which begins with "/"."""
        if ".." in path.split("/"):
            raise InvalidArgument(f"cgroup {path}: must not contain '..'")
        return Cgroup(self.tree / path.lstrip("/"))
