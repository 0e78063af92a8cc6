"""ContainerStats to ListPodSandboxStats: what the node counted, in the CRI's words.

A figure that nobody keeps is a field that is not set; a kubelet tells that from zero.  The times of cpu and memory are
always set: they say when it was looked.
"""

from __future__ import annotations

from collections.abc import Sequence

from cri import encoded, filters
from cri.api import api_pb2 as api
from cri.containers import request_of as container_request
from cri.node import Node
from cri.sandboxes import request_of as sandbox_request
from runtime.container.state import Container, ContainerState
from runtime.container.statistics import Amount, MemoryUse, Pressure, Pressures
from runtime.network.traffic import LinkUse
from runtime.sandbox.state import Sandbox, SandboxState
from runtime.usage import ContainerUse, SandboxUse, Use
from runtime.writable import LayerUse

#: The link that a pod is reached by, with the built-in network and with nearly every other.
DEFAULT_LINK = "eth0"


class Stats:
    def __init__(self, node: Node, mountpoint: str) -> None:
        """*mountpoint* is a directory on the file system that holds the writable layers; a kubelet measures it."""
        self._node = node
        self._mountpoint = mountpoint

    def container(self, request: api.ContainerStatsRequest) -> api.ContainerStatsResponse:
        (use,) = self._node.use_of_containers([self._node.find_container(request.container_id)])
        return api.ContainerStatsResponse(stats=self._container(use))

    def containers(self, request: api.ListContainerStatsRequest | api.StreamContainerStatsRequest) -> list[bytes]:
        """The running containers that the filter lets pass, each as an element of the answer."""
        return [
            encoded.element(api.ListContainerStatsResponse.STATS_FIELD_NUMBER, self._container(use))
            for use in self._node.use_of_containers(self._running(request.filter))
        ]

    def sandbox(self, request: api.PodSandboxStatsRequest) -> api.PodSandboxStatsResponse:
        (use,) = self._node.use_of_sandboxes([self._node.find_sandbox(request.pod_sandbox_id)])
        return api.PodSandboxStatsResponse(stats=self._sandbox(use))

    def sandboxes(self, request: api.ListPodSandboxStatsRequest | api.StreamPodSandboxStatsRequest) -> list[bytes]:
        """The ready sandboxes that the filter lets pass, each as an element of the answer."""
        return [
            encoded.element(api.ListPodSandboxStatsResponse.STATS_FIELD_NUMBER, self._sandbox(use))
            for use in self._node.use_of_sandboxes(self._ready(request.filter))
        ]

    def _running(self, wish: api.ContainerStatsFilter) -> Sequence[Container]:
        return [
            container
            for container in self._node.containers()
            if container.state is ContainerState.RUNNING
            and container.id.startswith(wish.id)
            and container.sandbox_id.startswith(wish.pod_sandbox_id)
            and (not wish.label_selector or filters.has_labels(container_request(container).labels, wish.label_selector))
        ]

    def _ready(self, wish: api.PodSandboxStatsFilter) -> Sequence[Sandbox]:
        return [
            sandbox
            for sandbox in self._node.sandboxes()
            if sandbox.state is SandboxState.READY
            and sandbox.id.startswith(wish.id)
            and (not wish.label_selector or filters.has_labels(sandbox_request(sandbox).labels, wish.label_selector))
        ]

    def _container(self, use: ContainerUse) -> api.ContainerStats:
        config = container_request(use.container)
        return api.ContainerStats(
            attributes=api.ContainerAttributes(
                id=use.container.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
            ),
            cpu=cpu(use.use),
            memory=memory(use.use),
            swap=swap(use.use),
            io=io(use.use),
            writable_layer=None if use.writable is None else layer(use.writable, self._mountpoint),
        )

    def _sandbox(self, use: SandboxUse) -> api.PodSandboxStats:
        config, at_ns = sandbox_request(use.sandbox), use.use.at_ns
        processes = None if use.process_count is None else api.UInt64Value(value=use.process_count)
        return api.PodSandboxStats(
            attributes=api.PodSandboxAttributes(
                id=use.sandbox.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
            ),
            linux=api.LinuxPodSandboxStats(
                cpu=cpu(use.use),
                memory=memory(use.use),
                io=io(use.use),
                network=None if use.links is None else network(use.links, at_ns),
                process=None if processes is None else api.ProcessUsage(timestamp=at_ns, process_count=processes),
                containers=[self._container(each) for each in use.containers],
            ),
        )


