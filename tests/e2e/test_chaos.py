"""Everything at once: pods come and go in many hands while daemon and monitor are killed under them."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc

from cri.api import api_pb2 as api
from tests.e2e.conftest import Registry
from tests.e2e.kubelet import Kubelet, contents, kept, settled
from tests.support import leaks
from tests.support.daemon import Daemon
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry")

SECONDS = float(os.environ.get("KERNELET_CHAOS_SECONDS", "6"))
HANDS = 6


def test_nothing_is_left_of_a_stormy_night(kubelet: Kubelet, daemon: Daemon, registry: Registry) -> None:
    warm = kubelet.run_pod()
    kubelet.remove_pod(warm)
    before, had = leaks.take(), kept(daemon.paths)
    seed = time.time_ns()
    print("seed", seed)
    over = threading.Event()
    with ThreadPoolExecutor(HANDS) as hands:
        lives = [hands.submit(live, daemon, kubelet, random.Random(seed + number), over) for number in range(HANDS)]
        storm(daemon, random.Random(seed), over)
        done = sum(life.result(60) for life in lives)
    assert done > HANDS
    kubelet.reconnect(daemon)
    for pod in kubelet.call(api.ListPodSandboxRequest()).items:
        kubelet.remove_pod(pod.id)
    assert not kubelet.call(api.ListContainersRequest()).containers
    assert kept(daemon.paths) == had
    settled(daemon, before)


def storm(daemon: Daemon, chance: random.Random, over: threading.Event) -> None:
    """Kill one or the other for SECONDS; in the end both are there."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(chance.uniform(0, 0.5))
        match chance.randrange(3):
            case 0:
                daemon.kill()
                daemon.start()
            case 1:
                with suppress(AssertionError, ProcessLookupError):
                    os.kill(daemon.monitor_pid(), signal.SIGKILL)
            case 2:
                daemon.kill()
                with suppress(AssertionError, ProcessLookupError):
                    os.kill(daemon.monitor_pid(), signal.SIGKILL)
                time.sleep(chance.uniform(0, 0.1))
                daemon.start()
    over.set()


def live(daemon: Daemon, example: Kubelet, chance: random.Random, over: threading.Event) -> int:
    """Pods from beginning to end, each request until it is answered; how many."""
    kubelet = Kubelet(daemon.client(), example.logs, example.image)
    done = 0

    def insist(act: Callable[[], object]) -> object:
        deadline = time.monotonic() + 40
        while True:
            try:
                return act()
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                assert time.monotonic() < deadline, error
                kubelet.call.close()
                kubelet.call = daemon.client()
                time.sleep(0.05)

    try:
        while not over.is_set():
            shared = chance.choice([api.POD, api.CONTAINER])
            config = kubelet.pod_config(pid=shared)
            pod = str(insist(lambda: kubelet.run_pod(config)))  # noqa: B023
            wish = kubelet.container_config(["sh", "-c", "seq 1 500; sleep 0.1; seq 501 1000; exit 7"], pid=shared)
            container = str(insist(lambda: kubelet.create(pod, wish)))  # noqa: B023
            insist(lambda: started(kubelet, container))  # noqa: B023
            code = insist(lambda: kubelet.finish(container))  # noqa: B023
            log = kubelet.logs / config.metadata.name / wish.log_path
            assert (code, contents(log)) == (7, [str(number) for number in range(1, 1001)])
            if chance.random() < 0.5:
                insist(lambda: kubelet.stop_pod(pod))  # noqa: B023
            insist(lambda: kubelet.remove_pod(pod))  # noqa: B023
            done += 1
    finally:
        kubelet.call.close()
    return done


def started(kubelet: Kubelet, container: str) -> None:
    """Start it, unless an earlier request, whose answer was lost, has."""
    if kubelet.status(container).state == api.CONTAINER_CREATED:
        try:
            kubelet.start(container)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                raise
