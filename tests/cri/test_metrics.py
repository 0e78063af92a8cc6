"""Metrics over the socket: described if and only if given, labels as many as described."""

from __future__ import annotations

import pytest

from cri.api import api_pb2 as api
from runtime.container.statistics import Statistics
from runtime.usage import Use
from tests.cri.conftest import Daemon
from tests.support.metrics import DESCRIBED, MANDATORY

LABELS = {"pod": "web", "namespace": "default", "container": "c", "image": "docker.io/library/web:1"}


def descriptors(daemon: Daemon) -> dict[str, api.MetricDescriptor]:
    answer = daemon.client.call(api.ListMetricDescriptorsRequest(), api.ListMetricDescriptorsResponse)
    found = {each.name: each for each in answer.descriptors}
    assert len(found) == len(answer.descriptors)
    return found


def listed(daemon: Daemon) -> list[api.PodSandboxMetrics]:
    return list(daemon.client.call(api.ListPodSandboxMetricsRequest(), api.ListPodSandboxMetricsResponse).pod_metrics)


@pytest.fixture
def container(daemon: Daemon) -> str:
    limits = api.LinuxContainerResources(cpu_quota=20_000, memory_limit_in_bytes=64 << 20, memory_swap_limit_in_bytes=64 << 20)
    return daemon.container(daemon.pod("web"), "c", linux=api.LinuxContainerConfig(resources=limits))


def start(daemon: Daemon, container: str) -> None:
    daemon.client.call(api.StartContainerRequest(container_id=container), api.StartContainerResponse)


def test_what_is_described_is_given_and_has_the_labels_that_are_described(daemon: Daemon, container: str) -> None:
    start(daemon, container)
    described = descriptors(daemon)
    (pod,) = listed(daemon)
    (of_container,) = pod.container_metrics
    given = [*pod.metrics, *of_container.metrics]
    assert {each.name for each in given} == set(described)
    assert set(described) >= MANDATORY | DESCRIBED
    for each in given:
        assert len(each.label_values) == len(described[each.name].label_keys), each.name
        assert each.HasField("value")
        assert each.timestamp == daemon.node.use.at_ns
    for descriptor in described.values():
        assert descriptor.help
        assert list(descriptor.label_keys[:5]) == ["pod", "namespace", "container", "id", "image"]
    ids = {tuple(each.label_values[:5]) for each in of_container.metrics}
    assert ids == {("web", "default", "c", container, LABELS["image"])}
    assert {tuple(each.label_values[:5]) for each in pod.metrics} == {("web", "default", "", pod.pod_sandbox_id, "")}


VALUES = {
    "container_last_seen": {(): 99},
    "container_cpu_usage_seconds_total": {(): 5},
    "container_cpu_cfs_throttled_seconds_total": {(): 7},
    "container_memory_working_set_bytes": {(): 800},
    "container_memory_max_usage_bytes": {(): 3000},
    "container_memory_rss": {(): 300},
    "container_memory_kernel_usage": {(): 33},
    "container_memory_swap": {(): 100},
    "container_memory_failcnt": {(): 6},
    "container_memory_failures_total": {("pgfault", "container"): 17, ("pgmajfault", "container"): 2},
    "container_oom_events_total": {(): 1},
    "container_fs_usage_bytes": {("/dev/vda1",): 12288},
    "container_fs_inodes_free": {("/dev/vda1",): 900},
    "container_fs_writes_total": {("8:16",): 4},
    "container_blkio_device_usage_total": {("8:16", "8", "16", "Read"): 1, ("8:16", "8", "16", "Write"): 2},
    "container_processes": {(): 3},
    "container_threads": {(): 4},
    "container_threads_max": {(): 64},
    "container_sockets": {(): 6},
    "container_ulimits_soft": {("max_open_files",): 1024},
    "container_spec_cpu_period": {(): 100_000},
    "container_spec_cpu_quota": {(): 20_000},
    "container_spec_cpu_shares": {(): 1024},
    "container_spec_memory_limit_bytes": {(): 64 << 20},
    "container_hugetlb_usage_bytes": {("2MB",): 2 << 20},
    "container_pressure_cpu_waiting_seconds_total": {(): 1},
    "container_network_receive_bytes_total": {("net1",): 1, ("eth0",): 10},
    "container_network_transmit_packets_dropped_total": {("net1",): 8, ("eth0",): 80},
}


def test_each_has_its_own_figure(daemon: Daemon, container: str) -> None:
    start(daemon, container)
    (pod,) = listed(daemon)
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for each in (*pod.metrics, *pod.container_metrics[0].metrics):
        found.setdefault(each.name, {})[tuple(each.label_values[5:])] = each.value.value
    assert {name: found[name] for name in VALUES} == VALUES


def test_where_there_is_no_such_file_there_is_no_such_metric(daemon: Daemon, container: str) -> None:
    daemon.node.files = frozenset()
    daemon.node.use = Use(1, Statistics(None, None, None, None, {}), None)
    start(daemon, container)
    described = set(descriptors(daemon))
    assert "container_memory_usage_bytes" not in described
    assert "container_threads_max" not in described
    assert "container_cpu_usage_seconds_total" in described
    (pod,) = listed(daemon)
    given = {each.name for each in (*pod.metrics, *pod.container_metrics[0].metrics)}
    assert given < described
    assert "container_spec_memory_limit_bytes" in given


def test_only_what_runs_in_pods_that_are_ready_is_listed(daemon: Daemon, container: str) -> None:
    (pod,) = listed(daemon)
    assert list(pod.container_metrics) == []
    start(daemon, container)
    daemon.client.call(api.StopPodSandboxRequest(pod_sandbox_id=pod.pod_sandbox_id), api.StopPodSandboxResponse)
    assert listed(daemon) == []


def test_the_stream_is_the_list(daemon: Daemon, container: str) -> None:
    start(daemon, container)
    messages = list(daemon.client.stream(api.StreamPodSandboxMetricsRequest()))
    assert [each for message in messages for each in message.pod_sandbox_metrics] == listed(daemon)
