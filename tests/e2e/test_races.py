"""Requests that meet: each gets an answer, and what is left is what one of the orders would have left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest

from cri.api import api_pb2 as api
from tests.e2e.kubelet import Kubelet, kept
from tests.support import leaks, wait
from tests.support.client import Client
from tests.support.daemon import Daemon
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry")

OK, PRECONDITION = grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def code(act: Callable[[], object]) -> grpc.StatusCode:
    """The status with which *act*, an RPC, ends."""
    try:
        act()
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return OK


def codes(threads: ThreadPoolExecutor, *acts: Callable[[], object]) -> list[grpc.StatusCode]:
    """The statuses of *acts*, all begun at once."""
    return list(threads.map(code, acts))


def test_a_retry_joins_the_call_that_is_under_way(kubelet: Kubelet, threads: ThreadPoolExecutor) -> None:
    config = kubelet.pod_config(pid=api.POD)
    pods = set(threads.map(lambda _: kubelet.run_pod(config), range(8)))
    assert len(pods) == 1
    wish = kubelet.container_config(["true"], pid=api.POD)
    assert len(set(threads.map(lambda _: kubelet.create(*pods, wish), range(8)))) == 1


def test_of_two_starts_one_succeeds_and_none_waits(kubelet: Kubelet, threads: ThreadPoolExecutor) -> None:
    pod = kubelet.run_pod()
    for _ in range(10):
        container = kubelet.create(pod, kubelet.container_config(["echo", "once"]))
        found = codes(threads, *[lambda: kubelet.start(container)] * 4)  # noqa: B023 - they are over before the next round
        assert sorted(found, key=str) == [PRECONDITION] * 3 + [OK]
        assert kubelet.finish(container) == 0
        assert kubelet.lines(container) == ["once"]


def test_the_exit_code_of_a_failed_start_is_an_exit_code_like_others(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod()
    for _ in range(20):
        assert kubelet.finish(kubelet.run(pod, "exit 111")) == 111


def test_start_stop_and_remove_at_once(kubelet: Kubelet, call: Client, threads: ThreadPoolExecutor) -> None:
    pod = kubelet.run_pod()
    for _ in range(10):
        container = kubelet.create(pod, kubelet.container_config(["sleep", "100"]))
        acts = (kubelet.start, kubelet.stop, kubelet.remove, kubelet.remove)
        found = codes(threads, *[lambda act=act: act(container) for act in acts])  # type: ignore[misc]  # noqa: B023
        assert found[1:] == [OK] * 3
        assert found[0] in (OK, PRECONDITION, grpc.StatusCode.NOT_FOUND)
        assert not call(api.ListContainersRequest()).containers


def test_a_removed_pod_does_not_come_back(kubelet: Kubelet, call: Client, threads: ThreadPoolExecutor) -> None:
    for number in range(6):
        pod = kubelet.run_pod(kubelet.pod_config(pid=api.POD if number % 2 else api.CONTAINER))
        for _ in range(2):
            kubelet.run(pod, "exec sleep 100", pid=api.POD if number % 2 else api.CONTAINER)
        acts = [kubelet.stop_pod, kubelet.remove_pod, kubelet.stop_pod, kubelet.remove_pod] * 2
        assert codes(threads, *[lambda act=act: act(pod) for act in acts]) == [OK] * 8  # type: ignore[misc]  # noqa: B023
        assert not call(api.ListPodSandboxRequest()).items
        assert not call(api.ListContainersRequest()).containers


def test_what_is_made_while_its_pod_is_stopped_does_not_stay(kubelet: Kubelet, call: Client, threads: ThreadPoolExecutor) -> None:
    for delay_ms in range(0, 30, 3):
        pod = kubelet.run_pod()
        wish = kubelet.container_config(["sleep", "100"])
        asked = threads.submit(code, lambda: kubelet.create(pod, wish))  # noqa: B023
        time.sleep(delay_ms / 1000)
        kubelet.stop_pod(pod)
        assert asked.result(30) in (OK, PRECONDITION)
        assert {each.state for each in call(api.ListContainersRequest()).containers} <= {api.CONTAINER_EXITED}
        kubelet.remove_pod(pod)
        assert not call(api.ListContainersRequest()).containers


def test_execs_while_the_container_ends(kubelet: Kubelet, daemon: Daemon, threads: ThreadPoolExecutor) -> None:
    pod = kubelet.run_pod()
    before = leaks.processes()
    for delay_ms in range(0, 30, 3):
        container = kubelet.run(pod, "exec sleep 100")
        asked = [threads.submit(code, lambda: kubelet.execute(container, "sleep", "50")) for _ in range(8)]  # noqa: B023
        time.sleep(delay_ms / 1000)
        kubelet.remove(container)
        for each in asked:
            assert each.result(20) in (OK, PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNKNOWN)
        assert not daemon.paths.run_container(container).exists()
    wait.until(lambda: leaks.processes() <= before)


def test_who_goes_on_writing_after_the_end_stalls_nobody(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod(kubelet.pod_config(pid=api.POD))
    loud = kubelet.run(pod, "exec sleep 1000", pid=api.POD)
    assert kubelet.execute(loud, "sh", "-c", "yes & echo $!").exit_code == 0
    leaving = kubelet.run(pod, "yes & exit 3", pid=api.POD)
    assert kubelet.finish(leaving) == 3
    assert kubelet.execute(loud, "echo", "here").stdout == b"here\n"


def test_sixty_four_slow_probes_do_not_keep_a_pod_from_starting(kubelet: Kubelet) -> None:
    container = kubelet.run(kubelet.run_pod(), "exec sleep 1000")
    with ThreadPoolExecutor(80) as pool:
        probes = [pool.submit(code, lambda: kubelet.execute(container, "sleep", "100", timeout=4)) for _ in range(80)]
        begun = time.monotonic()
        pod = kubelet.run_pod()
        assert kubelet.finish(kubelet.run(pod, "exit 2")) == 2
        kubelet.remove_pod(pod)
        assert time.monotonic() - begun < 3.5
        assert {probe.result(30) for probe in probes} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert kubelet.execute(container, "true").exit_code == 0


def test_a_caller_that_goes_away_finds_what_it_asked_for(kubelet: Kubelet, call: Client) -> None:
    config = kubelet.pod_config()
    for deadline in (0.001, 0.004, 0.008):
        with suppress(grpc.RpcError):
            call(api.RunPodSandboxRequest(config=config), deadline_seconds=deadline)
    pod = kubelet.run_pod(config)
    assert [each.id for each in call(api.ListPodSandboxRequest()).items] == [pod]


def test_a_cancelled_pull_leaves_nothing_and_brings_nothing_later(daemon: Daemon, call: Client, kubelet: Kubelet) -> None:
    name = kubelet.image.replace(":gzip", ":docker")
    had = kept(daemon.paths)
    for deadline in (0.001, 0.005, 0.01, 0.02):
        pulling = api.PullImageRequest(image=api.ImageSpec(image=name))
        assert code(lambda: call(pulling, deadline_seconds=deadline)) == grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: B023
        wait.until(lambda: kept(daemon.paths) == had)
    time.sleep(0.3)  # were one still under way it would be done by now
    assert kept(daemon.paths) == had
    assert not call(api.ImageStatusRequest(image=api.ImageSpec(image=name))).HasField("image")
