"""Statistics, metrics and updates by the daemon, where every controller is: each figure is what the kernel's file says."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from kernel.cgroup import Cgroup
from runtime.container.statistics import parse_pressure
from runtime.paths import Paths
from tests.support import wait
from tests.support.daemon import Daemon
from tests.support.requires import requires
from tests.vm.inside.conftest import HOG, MIB, SPIN, Node

pytestmark = requires("controllers memory cpu io pids")

#: Uses cpu, memory, a file, and the disk; then says so and stays.
WORK = (
    "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/big bs=1M count=5 2>/dev/null; sync;"
    " cat /big >/dev/null; sleep 1000 & touch /done; wait"
)
LIMITS: dict[str, Any] = {
    "memory_limit_in_bytes": 64 * MIB,
    "memory_swap_limit_in_bytes": 96 * MIB,
    "cpu_quota": 50_000,
    "cpu_period": 100_000,
}


@pytest.fixture
def pod(node: Node) -> str:
    return node.pod()


@pytest.fixture
def worker(node: Node, pod: str, paths: Paths) -> str:
    """A container that has done its work."""
    container = node.limited(pod, WORK, **LIMITS)
    node.start(container)
    wait.until((paths.container(container) / "upper/done").exists, 60, "the work to be done")
    return container


@contextmanager
def frozen(group: Cgroup) -> Iterator[None]:
    """Nothing in it does anything, so that its figures stay."""
    group.freeze()
    try:
        yield
    finally:
        group.thaw()


def agreed(ask: Callable[[], Any], look: Callable[[], Any]) -> tuple[Any, Any]:
    """An answer, and what the files say: the same before and after, as the kernel gives some figures back lazily."""

    def both() -> tuple[Any, Any] | None:
        before, answer, after = look(), ask(), look()
        return (answer, before) if before == after else None

    found = wait.until(both, 30, "the kernel's figures to stay")
    assert found is not None
    return found


def stats(node: Node, container: str) -> api.ContainerStats:
    found: api.ContainerStats = node.call(api.ContainerStatsRequest(container_id=container)).stats
    return found


def psi(group: Cgroup, file: str) -> api.PsiStats | None:
    """The file in the CRI's words; None where the kernel keeps no account of it."""
    try:
        found = parse_pressure(group.read(file))
    except OSError:
        return None
    assert found is not None

    def line(kind: Any) -> api.PsiData:
        return api.PsiData(Total=kind.total_usec * 1000, Avg10=kind.avg10, Avg60=kind.avg60, Avg300=kind.avg300)

    return api.PsiStats(Some=line(found.some), Full=None if found.full is None else line(found.full))


def number(value: int | None) -> api.UInt64Value | None:
    return None if value is None else api.UInt64Value(value=value)


def of_files(group: Cgroup) -> tuple[api.CpuUsage, api.MemoryUsage, api.SwapUsage | None, api.IoUsage | None]:
    """What a cgroup's files say, without times."""
    usage, limit, detail = group.number("memory.current") or 0, group.number("memory.max"), group.fields("memory.stat")
    working = usage - detail["inactive_file"]
    memory = api.MemoryUsage(
        working_set_bytes=number(working),
        available_bytes=number(None if limit is None else limit - working),
        usage_bytes=number(usage),
        rss_bytes=number(detail["anon"]),
        page_faults=number(detail["pgfault"]),
        major_page_faults=number(detail["pgmajfault"]),
        psi=psi(group, "memory.pressure"),
    )
    cpu = api.CpuUsage(
        usage_core_nano_seconds=number(group.fields("cpu.stat")["usage_usec"] * 1000), psi=psi(group, "cpu.pressure")
    )
    swap, most = group.number("memory.swap.current"), group.number("memory.swap.max")
    left = None if swap is None or most is None else most - swap
    swapped = None if swap is None else api.SwapUsage(swap_usage_bytes=number(swap), swap_available_bytes=number(left))
    waited = psi(group, "io.pressure")
    return cpu, memory, swapped, None if waited is None else api.IoUsage(psi=waited)


