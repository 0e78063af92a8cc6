"""``cri``: a kubelet's calls, ours beside containerd's, one pod at each in turn; and ``cri-list-200``.

The same requests go to both: a pod, a container of it that sleeps, a probe, and the end of all.  First with the node's
network (hostNetwork), which leaves the daemons alone; then with the same CNI bridge for both, whose plugins take what
they take, and with our built-in network beside containerd's CNI bridge.  A pod of ours has its own IPC and UTS namespaces
as containerd's, which also starts a pause container; nothing of ours is left out.

``pod-to-running`` is from the request for the sandbox until ContainerStatus says that the container runs.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri.api import api_pb2 as api
from kernel import mount
from kernel.netlink import Netlink
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.bench import measure
from tests.bench.containerd import containerd
from tests.bench.measure import Figure
from tests.support import requires
from tests.support.client import Client
from tests.support.daemon import Daemon
from tests.support.image import store_busybox
from tests.support.isolation import Run

RUNS = 40
CONTAINERS = 200
PEER = "containerd"
BRIDGE = "bench0"
#: What is measured, in the order of a pod's life.
PARTS = ("run-pod", "create", "start", "pod-to-running", "exec-sync", "stop", "remove", "stop-pod", "remove-pod")

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Asked:
    """One daemon, and the network of its pods."""

    name: str
    client: Client
    network: int

    def pod(self) -> api.PodSandboxConfig:
        number = next(_numbers)
        options = api.NamespaceOption(network=self.network, pid=api.CONTAINER)
        context = api.LinuxSandboxSecurityContext(namespace_options=options, seccomp=_unconfined())
        return api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=f"bench-{number}", namespace="default", uid=f"uid-{number}"),
            hostname="" if self.network == api.NODE else f"bench-{number}",
            log_directory=f"/tmp/kernelet-bench/{number}",
            linux=api.LinuxPodSandboxConfig(security_context=context),
        )

    def container(self) -> api.ContainerConfig:
        options = api.NamespaceOption(network=self.network, pid=api.CONTAINER)
        context = api.LinuxContainerSecurityContext(namespace_options=options, seccomp=_unconfined())
        return api.ContainerConfig(
            metadata=api.ContainerMetadata(name="c"),
            image=api.ImageSpec(image="docker.io/library/busybox:latest"),
            command=["sleep", "1000"],
            log_path="c.log",
            linux=api.LinuxContainerConfig(security_context=context, resources=api.LinuxContainerResources()),
        )


def _unconfined() -> api.SecurityProfile:
    return api.SecurityProfile(profile_type=api.SecurityProfile.Unconfined)


class Life:
    """One pod's life at one daemon, each call's time taken."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.taken: dict[str, int] = {}

    def call(self, part: str, request: Any) -> Any:
        begun = time.perf_counter_ns()
        answer = self._asked.client(request)
        self.taken[part] = time.perf_counter_ns() - begun
        return answer

    def live(self) -> dict[str, int]:
        """The nanoseconds of each part."""
        config, begun = self._asked.pod(), time.perf_counter_ns()
        pod = self.call("run-pod", api.RunPodSandboxRequest(config=config)).pod_sandbox_id
        wish = api.CreateContainerRequest(pod_sandbox_id=pod, config=self._asked.container(), sandbox_config=config)
        container = self.call("create", wish).container_id
        self.call("start", api.StartContainerRequest(container_id=container))
        status = self._asked.client(api.ContainerStatusRequest(container_id=container)).status
        self.taken["pod-to-running"] = time.perf_counter_ns() - begun
        assert status.state == api.CONTAINER_RUNNING
        probe = self.call("exec-sync", api.ExecSyncRequest(container_id=container, cmd=["true"], timeout=10))
        assert probe.exit_code == 0
        self.call("stop", api.StopContainerRequest(container_id=container, timeout=0))
        self.call("remove", api.RemoveContainerRequest(container_id=container))
        self.call("stop-pod", api.StopPodSandboxRequest(pod_sandbox_id=pod))
        self.call("remove-pod", api.RemovePodSandboxRequest(pod_sandbox_id=pod))
        return self.taken


