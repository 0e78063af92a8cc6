"""The node: everything of this package put together, and the operations that a caller may ask for.

Each operation blocks, is safe to call from any thread, and is drawn in the module it comes from.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network

from kernel.cgroup import Cgroup, find_tree
from runtime import (
    exec_process,
    execution,
    facilities,
    health,
    history,
    image_files,
    lifecycle,
    recovery,
    session,
    snapshot,
    updates,
)
from runtime.cgroups import Name
from runtime.cgroups.drivers import driver
from runtime.container.config import ContainerConfig
from runtime.container.state import Container
from runtime.context import Context
from runtime.errors import KerneletError, MonitorLost
from runtime.events import Listener
from runtime.execution import ExecResult
from runtime.image.records import Usage
from runtime.image.store import ImageStore
from runtime.inventory import Inventory
from runtime.journal import Journal
from runtime.log_opener import LOOK
from runtime.monitor.client import Exited, MonitorClient
from runtime.monitor.log_file import Gap, Hang
from runtime.network import capabilities
from runtime.network.bridge import SUBNET, BridgeNetwork
from runtime.network.cni import CniNetwork
from runtime.network.selection import BUILT_IN, Choice, SelectedNetwork
from runtime.own_use import OwnUse, own_use
from runtime.paths import Paths
from runtime.sandbox import lifecycle as sandbox_lifecycle
from runtime.sandbox import namespaces
from runtime.sandbox.config import SandboxConfig
from runtime.sandbox.state import Sandbox, SandboxState
from runtime.session import Session
from runtime.spec import schema
from runtime.store import Store
from runtime.usage import ContainerUse, Disk, Meter, Processes, SandboxUse

#: Between two attempts to have a monitor, when it dies at once.
RETRY_SECONDS = 0.1
START_ATTEMPTS = 3
#: Until the end of a container that could not be recorded is tried again.
RECORD_AGAIN_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Node:
    """One daemon's view of this machine."""

    def __init__(
        self,
        paths: Paths,
        *,
        bridge: str = "kernelet0",
        subnet: IPv4Network = SUBNET,
        network: Choice = BUILT_IN,
        cgroup_parent: str = "/kernelet",
        cgroup_driver: Name = "cgroupfs",
    ) -> None:
        paths.prepare()
        self.paths = paths
        self._store = Store(paths.database)
        journal = Journal(self._store)
        self._inventory = inventory = Inventory(self._store, journal)
        self.images = ImageStore(paths, self._store, journal, layer_in_use=self._is_layer_in_use)
        self._network = SelectedNetwork(
            network.kind,
            BridgeNetwork(self._store, name=bridge, subnet=subnet, state_dir=paths.run_dir),
            CniNetwork(self._store, directory=network.config_directory, programs=network.program_directories),
        )
        self._exits: queue.SimpleQueue[Exited | None] = queue.SimpleQueue()
        monitor = MonitorClient(paths, on_exit=self._exits.put, on_lost=self._replace_monitor, on_gap=_say_gap, on_hang=_say_hang)
        tree = find_tree()
        self._context = Context(
            paths,
            inventory,
            journal,
            self.images,
            self._network,
            monitor,
            self._exits.put,
            tree,
            driver(cgroup_driver, tree, cgroup_parent),
        )
        self._meter = Meter(self._context)
        self._replacing = threading.Lock()
        self._closing = threading.Event()
        self._recorder = threading.Thread(target=self._record_exits, name="exits", daemon=True)

    def start(self) -> None:
        """Find again what runs, finish or undo what was under way, and be ready for requests."""
        context = self._context
        facilities.check(self.paths)
        namespaces.prepare(self.paths)
        context.cgroups.prepare()
        context.inventory.load()
        self._recorder.start()
        self._have_monitor(attempts=START_ATTEMPTS)
        recovery.recover(context)
        self.images.recover()
        ready = [sandbox for sandbox in self.sandboxes() if sandbox.state is SandboxState.READY]
        self._network.check_all(ready, context.closing)

    def close(self) -> None:
        """Let go of the node.  Containers run on; when there are none, nothing of ours stays behind."""
        self._closing.set()
        self._meter.close()
        self._context.closing.set()
        alive = [sandbox for sandbox in self.sandboxes() if sandbox.state is SandboxState.READY]
        self._context.monitor.close(end_monitor=not alive)
        self._exits.put(None)
        if self._recorder.is_alive():
            self._recorder.join(10)
        if not alive:
            self._network.shutdown()
            with contextlib.suppress(OSError):
                namespaces.release(self.paths)
            with contextlib.suppress(KerneletError):
                self._context.cgroups.release()
        self._context.device_programs.close()
        self._context.scribe.close()
        self._store.close()

    # What there is.

    def sandboxes(self) -> list[Sandbox]:
        return list(self._context.inventory.sandboxes.values())

    def containers(self) -> list[Container]:
        return list(self._context.inventory.containers.values())

    def find_sandbox(self, prefix: str) -> Sandbox:
        return self._context.inventory.find_sandbox(prefix)

    def find_container(self, prefix: str) -> Container:
        return self._context.inventory.find_container(prefix)

    def history_of(self, container_id: str) -> list[history.StepRecord]:
        """What the set-up of a container really did, step by step."""
        run_dir = self.paths.run_container(container_id)
        self._context.scribe.settle(run_dir)
        return history.load(run_dir)

    def is_in_use(self, image_id: str) -> bool:
        """Whether a container was made from the image."""
        return any(image_id in image_files.ids_of(container.config) for container in self.containers())

    @property
    def monitor_pid(self) -> int:
        return self._context.monitor.pid

    def controllers(self) -> frozenset[str]:
        """The cgroup v2 controllers that this node has."""
        return Cgroup(self._context.tree).controllers()

    def faults(self) -> list[str]:
        """What keeps this daemon from its work, in words; blocks for some seconds at most."""
        return health.faults(self._store, self._context.monitor)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have *listener* told of every change to sandboxes and containers; what is returned ends that."""
        return self._context.inventory.listen(listener)

    @property
    def monitor_losses(self) -> int:
        """How often a monitor ended that should not have."""
        return self._context.monitor.losses

    # What it uses.

    def own_use(self) -> OwnUse:
        """What this daemon itself uses."""
        return own_use()

    def use_of_containers(self, containers: Sequence[Container], *, brief: bool = True) -> list[ContainerUse]:
        return self._meter.containers(containers, brief=brief)

    def use_of_sandboxes(self, sandboxes: Sequence[Sandbox], *, brief: bool = True) -> list[SandboxUse]:
        return self._meter.sandboxes(sandboxes, brief=brief)

    def processes_of(self, container: Container) -> Processes | None:
        return self._meter.processes(container)

    def disk(self) -> Disk:
        return self._meter.disk()

    def accounts(self) -> frozenset[str]:
        """The files in which this node's cgroups keep account of containers."""
        return self._meter.accounts()

    def use_of_layers(self) -> Usage:
        """What the writable layers of all containers take on disk."""
        total_bytes, inodes = self._meter.layers_total()
        return Usage(total_bytes, inodes)

    def can_map_ids(self) -> bool:
        """Whether pods can have user namespaces of their own here."""
        return snapshot.can_map_ids(self.paths)

    def network_problem(self) -> str | None:
        """Why pods get no network now, for people; None when they do.  May wait for plugins of the cluster's network."""
        return self._network.problem()

    def set_pod_cidr(self, pod_cidr: str) -> None:
        """Take note of the cluster's subnets for this node's pods.  Raises InvalidArgument."""
        self._network.set_pod_subnets(capabilities.subnets(pod_cidr))

    # Operations.

    def run_sandbox(self, config: SandboxConfig) -> str:
        return sandbox_lifecycle.run(self._context, config)

    def stop_sandbox(self, sandbox_id: str) -> None:
        sandbox_lifecycle.stop(self._context, sandbox_id)

    def remove_sandbox(self, sandbox_id: str) -> None:
        sandbox_lifecycle.remove(self._context, sandbox_id)

    def create_container(self, sandbox_id: str, config: ContainerConfig) -> str:
        return lifecycle.create(self._context, sandbox_id, config)

    def start_container(self, container_id: str) -> None:
        lifecycle.start(self._context, container_id)

    def stop_container(self, container_id: str, timeout_seconds: float) -> None:
        lifecycle.stop(self._context, container_id, timeout_seconds)

    def remove_container(self, container_id: str) -> None:
        lifecycle.remove(self._context, container_id)

    def update_container(
        self, container_id: str, resources: schema.Resources, *, oom_score_adj: int | None = None, attachment: bytes = b""
    ) -> None:
        updates.update_container(self._context, container_id, resources, oom_score_adj=oom_score_adj, attachment=attachment)

    def update_sandbox(self, sandbox_id: str, resources: schema.Resources, *, attachment: bytes = b"") -> None:
        updates.update_sandbox(self._context, sandbox_id, resources, attachment=attachment)

    def exec_sync(
        self, container_id: str, arguments: list[str], timeout_seconds: float, cancelled: threading.Event | None = None
    ) -> ExecResult:
        return execution.exec_sync(self._context, container_id, arguments, timeout_seconds, cancelled)

    def exec(
        self, container_id: str, arguments: list[str], *, terminal: bool, stdin: bool, stdout: bool, stderr: bool
    ) -> Session:
        return session.exec_in(
            self._context, container_id, arguments, terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr
        )

    def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool) -> Session:
        return session.attach(self._context, container_id, stdin=stdin, stdout=stdout, stderr=stderr)

    def port_forward(self, sandbox_id: str, port: int) -> socket.socket:
        return session.port_forward(self._context, sandbox_id, port)

    def reopen_log(self, container_id: str) -> None:
        lifecycle.reopen_log(self._context, container_id)

    def _is_layer_in_use(self, chain_id: str) -> bool:
        return any(chain_id in container.chain_ids for container in tuple(self._inventory.containers.values()))

    # The monitor's side.

    def _record_exits(self) -> None:
        while (exited := self._exits.get()) is not None:
            try:
                recovery.record_exit(self._context, exited)
            except OSError as error:  # a full disk, say: it has ended all the same
                logger.warning("the end of %s cannot be recorded yet: %s", exited.id[:13], error)
                self._record_later(exited)
            except Exception:
                logger.exception("recording the end of %s", exited.id[:13])

    def _record_later(self, exited: Exited) -> None:
        again = threading.Timer(RECORD_AGAIN_SECONDS, self._exits.put, (exited,))
        again.daemon = True
        again.start()

    def _replace_monitor(self) -> None:
        """The monitor died: start another, which takes the streams over from the reapers; until one lives."""
        if self._closing.is_set():
            return
        logger.warning("the monitor ended; starting another")
        exec_process.give_up(self._context)
        self._have_monitor()

    def _have_monitor(self, attempts: int | None = None) -> None:
        """Find the monitor or start one, and tell it what its reapers are for; again when it dies over that."""
        monitor = self._context.monitor
        with self._replacing:
            while not monitor.is_settled and not self._closing.is_set():
                try:
                    monitor.connect()
                    for exited in recovery.take_over(self._context):
                        self._exits.put(exited)
                except (MonitorLost, OSError) as error:
                    attempts = None if attempts is None else attempts - 1
                    if attempts == 0:
                        raise
                    logger.warning("no monitor yet: %s", error)
                    self._closing.wait(RETRY_SECONDS)


def _say_gap(container_id: str, gap: Gap) -> None:
    """To the log, for whoever reads it: the container knows nothing of it, and its log says nothing."""
    if gap.error:
        logger.warning("container %s: its log cannot be written, what it says is lost: %s", container_id[:13], gap.error)
    else:
        text = "container %s: its log is written again; %d entries (%d bytes) were lost"
        logger.warning(text, container_id[:13], gap.lines, gap.bytes)


def _say_hang(hang: Hang) -> None:
    """To the log as well; the containers wait when their pipes are full, and all that is on other disks goes on."""
    names = ", ".join(each[:13] for each in hang.ids) or "none"
    if hang.seconds:
        logger.warning("the disk of logs answers again after %d s; nothing of the logs is lost: %s", hang.seconds, names)
    else:
        logger.warning(
            "the disk of logs does not answer, and these containers wait for it when they write: %s; %s", names, LOOK
        )