def without_times(answer: Any) -> tuple[Any, ...]:
    """cpu, memory, swap and io of the answer, their times looked at and taken away, as is the rate, which no file has."""
    found: list[Any] = []
    for name in ("cpu", "memory", "swap", "io"):
        if name not in answer.DESCRIPTOR.fields_by_name or not answer.HasField(name):
            found.append(None)
            continue
        part = getattr(answer, name)
        assert abs(part.timestamp - time.time_ns()) < 60_000_000_000
        part.ClearField("timestamp")
        if name == "cpu":
            part.ClearField("usage_nano_cores")
        found.append(part)
    return tuple(found)


def test_every_figure_of_a_container_is_what_the_kernels_files_say(node: Node, pod: str, worker: str) -> None:
    group = node.cgroup(pod, worker)
    with frozen(group):
        answer, files = agreed(lambda: without_times(stats(node, worker)), lambda: of_files(group))
        assert answer == files
        assert answer[0].usage_core_nano_seconds.value > 0
        assert answer[1].working_set_bytes.value > 0
        (listed,) = node.call(api.ListContainerStatsRequest()).stats
        assert listed.attributes.id == worker


def test_the_writable_layer_is_as_large_as_du_says(node: Node, worker: str, paths: Paths) -> None:
    upper = paths.container(worker) / "upper"
    found = stats(node, worker).writable_layer

    def du(option: str) -> int:
        return int(subprocess.run(["du", "-s", option, upper], check=True, capture_output=True, text=True).stdout.split()[0])

    assert (found.used_bytes.value, found.inodes_used.value) == (du("-B1"), du("--inodes"))
    assert found.used_bytes.value >= 5 * MIB
    assert os.path.samefile(found.fs_id.mountpoint, paths.root_dir)


def test_every_figure_of_a_pod_is_what_the_kernels_files_say(node: Node, pod: str, worker: str) -> None:
    second = node.limited(pod, "sleep 1000 & sleep 1000 & wait")
    node.start(second)
    group = node.cgroup(pod)
    wait.until(lambda: len(group.all_processes()) == 5, 30, "all processes to be there")

    def ask() -> tuple[Any, ...]:
        linux = node.call(api.PodSandboxStatsRequest(pod_sandbox_id=pod)).stats.linux
        assert {each.attributes.id for each in linux.containers} == {worker, second}
        assert linux.process.process_count.value == 5
        cpu, memory, _, io = without_times(linux)
        return cpu, memory, io

    def look() -> tuple[Any, ...]:
        cpu, memory, _, io = of_files(group)
        return cpu, memory, io

    with frozen(group):
        answer, files = agreed(ask, look)
        assert answer == files


def test_the_rate_is_of_the_time_between_two_answers(node: Node, pod: str) -> None:
    container = node.limited(pod, SPIN, cpu_quota=20_000, cpu_period=100_000)
    node.start(container)
    first = stats(node, container).cpu
    assert not first.HasField("usage_nano_cores")

    def with_rate() -> api.CpuUsage | None:
        found = stats(node, container).cpu
        return found if found.HasField("usage_nano_cores") else None

    second = wait.until(with_rate, 60, "a rate")
    assert second is not None
    passed = second.timestamp - first.timestamp
    used = second.usage_core_nano_seconds.value - first.usage_core_nano_seconds.value
    assert second.usage_nano_cores.value == used * 1_000_000_000 // passed


def metrics(node: Node, pod: str, container: str) -> dict[str, dict[tuple[str, ...], int]]:
    """By name, and by the labels of its own."""
    pods = {each.pod_sandbox_id: each for each in node.call(api.ListPodSandboxMetricsRequest()).pod_metrics}
    (of_container,) = (each for each in pods[pod].container_metrics if each.container_id == container)
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for each in (*pods[pod].metrics, *of_container.metrics):
        found.setdefault(each.name, {})[tuple(each.label_values[5:])] = each.value.value
    return found