def conflist(directory: Path, addresses: Path) -> Path:
    """A directory with the CNI network of both: a bridge, addresses by host-local, kept in *addresses*."""
    directory.mkdir()
    ipam = {"type": "host-local", "dataDir": str(addresses), "ranges": [[{"subnet": "10.97.0.0/16"}]]}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": ipam}
    (directory / "10-bench.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "bench", "plugins": [bridge]}))
    return directory


@contextmanager
def daemons(directory: Path, run: Run, names: tuple[str, ...]) -> Iterator[dict[str, Client]]:
    """Connections by name: "ours" (of CNI pods), "ours built-in", "containerd", each a daemon with busybox."""
    with ExitStack() as undo:
        network = conflist(directory / "net.d", directory / "addresses")
        undo.callback(_delete_bridge)
        found = {}
        for name in names:
            if name == PEER:
                found[name] = undo.enter_context(containerd(directory / PEER, network))
            else:
                kind = "built-in" if name == "ours built-in" else "cni"
                found[name] = undo.enter_context(_ours(directory / kind, run, network, kind))
        yield found


def _delete_bridge() -> None:
    with Netlink() as links:
        links.delete_link(BRIDGE)


@contextmanager
def _ours(directory: Path, run: Run, network: Path, kind: str) -> Iterator[Client]:
    paths = Paths(directory / "root", directory / "run")
    paths.run_dir.mkdir(parents=True)
    with ExitStack() as undo:
        with mount.new_filesystem("tmpfs") as memory:  # as /run is everywhere
            mount.attach(memory, paths.run_dir)
        undo.callback(mount.unmount, paths.run_dir)
        paths.prepare()
        store = Store(paths.database)
        store_busybox(ImageStore(paths, store, Journal(store)))
        store.close()
        cluster = f'kind = "{kind}"\ncni_config_dir = "{network}"\ncni_plugin_dirs = ["{requires.cni_directory()}"]\n'
        daemon = Daemon(paths, run, cluster=cluster)
        daemon.start()
        undo.callback(daemon.stop)
        client = undo.enter_context(daemon.client())
        client.wait_until_ready()
        yield client


def measured(directory: Path, run: Run, count: int = RUNS) -> list[Figure]:
    figures = []
    with daemons(directory, run, ("ours", "ours built-in", PEER)) as found:
        for network, asked in (
            ("host network", {name: Asked(name, found[name], api.NODE) for name in ("ours", PEER)}),
            ("CNI bridge", {name: Asked(name, client, api.POD) for name, client in found.items()}),
        ):
            actions: dict[str, measure.Action] = {name: _life(each) for name, each in asked.items()}
            times = measure.alternate(actions, count, warm_up=2)
            figures += _tables(network, times, [name for name in asked if name != PEER])
    return figures


def _life(asked: Asked) -> Callable[[int], dict[str, int]]:
    def live(_number: int) -> dict[str, int]:
        return {f"{asked.name}/{part}": taken for part, taken in Life(asked).live().items()}

    return live


def _tables(network: str, times: dict[str, list[float]], ours: list[str]) -> list[Figure]:
    figures = []
    print(f"\npods with {network}")
    for part in PARTS:
        mine = {name: times[f"{name}/{part}"] for name in (*ours, PEER)}
        suffix = "-cni" if network == "CNI bridge" else ""
        figures += measure.table(f"cri-{part}{suffix}", mine, ours, (PEER,))
    return figures


def measured_list(directory: Path, run: Run, count: int = 200, containers: int = CONTAINERS) -> list[Figure]:
    """ListContainers with *containers* there, created and not started."""
    with daemons(directory, run, ("ours", PEER)) as found:
        ends = ExitStack()
        with ends:
            for name, client in found.items():
                ends.callback(_fill(Asked(name, client, api.NODE), containers))
            actions = {name: _list(client, containers) for name, client in found.items()}
            times = measure.alternate(actions, count)
    return measure.table(f"cri-list-{CONTAINERS}", times, ("ours",), (PEER,))


def _fill(asked: Asked, containers: int) -> Callable[[], None]:
    """Create them in one pod; what is returned removes it."""
    config = asked.pod()
    pod = asked.client(api.RunPodSandboxRequest(config=config)).pod_sandbox_id
    for number in range(containers):
        wish = asked.container()
        wish.metadata.name, wish.log_path = f"c{number}", f"{number}.log"
        wish.labels.update({"io.kubernetes.pod.name": "bench", "io.kubernetes.container.name": f"c{number}"})
        asked.client(api.CreateContainerRequest(pod_sandbox_id=pod, config=wish, sandbox_config=config))

    def remove() -> None:
        asked.client(api.RemovePodSandboxRequest(pod_sandbox_id=pod), deadline_seconds=300)

    return remove


def _list(client: Client, containers: int) -> measure.Action:
    """The call alone: what a client makes of the bytes is not the daemon's."""
    assert len(client(api.ListContainersRequest()).containers) == containers

    def ask(_number: int) -> None:
        assert client.raw(api.ListContainersRequest())

    return ask
