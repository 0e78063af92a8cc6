"""A kubelet whose patience ends asks again: it gets what the first call made, and nothing is made twice."""

from __future__ import annotations

import time

import grpc
import pytest

from cri.api import api_pb2 as api
from tests.e2e.kubelet import Kubelet
from tests.support.client import Client
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry")

#: Shorter than anything takes, so that the deadline passes while the call is worked on.
IMPATIENT = 0.002


def given_up(call: Client, request: object) -> bool:
    """Whether the deadline of *request* passed before it was answered."""
    try:
        call(request, deadline_seconds=IMPATIENT)  # type: ignore[arg-type]
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error  # type: ignore[attr-defined]
        return True
    return False


def test_what_was_made_after_the_deadline_is_handed_to_the_retry(kubelet: Kubelet) -> None:
    pod_config = kubelet.pod_config()
    request = api.RunPodSandboxRequest(config=pod_config)
    assert sum(given_up(kubelet.call, request) for _ in range(3)) > 0
    pod = kubelet.run_pod(pod_config)
    assert kubelet.run_pod(pod_config) == pod
    config = kubelet.container_config(["sleep", "100"])
    wish = api.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=pod_config)
    assert sum(given_up(kubelet.call, wish) for _ in range(3)) > 0
    container = kubelet.create(pod, config, pod_config)
    assert kubelet.create(pod, config, pod_config) == container
    assert [item.id for item in kubelet.call(api.ListPodSandboxRequest()).items] == [pod]
    assert [item.id for item in kubelet.call(api.ListContainersRequest()).containers] == [container]
    kubelet.start(container)


def test_a_name_that_is_taken_says_by_whom_and_what_to_do(kubelet: Kubelet) -> None:
    config = kubelet.pod_config()
    pod = kubelet.run_pod(config)
    config.labels["other"] = "label"
    with pytest.raises(grpc.RpcError, match=rf"attempt 0 exists as {pod[:13]} and is ready; remove it or use another attempt"):
        kubelet.run_pod(config)


def test_a_pod_that_is_stopped_already_is_stopped_in_no_time(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod()
    kubelet.run(pod, "sleep 100")
    kubelet.call(api.StopPodSandboxRequest(pod_sandbox_id=pod))
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        kubelet.call(api.StopPodSandboxRequest(pod_sandbox_id=pod))
        times.append(time.perf_counter() - begin)
    median = sorted(times)[25]
    print(f"StopPodSandbox of a stopped pod: {median * 1e3:.2f} ms (median of 50)")
    assert median < 0.05