def expected(group: Cgroup) -> dict[str, int | None]:
    """Metrics without labels of their own, by the files that they come from."""
    cpu, memory, events = group.fields("cpu.stat"), group.fields("memory.stat"), group.fields("memory.events")
    return {
        "container_cpu_usage_seconds_total": cpu["usage_usec"] // 1_000_000,
        "container_cpu_user_seconds_total": cpu["user_usec"] // 1_000_000,
        "container_cpu_system_seconds_total": cpu["system_usec"] // 1_000_000,
        "container_cpu_cfs_periods_total": cpu["nr_periods"],
        "container_cpu_cfs_throttled_periods_total": cpu["nr_throttled"],
        "container_cpu_cfs_throttled_seconds_total": cpu["throttled_usec"] // 1_000_000,
        "container_memory_usage_bytes": group.number("memory.current"),
        "container_memory_max_usage_bytes": group.number("memory.peak"),
        "container_memory_working_set_bytes": (group.number("memory.current") or 0) - memory["inactive_file"],
        "container_memory_rss": memory["anon"],
        "container_memory_cache": memory["file"],
        "container_memory_mapped_file": memory["file_mapped"],
        "container_memory_swap": group.number("memory.swap.current"),
        "container_memory_failcnt": events["max"],
        "container_oom_events_total": events["oom_kill"],
        "container_processes": len(group.all_processes()),
        "container_threads": group.number("pids.current"),
        "container_threads_max": group.number("pids.max") or 0,
    }


def test_metrics_are_what_the_kernels_files_say_and_what_is_described_is_given(node: Node, pod: str, worker: str) -> None:
    group = node.cgroup(pod, worker)
    with frozen(group):
        found, files = agreed(lambda: metrics(node, pod, worker), lambda: expected(group))
        # A kernel without swap has no file, and no metric.
        assert {name: found.get(name, {}).get(()) for name in files} == files
        faults, detail = found["container_memory_failures_total"], group.fields("memory.stat")
        assert faults == {("pgfault", "container"): detail["pgfault"], ("pgmajfault", "container"): detail["pgmajfault"]}
        devices = [line.split() for line in group.read("io.stat").splitlines() if "wbytes=" in line]
        written = {(name,): int(value.removeprefix("wbytes=")) for name, *rest in devices for value in rest if "wbytes=" in value}
        assert found.get("container_fs_writes_bytes_total", {}) == written
    described = {each.name for each in node.call(api.ListMetricDescriptorsRequest()).descriptors}
    of_links = {name for name in described if name.startswith("container_network_")}  # this pod has the guest's
    once_used = ("container_fs_reads", "container_fs_writes", "container_blkio", "container_hugetlb")
    where_there_is_some = {name for name in described if name.startswith(once_used)}
    assert described - of_links - where_there_is_some <= set(found) <= described


def test_who_was_killed_for_want_of_memory_is_counted(node: Node, pod: str) -> None:
    container = node.limited(pod, f"{HOG}; sleep 1000", memory_limit_in_bytes=20 * MIB, memory_swap_limit_in_bytes=20 * MIB)
    node.start(container)
    group = node.cgroup(pod, container)
    wait.until(lambda: group.fields("memory.events")["oom_kill"] == 1, 60, "a kill")
    assert metrics(node, pod, container)["container_oom_events_total"] == {(): 1}


def update(node: Node, container: str, **values: Any) -> None:
    node.call(api.UpdateContainerResourcesRequest(container_id=container, linux=api.LinuxContainerResources(**values)))


