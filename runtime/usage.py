"""What containers and sandboxes use: of the cgroup, the network, the disk and the processes what the node can tell.

A figure that nobody keeps, for want of a controller, say, is None and never zero.  *Measured*: a brief account 0.15 ms a
container, so that 200 take 30 ms in a thread; the rest is cheaper.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from kernel.cgroup import Cgroup
from kernel.mountinfo import load_mountinfo
from runtime.container import resources as limits
from runtime.container import statistics
from runtime.container.state import Container, ContainerState
from runtime.container.statistics import Statistics
from runtime.context import Context
from runtime.network.traffic import LinkUse, read_links
from runtime.sandbox.state import Sandbox, SandboxState
from runtime.writable import LayerUse, WritableLayers

#: A rate is of this much time at least, and at most: one of an hour says nothing about now.
RATE_SECONDS, STALE_SECONDS = 1.0, 120.0
#: A container may open a million files (3 us for each that is looked at), and be asked about every ten seconds.
LOOKED_AT_LIMIT = 20_000
#: How long an answer may wait for the size of layers that were never measured.
FIRST_WALK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Use:
    """Of one cgroup.  *statistics* is None when it is gone; *nano_cores* is the use of cpu per second, None at first."""

    at_ns: int
    statistics: Statistics | None
    nano_cores: int | None


@dataclass(frozen=True, slots=True)
class ContainerUse:
    container: Container
    use: Use
    writable: LayerUse | None


@dataclass(frozen=True, slots=True)
class SandboxUse:
    """*use* is of the pod's cgroup and all that is in it; *links* is None on the node's network, and when it is stopped."""

    sandbox: Sandbox
    use: Use
    process_count: int | None
    links: tuple[LinkUse, ...] | None
    containers: tuple[ContainerUse, ...]


@dataclass(frozen=True, slots=True)
class Processes:
    """What can be counted in a container by looking at each of its processes; *threads_max* None is no limit."""

    count: int
    threads: int
    descriptors: int
    sockets: int | None
    """None where there are too many descriptors to look at each."""
    open_files_limit: int | None
    """The soft limit of the container's first process."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that the writable layers are on."""

    device: str
    bytes: int
    inodes: int
    inodes_free: int


@dataclass(slots=True)
class _Sample:
    at_ns: int
    total_ns: int
    rate: int | None = None