def cpu(use: Use) -> api.CpuUsage:
    found = None if use.statistics is None else use.statistics.cpu
    if found is None:
        return api.CpuUsage(timestamp=use.at_ns)
    return api.CpuUsage(
        timestamp=use.at_ns,
        usage_core_nano_seconds=api.UInt64Value(value=found.total_ns),
        usage_nano_cores=None if use.nano_cores is None else api.UInt64Value(value=use.nano_cores),
        psi=pressure(found.pressure),
    )


def memory(use: Use) -> api.MemoryUsage:
    """Working set: what is in use but for file cache that could go; rss: what is not of files, shared memory left out."""
    found = None if use.statistics is None else use.statistics.memory
    if found is None:
        return api.MemoryUsage(timestamp=use.at_ns)
    return api.MemoryUsage(
        timestamp=use.at_ns,
        working_set_bytes=api.UInt64Value(value=found.working_set_bytes),
        available_bytes=_left(found.memory, found.working_set_bytes),
        usage_bytes=api.UInt64Value(value=found.memory.usage_bytes),
        rss_bytes=_detail(found, "anon"),
        page_faults=_detail(found, "pgfault"),
        major_page_faults=_detail(found, "pgmajfault"),
        psi=pressure(found.pressure),
    )


def swap(use: Use) -> api.SwapUsage | None:
    """None where the kernel keeps no account of swap, or nothing runs."""
    found = None if use.statistics is None or use.statistics.memory is None else use.statistics.memory.swap
    if found is None:
        return None
    return api.SwapUsage(
        timestamp=use.at_ns,
        swap_available_bytes=_left(found, found.usage_bytes),
        swap_usage_bytes=api.UInt64Value(value=found.usage_bytes),
    )


def io(use: Use) -> api.IoUsage | None:
    """None where the kernel keeps no account of pressure."""
    found = None if use.statistics is None or use.statistics.io is None else use.statistics.io.pressure
    return None if found is None else api.IoUsage(timestamp=use.at_ns, psi=pressure(found))


def pressure(found: Pressures | None) -> api.PsiStats | None:
    """Totals are in nanoseconds here: a kubelet takes them for such."""
    if found is None:
        return None
    return api.PsiStats(Some=_psi(found.some), Full=None if found.full is None else _psi(found.full))


def network(links: tuple[LinkUse, ...], at_ns: int) -> api.NetworkUsage:
    """All links but loopback; the default one is eth0, or else the first."""
    default = next((link for link in links if link.name == DEFAULT_LINK), links[0] if links else None)
    return api.NetworkUsage(
        timestamp=at_ns,
        default_interface=None if default is None else _link(default),
        interfaces=[_link(link) for link in links if link is not default],
    )


def layer(use: LayerUse, mountpoint: str) -> api.FilesystemUsage:
    return api.FilesystemUsage(
        timestamp=use.at_ns,
        fs_id=api.FilesystemIdentifier(mountpoint=mountpoint),
        used_bytes=api.UInt64Value(value=use.bytes),
        inodes_used=api.UInt64Value(value=use.inodes),
    )


def _left(amount: Amount, used: int) -> api.UInt64Value | None:
    """What may be used yet; None without a limit."""
    return None if amount.limit_bytes is None else api.UInt64Value(value=max(0, amount.limit_bytes - used))


def _detail(found: MemoryUse, name: str) -> api.UInt64Value | None:
    value = found.details.get(name)
    return None if value is None else api.UInt64Value(value=value)


def _psi(found: Pressure) -> api.PsiData:
    return api.PsiData(Total=found.total_usec * 1000, Avg10=found.avg10, Avg60=found.avg60, Avg300=found.avg300)


def _link(link: LinkUse) -> api.NetworkInterfaceUsage:
    return api.NetworkInterfaceUsage(
        name=link.name,
        rx_bytes=api.UInt64Value(value=link.received.bytes),
        rx_errors=api.UInt64Value(value=link.received.errors),
        tx_bytes=api.UInt64Value(value=link.sent.bytes),
        tx_errors=api.UInt64Value(value=link.sent.errors),
    )