def refused(node: Node, container: str, **values: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        update(node, container, **values)
    return caught.value.code(), str(caught.value.details())


FILES = ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max", "memory.high")


def said(group: Cgroup) -> dict[str, str]:
    return {name: group.read(name).strip() for name in FILES if (group.path / name).exists()}


def test_an_update_holds_is_told_and_outlives_the_daemon(node: Node, daemon: Daemon, pod: str, worker: str) -> None:
    group = node.cgroup(pod, worker)
    before = said(group)
    assert before["memory.max"] == str(64 * MIB)
    update(node, worker, memory_limit_in_bytes=80 * MIB, cpu_shares=2048, unified={"pids.max": "77"})
    wanted = before | {"memory.max": str(80 * MIB), "cpu.weight": "174", "pids.max": "77"}  # what may be swapped stays
    assert said(group) == wanted
    update(node, worker, cpu_quota=20_000)
    assert said(group) == wanted | {"cpu.max": "20000 100000"}
    told = node.status(worker).resources.linux
    assert (told.memory_limit_in_bytes, told.memory_swap_limit_in_bytes) == (80 * MIB, 112 * MIB)
    assert (told.cpu_quota, told.cpu_period, told.cpu_shares, dict(told.unified)) == (20_000, 100_000, 2048, {"pids.max": "77"})
    daemon.kill()
    daemon.start()
    node.reconnect(daemon)
    assert node.status(worker).resources.linux == told
    assert said(group) == wanted | {"cpu.max": "20000 100000"}
    node.call.close()


def test_a_quota_that_comes_later_throttles(node: Node, pod: str) -> None:
    container = node.limited(pod, SPIN)
    node.start(container)
    group = node.cgroup(pod, container)
    assert group.fields("cpu.stat")["nr_throttled"] == 0
    update(node, container, cpu_quota=10_000, cpu_period=100_000)
    wait.until(lambda: group.fields("cpu.stat")["nr_throttled"] >= 5, 60, "it to be throttled")


def test_an_update_of_which_one_part_is_refused_changes_nothing(node: Node, pod: str, worker: str) -> None:
    group = node.cgroup(pod, worker)
    before, told = said(group), node.status(worker).resources
    code, message = refused(node, worker, memory_limit_in_bytes=90 * MIB, cpu_shares=2, unified={"memory.high": "nonsense"})
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "memory.high" in message
    assert said(group) == before
    assert node.status(worker).resources == told


def test_memory_cannot_shrink_below_what_is_used_and_nobody_is_killed_for_it(node: Node, pod: str) -> None:
    hold = "mkdir -p /dev/shm/x; dd if=/dev/zero of=/dev/shm/held bs=1M count=30 2>/dev/null; touch /dev/shm/full; sleep 1000"
    container = node.limited(pod, hold, memory_limit_in_bytes=100 * MIB)
    node.start(container)
    group = node.cgroup(pod, container)
    wait.until(lambda: (group.number("memory.current") or 0) > 30 * MIB, 60, "the memory to be used")
    code, message = refused(node, container, memory_limit_in_bytes=20 * MIB)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "bytes are used already" in message
    assert group.number("memory.max") == 100 * MIB
    update(node, container, memory_limit_in_bytes=60 * MIB)
    assert group.number("memory.max") == 60 * MIB
    assert group.fields("memory.events")["oom_kill"] == 0
    assert node.status(container).state == api.CONTAINER_RUNNING


def test_a_pods_own_cgroup_is_limited_as_a_whole(node: Node, pod: str) -> None:
    request = api.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=pod,
        resources=api.LinuxContainerResources(memory_limit_in_bytes=20 * MIB, cpu_quota=30_000, cpu_period=100_000),
        overhead=api.LinuxContainerResources(memory_limit_in_bytes=4 * MIB),
    )
    node.call(request)
    group = node.cgroup(pod)
    assert (group.number("memory.max"), group.read("cpu.max").split()) == (24 * MIB, ["30000", "100000"])
    container = node.limited(pod, f"exec {HOG}")  # without a limit of its own
    node.start(container)
    assert node.finish(container, 60) == 137
    assert group.fields("memory.events")["oom_kill"] == 1
