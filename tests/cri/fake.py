"""A node in memory: it keeps what it is told to, and does nothing to the machine."""

from __future__ import annotations

import dataclasses
import itertools
import socket
import threading
from collections.abc import Callable, Sequence

import msgspec

from runtime.container.config import ContainerConfig
from runtime.container.state import Container, ContainerState
from runtime.container.statistics import (
    Amount,
    CpuUse,
    DeviceUse,
    HugepageUse,
    IoUse,
    MemoryUse,
    PidsUse,
    Pressure,
    Pressures,
    Statistics,
)
from runtime.errors import (
    Cancelled,
    ContainerNotFound,
    InvalidArgument,
    MonitorLost,
    PortUnreachable,
    RegistryUnavailable,
    SandboxNotFound,
)
from runtime.events import Change, Kind, Listener
from runtime.execution import ExecResult
from runtime.image.auth import Credentials
from runtime.image.config import ImageConfig
from runtime.image.records import Image, Usage
from runtime.network.traffic import LinkUse, Traffic
from runtime.own_use import OwnUse
from runtime.sandbox.config import SandboxConfig
from runtime.sandbox.state import Sandbox, SandboxState
from runtime.session import Session
from runtime.spec import schema
from runtime.usage import ContainerUse, Disk, Processes, SandboxUse, Use
from runtime.writable import LayerUse

NAME = "docker.io/library/web:1"

#: Of which metrics come.
FILES = (
    *("cpu.max", "memory.current", "memory.peak", "memory.swap.current", "pids.max", "io.stat", "hugetlb"),
    *("cpu.pressure", "memory.pressure", "io.pressure"),
)
PRESSURE = Pressures(some=Pressure(1.5, 2.5, 3.5, 1_000_000), full=Pressure(0.5, 0.25, 0.125, 2_000))
#: What a node with every controller says of something that runs.
FULL_USE = Use(
    at_ns=99_000_000_000,
    statistics=Statistics(
        cpu=CpuUse(5_000_000_000, 3_000_000_000, 2_000_000_000, 40, 10, 7_000_000_000, PRESSURE),
        memory=MemoryUse(
            memory=Amount(1000, 4000, 3000),
            swap=Amount(100, 500, None),
            details={
                "anon": 300,
                "file": 500,
                "inactive_file": 200,
                "active_file": 250,
                "pgfault": 17,
                "pgmajfault": 2,
                "kernel": 33,
                "file_mapped": 44,
            },
            events={"max": 6, "oom": 2, "oom_kill": 1},
            pressure=PRESSURE,
        ),
        pids=PidsUse(4, 64),
        io=IoUse((DeviceUse(8, 16, {"rbytes": 1, "wbytes": 2, "rios": 3, "wios": 4}),), PRESSURE),
        hugepages={"2MB": HugepageUse(2 << 20, None, 0)},
    ),
    nano_cores=250_000_000,
)


def image(number: int = 1, *, tags: tuple[str, ...] = (NAME,), user: str = "") -> Image:
    config = ImageConfig(architecture="amd64", os="linux", cmd=("serve",), user=user)
    return Image(
        id=f"sha256:{number:064x}",
        repo_tags=tags,
        repo_digests=(f"docker.io/library/web@sha256:{number:064x}",),
        size_bytes=1000,
        config=config,
        chain_ids=(),
    )


class FakeImages:
    def __init__(self) -> None:
        self.stored = {image().id: image()}

    def find(self, name: str) -> Image | None:
        names = {name, f"docker.io/library/{name}", f"docker.io/library/{name}:1"}
        return next((found for found in self.stored.values() if names & {found.id, *found.repo_tags}), None)

    def list(self) -> list[Image]:
        return [*self.stored.values()]

    def usage(self) -> Usage:
        return Usage(bytes=4096, inodes=7)

    def remove(self, name: str) -> None:
        found = self.find(name)
        if found is not None:
            del self.stored[found.id]