class Meter:
    """One daemon's account.  Safe to call from any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._guard = threading.Lock()
        self._samples: dict[str, _Sample] = {}
        self.layers = WritableLayers(context.paths)

    def containers(self, containers: Sequence[Container], *, brief: bool = True) -> list[ContainerUse]:
        """The use of *containers*, in their order; of one that has ended only what its files take."""
        self._forget_the_gone()
        sizes = self.layers.use([container.id for container in containers], FIRST_WALK_SECONDS)
        return [ContainerUse(each, self._container(each, brief=brief), sizes.get(each.id)) for each in containers]

    def sandboxes(self, sandboxes: Sequence[Sandbox], *, brief: bool = True) -> list[SandboxUse]:
        """The use of *sandboxes* with that of their running containers, in their order."""
        wanted = {sandbox.id for sandbox in sandboxes}
        running: dict[str, list[ContainerUse]] = {sandbox_id: [] for sandbox_id in wanted}
        containers = [each for each in tuple(self._context.inventory.containers.values()) if each.sandbox_id in wanted]
        for use in self.containers([each for each in containers if each.state is ContainerState.RUNNING], brief=brief):
            running[use.container.sandbox_id].append(use)
        return [self._sandbox(sandbox, tuple(running[sandbox.id]), brief=brief) for sandbox in sandboxes]

    def processes(self, container: Container) -> Processes | None:
        """What the container's processes hold; None when none is left."""
        if container.state is not ContainerState.RUNNING:
            return None
        found = [each for pid in self._context.cgroup(container.cgroup).all_processes() if (each := _look_at(pid))]
        if not found:
            return None
        links = [link for each in found for link in each.links]
        sockets = sum(_is_socket(link) for link in links) if len(links) <= LOOKED_AT_LIMIT else None
        threads = sum(each.threads for each in found)
        return Processes(len(found), threads, len(links), sockets, _open_files_limit(container.pid))

    def disk(self) -> Disk:
        """The file system of the writable layers, now."""
        found = os.statvfs(self._context.paths.containers)
        return Disk(self._device, found.f_blocks * found.f_frsize, found.f_files, found.f_ffree)

    @cached_property
    def _device(self) -> str:
        """As mount(8) shows it, or its numbers where it is mounted nowhere that we see."""
        number = os.stat(self._context.paths.containers).st_dev
        name = f"{os.major(number)}:{os.minor(number)}"
        return next((row.source for row in load_mountinfo() if row.device == name), name)

    def accounts(self) -> frozenset[str]:
        """The files in which this node's cgroups keep account of containers, "hugetlb" for all of that."""
        home = self._context.cgroup(os.path.dirname(self._context.cgroups.pod_path("", "0" * 64)))
        limits.apply(home, self._context.tree, None)  # as for the first container: what can count does
        names = {name for name in os.listdir(home.path) if not name.endswith(".pressure") or _is_kept(home, name)}
        return frozenset(names | ({"hugetlb"} if "hugetlb" in home.controllers() else set()))

    def layers_total(self) -> tuple[int, int]:
        """Bytes and inodes of all writable layers, as far as they have been measured."""
        self._forget_the_gone()
        sizes = self.layers.use(list(self._context.inventory.containers), FIRST_WALK_SECONDS).values()
        return sum(size.bytes for size in sizes), sum(size.inodes for size in sizes)

    def close(self) -> None:
        self.layers.close()

    def _container(self, container: Container, *, brief: bool) -> Use:
        if container.state is not ContainerState.RUNNING:
            return Use(time.time_ns(), None, None)
        return self._of(container.id, self._context.cgroup(container.cgroup), brief=brief)

    def _sandbox(self, sandbox: Sandbox, containers: tuple[ContainerUse, ...], *, brief: bool) -> SandboxUse:
        if sandbox.state is not SandboxState.READY:
            return SandboxUse(sandbox, Use(time.time_ns(), None, None), None, None, containers)
        cgroup = self._context.cgroup(sandbox.cgroup_parent)
        use = self._of(sandbox.id, cgroup, brief=brief)
        count = None if use.statistics is None else len(cgroup.all_processes())
        return SandboxUse(sandbox, use, count, self._links(sandbox, containers), containers)

    def _links(self, sandbox: Sandbox, containers: tuple[ContainerUse, ...]) -> tuple[LinkUse, ...] | None:
        if sandbox.config.namespaces.network != "pod":
            return None
        pids = (sandbox.pause_pid, *(use.container.pid for use in containers))
        try:
            return read_links(self._context.paths.run_sandbox(sandbox.id) / "net", (pid for pid in pids if pid))
        except FileNotFoundError:
            return None

    def _of(self, owner: str, cgroup: Cgroup, *, brief: bool) -> Use:
        at_ns = time.time_ns()
        try:
            found = statistics.read(cgroup, brief=brief)
        except OSError:  # it went away between two files (ENODEV) or before the first
            return Use(at_ns, None, None)
        rate = None if found.cpu is None else self._rate(owner, at_ns, found.cpu.total_ns)
        return Use(at_ns, found, rate)

    def _rate(self, owner: str, at_ns: int, total_ns: int) -> int | None:
        """The use of cpu per second since the last sample that is old enough; None until there is one."""
        with self._guard:
            last = self._samples.get(owner)
            passed_ns = 0 if last is None else at_ns - last.at_ns
            if last is None or not last.total_ns <= total_ns or not 0 <= passed_ns <= STALE_SECONDS * 1e9:
                self._samples[owner] = _Sample(at_ns, total_ns)
                return None
            if passed_ns < RATE_SECONDS * 1e9:
                return last.rate
            rate = (total_ns - last.total_ns) * 1_000_000_000 // passed_ns
            self._samples[owner] = _Sample(at_ns, total_ns, rate)
            return rate

    def _forget_the_gone(self) -> None:
        inventory = self._context.inventory
        self.layers.keep_only(inventory.containers)
        with self._guard:
            for owner in [each for each in self._samples if each not in inventory.containers and each not in inventory.sandboxes]:
                del self._samples[owner]


def _is_kept(cgroup: Cgroup, file: str) -> bool:
    """Whether the file can be read: of pressure there is no account where the kernel was started with psi=0."""
    try:
        cgroup.read(file)
    except OSError:
        return False
    return True


class _Process(NamedTuple):
    threads: int
    links: list[str]
    """To what it has open."""


def _look_at(pid: int) -> _Process | None:
    """None when it has ended."""
    try:
        threads = len(os.listdir(f"/proc/{pid}/task"))
        return _Process(threads, [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _is_socket(link: str) -> bool:
    try:
        return os.readlink(link).startswith("socket:")
    except OSError:  # closed meanwhile
        return False


def _open_files_limit(pid: int) -> int | None:
    """The soft limit of open files of process *pid*; None when there is none, or it has ended."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    soft = next((line.removeprefix("Max open files").split()[0] for line in lines if line.startswith("Max open files")), "")
    return int(soft) if soft.isdigit() else None
