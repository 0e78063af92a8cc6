"""Statistics over the socket: each figure in its field, and a field that is not set for a figure that nobody has."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from runtime.container.statistics import Amount, CpuUse, MemoryUse, Statistics
from runtime.usage import Use
from tests.cri.conftest import Daemon

AT_NS = 99_000_000_000
PSI = api.PsiStats(
    Some=api.PsiData(Total=1_000_000_000, Avg10=1.5, Avg60=2.5, Avg300=3.5),
    Full=api.PsiData(Total=2_000_000, Avg10=0.5, Avg60=0.25, Avg300=0.125),
)


def number(value: int) -> api.UInt64Value:
    return api.UInt64Value(value=value)


def stats(daemon: Daemon, container_id: str) -> api.ContainerStats:
    request = api.ContainerStatsRequest(container_id=container_id)
    return daemon.client.call(request, api.ContainerStatsResponse).stats


def listed(daemon: Daemon, **wish: Any) -> list[str]:
    request = api.ListContainerStatsRequest(filter=api.ContainerStatsFilter(**wish)) if wish else api.ListContainerStatsRequest()
    return [each.attributes.id for each in daemon.client.call(request, api.ListContainerStatsResponse).stats]


def test_every_figure_is_in_its_field(daemon: Daemon) -> None:
    container = daemon.running("c", labels={"app": "web"}, annotations={"note": "é"})
    metadata = api.ContainerMetadata(name="c")
    assert stats(daemon, container) == api.ContainerStats(
        attributes=api.ContainerAttributes(id=container, metadata=metadata, labels={"app": "web"}, annotations={"note": "é"}),
        cpu=api.CpuUsage(
            timestamp=AT_NS, usage_core_nano_seconds=number(5_000_000_000), usage_nano_cores=number(250_000_000), psi=PSI
        ),
        memory=api.MemoryUsage(
            timestamp=AT_NS,
            working_set_bytes=number(800),
            available_bytes=number(3200),
            usage_bytes=number(1000),
            rss_bytes=number(300),
            page_faults=number(17),
            major_page_faults=number(2),
            psi=PSI,
        ),
        swap=api.SwapUsage(timestamp=AT_NS, swap_available_bytes=number(400), swap_usage_bytes=number(100)),
        io=api.IoUsage(timestamp=AT_NS, psi=PSI),
        writable_layer=api.FilesystemUsage(
            timestamp=77,
            fs_id=api.FilesystemIdentifier(mountpoint=str(daemon.socket.parent)),
            used_bytes=number(12288),
            inodes_used=number(3),
        ),
    )


def test_what_nobody_counts_is_not_set_but_the_times_are(daemon: Daemon) -> None:
    daemon.node.use, daemon.node.layer = Use(AT_NS, Statistics(None, None, None, None, {}), None), None
    container = daemon.running()
    found = stats(daemon, container)
    assert (found.cpu, found.memory) == (api.CpuUsage(timestamp=AT_NS), api.MemoryUsage(timestamp=AT_NS))
    assert [found.HasField(name) for name in ("swap", "io", "writable_layer")] == [False, False, False]
    daemon.node.use = Use(AT_NS, None, None)  # its cgroup is gone
    assert stats(daemon, container).cpu == api.CpuUsage(timestamp=AT_NS)


def test_without_limit_nothing_is_left_or_lacking(daemon: Daemon) -> None:
    memory = MemoryUse(Amount(100, None, None), Amount(5, None, None), {"inactive_file": 200}, {}, None)
    cpu = CpuUse(1, 1, 0, 0, 0, 0, None)
    daemon.node.use = Use(AT_NS, Statistics(cpu, memory, None, None, {}), None)
    found = stats(daemon, daemon.running())
    assert found.memory == api.MemoryUsage(timestamp=AT_NS, working_set_bytes=number(0), usage_bytes=number(100))
    assert found.swap == api.SwapUsage(timestamp=AT_NS, swap_usage_bytes=number(5))
    assert found.cpu == api.CpuUsage(timestamp=AT_NS, usage_core_nano_seconds=number(1))


def test_an_unknown_one_is_not_found(daemon: Daemon) -> None:
    for request, response in (
        (api.ContainerStatsRequest(container_id="f" * 64), api.ContainerStatsResponse),
        (api.PodSandboxStatsRequest(pod_sandbox_id="f" * 64), api.PodSandboxStatsResponse),
    ):
        code, _ = daemon.refused(lambda request=request, response=response: daemon.client.call(request, response))
        assert code == grpc.StatusCode.NOT_FOUND


def test_the_list_has_what_runs_and_what_the_filter_says(daemon: Daemon) -> None:
    first = daemon.running("first", labels={"app": "web", "tier": "front"})
    second = daemon.running("second", labels={"app": "db"})
    daemon.container(daemon.pod("other"), "created")
    pod = daemon.node.find_container(first).sandbox_id
    assert listed(daemon) == [first, second]
    assert listed(daemon, id=second) == [second]
    assert listed(daemon, pod_sandbox_id=pod) == [first]
    assert listed(daemon, label_selector={"app": "web"}) == [first]
    assert listed(daemon, label_selector={"app": "web", "tier": "back"}) == []
    assert listed(daemon, id=second, pod_sandbox_id=pod) == []
    daemon.client.call(api.StopContainerRequest(container_id=first), api.StopContainerResponse)
    assert listed(daemon) == [second]


def test_a_pod_has_its_own_figures_and_those_of_its_containers(daemon: Daemon) -> None:
    container = daemon.running("c", labels={"app": "web"})
    pod = daemon.node.find_container(container).sandbox_id
    request = api.PodSandboxStatsRequest(pod_sandbox_id=pod)
    found = daemon.client.call(request, api.PodSandboxStatsResponse).stats
    assert (found.attributes.id, found.attributes.metadata.name) == (pod, "pod-of-c")
    assert list(found.linux.containers) == [stats(daemon, container)]
    assert (found.linux.cpu, found.linux.memory, found.linux.io) == (
        found.linux.containers[0].cpu,
        found.linux.containers[0].memory,
        found.linux.containers[0].io,
    )
    assert found.linux.process == api.ProcessUsage(timestamp=AT_NS, process_count=number(5))
    assert found.linux.network == api.NetworkUsage(
        timestamp=AT_NS,
        default_interface=api.NetworkInterfaceUsage(
            name="eth0", rx_bytes=number(10), rx_errors=number(30), tx_bytes=number(50), tx_errors=number(70)
        ),
        interfaces=[
            api.NetworkInterfaceUsage(
                name="net1", rx_bytes=number(1), rx_errors=number(3), tx_bytes=number(5), tx_errors=number(7)
            )
        ],
    )
    daemon.node.links = None
    assert not daemon.client.call(request, api.PodSandboxStatsResponse).stats.linux.HasField("network")


def test_pods_are_listed_while_they_are_ready(daemon: Daemon) -> None:
    first, second = daemon.pod("first", labels={"app": "web"}), daemon.pod("second")

    def pods(**wish: Any) -> list[str]:
        request = api.ListPodSandboxStatsRequest(filter=api.PodSandboxStatsFilter(**wish))
        return [each.attributes.id for each in daemon.client.call(request, api.ListPodSandboxStatsResponse).stats]

    assert pods() == [first, second]
    assert pods(label_selector={"app": "web"}) == [first]
    assert pods(id=second) == [second]
    daemon.client.call(api.StopPodSandboxRequest(pod_sandbox_id=first), api.StopPodSandboxResponse)
    assert pods() == [second]


#: A streamed list's request, the list's, the fields of each that have the elements, and the list's answer.
STREAMS: dict[str, tuple[Any, Any, str, str, Any]] = {
    "pods": (api.StreamPodSandboxesRequest, api.ListPodSandboxRequest, "pod_sandboxes", "items", api.ListPodSandboxResponse),
    "containers": (
        api.StreamContainersRequest, api.ListContainersRequest, "containers", "containers", api.ListContainersResponse
    ),
    "images": (api.StreamImagesRequest, api.ListImagesRequest, "images", "images", api.ListImagesResponse),
    "container stats": (
        api.StreamContainerStatsRequest, api.ListContainerStatsRequest, "container_stats", "stats", api.ListContainerStatsResponse
    ),
    "pod stats": (
        api.StreamPodSandboxStatsRequest, api.ListPodSandboxStatsRequest, "pod_sandbox_stats", "stats",
        api.ListPodSandboxStatsResponse,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_a_streamed_list_is_the_list_in_pieces(daemon: Daemon, name: str) -> None:
    make, ask, field, items, response = STREAMS[name]
    for index in range(3):
        daemon.running(f"c{index}", annotations={"large": "x" * 150_000})
    messages = list(daemon.client.stream(make()))
    found = [item for message in messages for item in getattr(message, field)]
    assert found == list(getattr(daemon.client.call(ask(), response), items))
    assert all(getattr(message, field) for message in messages)
    assert len(messages) == {"containers": 3, "container stats": 3, "pod stats": 3}.get(name, 1)


def test_a_streamed_list_of_nothing_has_no_message(daemon: Daemon) -> None:
    assert list(daemon.client.stream(api.StreamContainersRequest())) == []
    daemon.running()
    wish = api.ContainerFilter(id="f" * 64)
    assert list(daemon.client.stream(api.StreamContainersRequest(filter=wish))) == []
