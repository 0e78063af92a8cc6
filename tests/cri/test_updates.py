"""Updates over the socket: laid over what holds, told in the status, refused as a whole."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from cri import resources
from cri.api import api_pb2 as api
from runtime.errors import ControllerMissing, InvalidArgument
from runtime.spec import schema
from tests.cri.conftest import Daemon

GIB = 1 << 30
HOLDS = api.LinuxContainerResources(
    cpu_period=100_000,
    cpu_quota=20_000,
    cpu_shares=1024,
    memory_limit_in_bytes=GIB,
    memory_swap_limit_in_bytes=GIB,
    oom_score_adj=900,
    hugepage_limits=[api.HugepageLimit(page_size="2MB", limit=0), api.HugepageLimit(page_size="1GB", limit=0)],
    unified={"memory.oom.group": "1", "memory.low": "5"},
)


def update(daemon: Daemon, container: str, **values: Any) -> None:
    request = api.UpdateContainerResourcesRequest(container_id=container, linux=api.LinuxContainerResources(**values))
    daemon.client.call(request, api.UpdateContainerResourcesResponse)


def status(daemon: Daemon, container: str, *, verbose: bool = False) -> api.ContainerStatusResponse:
    return daemon.client.call(api.ContainerStatusRequest(container_id=container, verbose=verbose), api.ContainerStatusResponse)


@pytest.mark.parametrize(
    ("asked", "changed"),
    [
        ({}, {}),
        ({"cpuset_cpus": "1"}, {"cpuset_cpus": "1"}),
        ({"cpu_quota": -1}, {"cpu_quota": -1}),
        ({"cpu_shares": 2, "oom_score_adj": 5}, {"cpu_shares": 2, "oom_score_adj": 5}),
        ({"memory_limit_in_bytes": 2 * GIB}, {"memory_limit_in_bytes": 2 * GIB, "memory_swap_limit_in_bytes": 2 * GIB}),
        ({"memory_limit_in_bytes": GIB // 2}, {"memory_limit_in_bytes": GIB // 2, "memory_swap_limit_in_bytes": GIB // 2}),
        ({"memory_swap_limit_in_bytes": 3 * GIB}, {"memory_swap_limit_in_bytes": 3 * GIB}),
        ({"unified": {"memory.low": "7"}}, {"unified": {"memory.oom.group": "1", "memory.low": "7"}}),
    ],
)
def test_what_is_zero_or_empty_stays_as_it_is(asked: dict[str, Any], changed: dict[str, Any]) -> None:
    wanted = api.LinuxContainerResources()
    wanted.CopyFrom(HOLDS)
    for name in changed:
        wanted.ClearField(name)  # type: ignore[arg-type]
    wanted.MergeFrom(api.LinuxContainerResources(**changed))
    assert resources.merged(HOLDS, api.LinuxContainerResources(**asked)) == wanted


@pytest.mark.parametrize(
    ("limit", "both", "asked", "swap"),
    [
        (GIB, GIB, 2 * GIB, 0),
        (GIB, 3 * GIB, 2 * GIB, 2 * GIB),
        (GIB, -1, 2 * GIB, -1),
        (GIB, 0, 2 * GIB, 0),  # without a word about it there is none
        (0, 0, GIB, 0),
        (-1, -1, GIB, -1),
    ],
)
def test_what_may_be_swapped_stays_when_memory_is_changed(limit: int, both: int, asked: int, swap: int) -> None:
    holds = api.LinuxContainerResources(memory_limit_in_bytes=limit, memory_swap_limit_in_bytes=both)
    after = resources.resources(resources.merged(holds, api.LinuxContainerResources(memory_limit_in_bytes=asked))).memory
    assert after is not None
    assert after.limit == asked
    assert after.swap is not None
    assert (after.swap if after.swap < 0 else after.swap - asked) == swap


def test_of_one_page_size_the_last_word_counts() -> None:
    asked = api.LinuxContainerResources(hugepage_limits=[api.HugepageLimit(page_size="2MB", limit=7)])
    assert {each.page_size: each.limit for each in resources.merged(HOLDS, asked).hugepage_limits} == {"2MB": 7, "1GB": 0}


def test_the_status_tells_what_holds(daemon: Daemon) -> None:
    container = daemon.running(linux=api.LinuxContainerConfig(resources=HOLDS))
    assert status(daemon, container).status.resources.linux == HOLDS
    update(daemon, container, memory_limit_in_bytes=2 * GIB)
    update(daemon, container, cpuset_cpus="0-1")
    wanted = api.LinuxContainerResources()
    wanted.CopyFrom(HOLDS)
    wanted.memory_limit_in_bytes = wanted.memory_swap_limit_in_bytes = 2 * GIB
    wanted.cpuset_cpus = "0-1"
    found = status(daemon, container, verbose=True)
    assert found.status.resources.linux == wanted
    spec = json.loads(found.info["info"])["runtimeSpec"]
    assert (spec["linux"]["resources"]["memory"]["limit"], spec["linux"]["resources"]["cpu"]["cpus"]) == (2 * GIB, "0-1")
    record = daemon.node.find_container(container)
    assert record.resources is not None
    assert record.resources.memory == schema.Memory(limit=2 * GIB, swap=2 * GIB)


def test_nothing_is_changed_when_something_cannot_be(daemon: Daemon) -> None:
    container = daemon.running(linux=api.LinuxContainerConfig(resources=HOLDS))
    for values in (
        {"oom_score_adj": 1001},
        {"cpu_shares": -1},
        {"memory_limit_in_bytes": 2 * GIB, "memory_swap_limit_in_bytes": GIB},
    ):
        code, _ = daemon.refused(lambda values=values: update(daemon, container, **values))
        assert code == grpc.StatusCode.INVALID_ARGUMENT

    def refuse(name: str) -> None:
        if name == "update_container":
            raise ControllerMissing("linux.resources.cpu.cpus: no such controller")

    daemon.node.gate = refuse
    code, _ = daemon.refused(lambda: update(daemon, container, cpuset_cpus="0"))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert status(daemon, container).status.resources.linux == HOLDS


def test_the_score_is_handed_on_when_it_is_given(daemon: Daemon) -> None:
    container = daemon.running()
    update(daemon, container, oom_score_adj=-5)
    update(daemon, container, cpu_shares=7)
    assert [call for call in daemon.node.calls if call[0] == "update_container"] == [
        ("update_container", container, -5),
        ("update_container", container, None),
    ]


def test_a_pod_takes_what_its_containers_take_and_what_running_them_takes(daemon: Daemon) -> None:
    pod = daemon.pod()
    request = api.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=pod,
        resources=api.LinuxContainerResources(cpu_shares=100, cpu_quota=50_000, cpu_period=100_000, memory_limit_in_bytes=GIB),
        overhead=api.LinuxContainerResources(cpu_shares=20, cpu_quota=1000, cpu_period=10_000, memory_limit_in_bytes=1 << 20),
    )
    daemon.client.call(request, api.UpdatePodSandboxResourcesResponse)
    record = daemon.node.find_sandbox(pod)
    assert record.resources is not None
    assert record.resources.cpu == schema.Cpu(shares=120, quota=60_000, period=100_000)
    assert record.resources.memory is not None
    assert record.resources.memory.limit == GIB + (1 << 20)
    verbose = api.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
    info = json.loads(daemon.client.call(verbose, api.PodSandboxStatusResponse).info["info"])
    assert info["resources"]["cpu"]["shares"] == 120


def test_what_the_containers_have_no_limit_of_the_pod_has_none_of() -> None:
    limited = api.LinuxContainerResources(cpu_quota=5, memory_limit_in_bytes=7, cpu_shares=3)
    assert resources.added(api.LinuxContainerResources(cpu_shares=1), limited) == api.LinuxContainerResources(cpu_shares=4)
    assert resources.added(limited, api.LinuxContainerResources()) == limited


def test_a_score_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="oom_score_adj -1001 is not between -1000 and 1000"):
        resources.oom_score(api.LinuxContainerResources(oom_score_adj=-1001))
