"""Everything at once: pods come and go in many hands while daemon and monitor are killed under them.

In rounds, each with a seed that it prints: ``KERNELET_CHAOS_SECONDS`` in all (15 minutes in ``make endurance``, 6 s
otherwise), beginning with ``KERNELET_CHAOS_SEED`` to see a round again that failed.  What a caller was told is so: what is
removed stays away, an exit code and every line of a log are kept.  After each round nothing is left but what outlives them.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from cri.api import api_pb2 as api
from runtime.monitor.adopt import find_reapers
from tests.e2e.conftest import Registry
from tests.e2e.kubelet import Kubelet, contents, kept, settled
from tests.e2e.storm import storm
from tests.support import leaks, wait
from tests.support.daemon import Daemon
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry", "id-mapping")

Answer = TypeVar("Answer")

SECONDS = float(os.environ.get("KERNELET_CHAOS_SECONDS", "6"))
SEED = int(os.environ.get("KERNELET_CHAOS_SEED", time.time_ns()))
ROUND_SECONDS = 15.0
HANDS = 6
#: How long a caller asks again; a daemon that does not come up is found earlier, by the storm.
PATIENCE_SECONDS = 60.0
#: What a caller sees of a daemon that goes away, or of a monitor.
TRY_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
IDS = [api.IDMapping(host_id=700_000, length=65536)]
USERS = api.UserNamespace(mode=api.POD, uids=IDS, gids=IDS)
#: A line, and what follows it when the container is told to end.
UNTIL_TOLD = "trap 'echo end; exit 5' TERM; echo up; while :; do sleep 0.02; done"


@pytest.mark.timeout(3 * SECONDS + 300)
def test_nothing_is_left_of_a_stormy_night(kubelet: Kubelet, daemon: Daemon, registry: Registry) -> None:
    keeper = kubelet.run(kubelet.run_pod(), "exec sleep 100000")
    begun = kubelet.status(keeper)
    ports = [api.PortMapping(container_port=80, host_port=20_000)]
    kubelet.remove_pod(kubelet.run_pod(kubelet.pod_config(port_mappings=ports)))  # what the first one makes for all stays
    before, had = leaks.take(), kept(daemon.paths)
    images = [registry.name(tag) for tag in ("zstd", "docker", "index")]
    rounds = max(1, round(SECONDS / ROUND_SECONDS))
    for seed in range(SEED, SEED + rounds):
        print("KERNELET_CHAOS_SEED", seed, flush=True)
        over = threading.Event()
        with ThreadPoolExecutor(HANDS) as hands:
            lives: list[Future[int]] = []
            for number in range(HANDS):
                hand = Hand(daemon, kubelet, random.Random(f"{seed} {number}"), number)
                lives.append(hands.submit(hand.live, over, images[number::HANDS]))
            try:
                print(*storm(daemon, random.Random(seed), SECONDS / rounds))
            finally:
                over.set()
            assert sum(life.result(2 * PATIENCE_SECONDS) for life in lives) >= HANDS
        kubelet.reconnect(daemon)
        assert [each.id for each in kubelet.call(api.ListContainersRequest()).containers] == [keeper]
        assert len(kubelet.call(api.ListPodSandboxRequest()).items) == 1
        now = kubelet.status(keeper)
        assert (now.state, now.started_at) == (api.CONTAINER_RUNNING, begun.started_at)
        assert kept(daemon.paths) == had
        settled(daemon, before)


class Hand:
    """One of many callers, with pods of its own; each request is made until it is answered."""

    def __init__(self, daemon: Daemon, example: Kubelet, chance: random.Random, number: int) -> None:
        self._daemon = daemon
        self._chance = chance
        self._port = 20_000 + number
        self._kubelet = Kubelet(daemon.client(), example.logs, example.image)

    def live(self, over: threading.Event, images: list[str]) -> int:
        """Pods from beginning to end, and *images* now and then, until it is *over*; how many."""
        done = 0
        lives = (self._works, self._is_told_to_end, self._is_torn_away)
        try:
            while not over.is_set():
                if images and self._chance.random() < 0.3:
                    self._pull(self._chance.choice(images))
                with self._pod() as (pod, config):
                    self._chance.choice(lives)(pod, config)
                done += 1
        finally:
            self._kubelet.call.close()
        return done

    def _insist(self, act: Callable[[], Answer]) -> Answer:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return act()
            except grpc.RpcError as error:
                assert error.code() in TRY_AGAIN, error
                assert time.monotonic() < deadline, error
                self._kubelet.call.close()
                self._kubelet.call = self._daemon.client()
                time.sleep(0.05)

    @contextmanager
    def _pod(self) -> Iterator[tuple[str, api.PodSandboxConfig]]:
        """A pod of one kind or another; at the end it is removed, stopped before or not."""
        config = self._kubelet.pod_config()
        options = config.linux.security_context.namespace_options
        options.pid = self._chance.choice([api.POD, api.CONTAINER])
        options.network = self._chance.choice([api.POD, api.NODE])
        if options.network == api.NODE:
            config.hostname = ""
        elif self._chance.random() < 0.5:
            config.port_mappings.append(api.PortMapping(container_port=80, host_port=self._port))
        if self._chance.random() < 0.3:
            options.userns_options.CopyFrom(USERS)
        pod = self._insist(lambda: self._kubelet.run_pod(config))
        assert self._insist(lambda: self._kubelet.pod_status(pod)).state == api.SANDBOX_READY
        yield pod, config
        if self._chance.random() < 0.5:
            self._insist(lambda: self._kubelet.stop_pod(pod))
            assert self._insist(lambda: self._kubelet.pod_status(pod)).state == api.SANDBOX_NOTREADY
        self._insist(lambda: self._kubelet.remove_pod(pod))
        assert pod not in [each.id for each in self._insist(lambda: self._kubelet.call(api.ListPodSandboxRequest())).items]

    def _container(self, pod: str, config: api.PodSandboxConfig, script: str, image: str = "") -> tuple[str, Path]:
        """A container that was started in the pod, and its log."""
        wish = self._kubelet.container_config(["sh", "-c", script])
        wish.image.image = image or self._kubelet.image
        wish.linux.security_context.namespace_options.CopyFrom(config.linux.security_context.namespace_options)
        container = self._insist(lambda: self._kubelet.create(pod, wish))
        self._insist(lambda: self._start(container))
        return container, self._kubelet.logs / config.metadata.name / wish.log_path

    def _start(self, container: str) -> None:
        """Start it, unless an earlier request, whose answer was lost, has."""
        if self._kubelet.status(container).state == api.CONTAINER_CREATED:
            try:
                self._kubelet.start(container)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                    raise

    def _code(self, container: str) -> int:
        return self._insist(lambda: self._kubelet.finish(container))

    def _works(self, pod: str, config: api.PodSandboxConfig) -> None:
        """A container that ends by itself: its code, and each line that it wrote."""
        container, log = self._container(pod, config, "seq 1 500; sleep 0.1; seq 501 1000; exit 7")
        assert (self._code(container), contents(log)) == (7, [str(number) for number in range(1, 1001)])

    def _is_told_to_end(self, pod: str, config: api.PodSandboxConfig) -> None:
        """A container that is looked into, stopped and removed."""
        container, log = self._container(pod, config, UNTIL_TOLD)
        self._is_up(log)
        for number in range(self._chance.randrange(3)):
            answer = self._insist(lambda: self._kubelet.execute(container, "sh", "-c", f"echo {number}; exit {number}"))  # noqa: B023
            assert (answer.stdout, answer.exit_code) == (f"{number}\n".encode(), number)
        self._insist(lambda: self._kubelet.stop(container, 20))
        assert (self._code(container), contents(log)) == (5, ["up", "end"])
        self._insist(lambda: self._kubelet.remove(container))
        listed = self._insist(lambda: self._kubelet.call(api.ListContainersRequest())).containers
        assert container not in [each.id for each in listed]

    def _is_torn_away(self, pod: str, config: api.PodSandboxConfig) -> None:
        """Somebody kills a reaper: of a container, which is ended then, or of the pod's own first process."""
        container, log = self._container(pod, config, UNTIL_TOLD)
        self._is_up(log)
        owner = pod if config.linux.security_context.namespace_options.pid == api.POD else container
        reaper = find_reapers(self._daemon.paths.run_dir)[self._daemon.paths.run_container(owner)]
        os.kill(reaper.pid, signal.SIGKILL)
        reaper.pidfd.close()
        if owner == container:
            assert self._code(container) == 255
        else:
            self._insist(lambda: wait.until(lambda: self._kubelet.pod_status(pod).state == api.SANDBOX_NOTREADY, 20, "its end"))
            assert self._code(container) in (137, 255)

    def _is_up(self, log: Path) -> None:
        wait.until(lambda: log.exists() and contents(log) == ["up"], PATIENCE_SECONDS, "the container to be up")

    def _pull(self, name: str) -> None:
        """An image that comes and goes, before the container that was made of it or after."""
        named = api.ImageSpec(image=name)

        def is_here() -> bool:
            return bool(self._insist(lambda: self._kubelet.call(api.ImageStatusRequest(image=named))).HasField("image"))

        self._insist(lambda: self._kubelet.pull(name))
        assert is_here()
        goes_first = self._chance.random() < 0.5
        with self._pod() as (pod, config):
            container, _ = self._container(pod, config, "cat /marker; sleep 0.1; cat /marker", name)
            if goes_first:
                self._insist(lambda: self._kubelet.call(api.RemoveImageRequest(image=named)))
                assert not is_here()
            assert self._code(container) == 0
        if not goes_first:
            self._insist(lambda: self._kubelet.call(api.RemoveImageRequest(image=named)))
            assert not is_here()