class FakePull:
    """Knows one registry, which has every image; ``hangs`` lets a pull wait until it is cancelled."""

    def __init__(self, images: FakeImages) -> None:
        self.images = images
        self.hangs = False
        self.begun = threading.Event()
        self.given_up = threading.Event()
        self.credentials: Credentials | None = None

    def __call__(self, reference: str, credentials: Credentials | None, cancelled: threading.Event) -> Image:
        self.credentials = credentials
        self.begun.set()
        if self.hangs:
            assert cancelled.wait(10)
            self.given_up.set()
            raise Cancelled("cancelled by the caller")
        if reference.startswith("down.example/"):
            raise RegistryUnavailable(f"RegistryUnavailable: pull {reference}: connection refused")
        found = image(2, tags=(reference,))
        self.images.stored[found.id] = found
        return found


class FakeNode:
    """The facade.  ``gate`` is called at the beginning of every operation with its name, to hold it up or break it."""

    def __init__(self) -> None:
        self.images = FakeImages()
        self.calls: list[tuple[object, ...]] = []
        self.gate: Callable[[str], None] = lambda name: None
        self.problem: str | None = None
        self.pod_cidr = ""
        self.result = ExecResult(b"out", b"err", 3)
        self.listeners: list[Listener] = []
        self.has_monitor = True
        self.files = frozenset(FILES)
        self.use = FULL_USE
        self.layer: LayerUse | None = LayerUse(bytes=12288, inodes=3, at_ns=77)
        self.links: tuple[LinkUse, ...] | None = (
            LinkUse("net1", Traffic(1, 2, 3, 4), Traffic(5, 6, 7, 8)),
            LinkUse("eth0", Traffic(10, 20, 30, 40), Traffic(50, 60, 70, 80)),
        )
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, Container] = {}
        self._numbers = itertools.count(1)

    def _did(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        self.gate(name)

    def network_problem(self) -> str | None:
        return self.problem

    def set_pod_cidr(self, pod_cidr: str) -> None:
        self.pod_cidr = pod_cidr

    def run_sandbox(self, config: SandboxConfig) -> str:
        self._did("run_sandbox", config.name)
        for known in self._sandboxes.values():
            if known.config == config:
                return known.id
        number = next(self._numbers)
        sandbox = Sandbox(id=f"{number:064x}", config=config, created_at_ns=number, ip="10.85.0.2", hostname=config.hostname)
        self._sandboxes[sandbox.id] = sandbox
        return sandbox.id

    def stop_sandbox(self, sandbox_id: str) -> None:
        self._did("stop_sandbox", sandbox_id)
        self._sandboxes[sandbox_id] = msgspec.structs.replace(self._sandboxes[sandbox_id], state=SandboxState.NOT_READY)

    def remove_sandbox(self, sandbox_id: str) -> None:
        self._did("remove_sandbox", sandbox_id)
        self._sandboxes.pop(sandbox_id, None)

    def sandboxes(self) -> list[Sandbox]:
        return [*self._sandboxes.values()]

    def find_sandbox(self, prefix: str) -> Sandbox:
        if not prefix:
            raise InvalidArgument("sandbox id: must not be empty")
        found = [sandbox for key, sandbox in self._sandboxes.items() if key.startswith(prefix)]
        if not found:
            raise SandboxNotFound(f"sandbox {prefix}: not found")
        return found[0]

    def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        self._did("create_container", config.name)
        number = next(self._numbers)
        container = Container(
            id=f"c{number:063x}", sandbox_id=sandbox_id, config=config, image_id=config.image, created_at_ns=number
        )
        self._containers[container.id] = container
        return container.id

    def start_container(self, container_id: str) -> None:
        self._did("start_container", container_id)
        self.change(container_id, started_at_ns=next(self._numbers), pid=42)

    def stop_container(self, container_id: str, timeout_seconds: float) -> None:
        self._did("stop_container", container_id, timeout_seconds)
        self.change(container_id, finished_at_ns=next(self._numbers), exit_code=137, reason="Error", pid=0)

    def remove_container(self, container_id: str) -> None:
        self._did("remove_container", container_id)
        self._containers.pop(container_id, None)

    def containers(self) -> list[Container]:
        return [*self._containers.values()]

    def find_container(self, prefix: str) -> Container:
        if not prefix:
            raise InvalidArgument("container id: must not be empty")
        found = [container for key, container in self._containers.items() if key.startswith(prefix)]
        if not found:
            raise ContainerNotFound(f"container {prefix}: not found")
        return found[0]

    def exec_sync(
        self, container_id: str, arguments: list[str], timeout_seconds: float, cancelled: threading.Event
    ) -> ExecResult:
        assert not cancelled.is_set()
        self._did("exec_sync", container_id, *arguments, timeout_seconds)
        return dataclasses.replace(self.result)

    def exec(self, container_id: str, arguments: list[str], **streams: bool) -> Session:
        self._did("exec", container_id, *arguments, streams)
        return self.session()

    def attach(self, container_id: str, **streams: bool) -> Session:
        self._did("attach", container_id, streams)
        return self.session()

    def port_forward(self, sandbox_id: str, port: int) -> socket.socket:
        self._did("port_forward", sandbox_id, port)
        raise PortUnreachable(f"port-forward: port {port}: connection refused")

    def session(self) -> Session:
        """One that has ended at once, with 3, and said nothing."""
        session = Session()
        session.end(3)
        return session

    def reopen_log(self, container_id: str) -> None:
        self._did("reopen_log", container_id)

    def listen(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def tell(self, kind: Kind, sandbox_id: str, container_id: str = "") -> Change:
        """Tell the listeners that this happened to the container, or to the sandbox."""
        containers = tuple(each for each in self.containers() if each.sandbox_id == sandbox_id)
        change = Change(kind, container_id or sandbox_id, next(self._numbers), self._sandboxes.get(sandbox_id), containers)
        for listener in tuple(self.listeners):
            listener(change)
        return change

    def update_container(
        self, container_id: str, resources: schema.Resources, *, oom_score_adj: int | None = None, attachment: bytes = b""
    ) -> None:
        self._did("update_container", container_id, oom_score_adj)
        self.change(container_id, resources=resources, resources_attachment=attachment)

    def update_sandbox(self, sandbox_id: str, resources: schema.Resources, *, attachment: bytes = b"") -> None:
        self._did("update_sandbox", sandbox_id)
        changed = msgspec.structs.replace(self._sandboxes[sandbox_id], resources=resources, resources_attachment=attachment)
        self._sandboxes[sandbox_id] = changed

    def use_of_containers(self, containers: Sequence[Container], *, brief: bool = True) -> list[ContainerUse]:
        self._did("use_of_containers", brief)
        return [ContainerUse(each, self.use, self.layer) for each in containers]

    def use_of_sandboxes(self, sandboxes: Sequence[Sandbox], *, brief: bool = True) -> list[SandboxUse]:
        self._did("use_of_sandboxes", brief)
        running = [each for each in self.containers() if each.state is ContainerState.RUNNING]
        found = []
        for sandbox in sandboxes:
            of_pod = self.use_of_containers([each for each in running if each.sandbox_id == sandbox.id], brief=brief)
            found.append(SandboxUse(sandbox, self.use, 5, self.links, tuple(of_pod)))
        return found

    def processes_of(self, container: Container) -> Processes | None:
        return Processes(3, 4, 50, 6, 1024) if container.state is ContainerState.RUNNING else None

    def disk(self) -> Disk:
        return Disk("/dev/vda1", 1 << 30, 1000, 900)

    def accounts(self) -> frozenset[str]:
        return self.files

    @property
    def monitor_pid(self) -> int:
        if not self.has_monitor:
            raise MonitorLost("there is no monitor")
        return 7

    monitor_losses = 2

    def own_use(self) -> OwnUse:
        return OwnUse(1 << 20, 1.5, 20, 1024, 5, 1_700_000_000.25)

    def use_of_layers(self) -> Usage:
        return Usage(bytes=8192, inodes=9)

    def can_map_ids(self) -> bool:
        return True

    def controllers(self) -> frozenset[str]:
        return frozenset({"cpu", "cpuset", "memory", "pids"})

    def change(self, container_id: str, **fields: object) -> None:
        """Replace the record, as the runtime does."""
        self._containers[container_id] = msgspec.structs.replace(self._containers[container_id], **fields)
