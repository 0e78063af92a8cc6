"""Requests that nobody should send: never a crash, never a hang, an error that fits, and nothing left behind.

KERNELET_MALFORMED=10000 makes it long; KERNELET_MALFORMED_FROM is the number of the first request, to see one again.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.cri.malformed import Author, Scene
from tests.e2e.kubelet import Kubelet, kept
from tests.support import cgroup, image
from tests.support.client import Client
from tests.support.daemon import Daemon
from tests.support.isolation import Run
from tests.support.registry import free_port
from tests.support.requires import requires

pytestmark = [requires("root", "cgroup2", "busybox"), pytest.mark.timeout(7200)]

#: Then it is no use to go on.
WRONG_AT_MOST = 30
COUNT = int(os.environ.get("KERNELET_MALFORMED", "300"))
FIRST = int(os.environ.get("KERNELET_MALFORMED_FROM", "1"))
#: A call that takes longer hangs; these may be asked to wait for as long as the request says.
DEADLINE_SECONDS, MAY_WAIT = 20.0, ("StopContainer", "ExecSync", "GetContainerEvents", "PullImage")
PATIENCE_SECONDS = 0.5
#: A kubelet reads these texts, and wants UNKNOWN with them (cri/errors.py); the program was not executed, the image not had.
MAY_BE_UNKNOWN = ("PullImage", "StartContainer", "CreateContainer", "ExecSync", "RunPodSandbox")


@pytest.fixture
def daemon(paths: Paths, run: Run) -> Iterator[Daemon]:
    store = Store(paths.database)
    image.store_busybox(ImageStore(paths, store, Journal(store)))
    store.close()
    daemon = Daemon(paths, run, registry=f"127.0.0.1:{free_port()}")
    daemon.start()
    yield daemon
    if daemon.is_running:
        assert daemon.stop() == 0, daemon.log.read_text()[-3000:]


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Path]:
    arena = tmp_path / "arena"
    (arena / "directory").mkdir(parents=True)
    (arena / "file").write_text("content")
    (arena / "link").symlink_to("/etc")
    (arena / "loop").symlink_to("loop")
    os.mkfifo(arena / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(arena / "socket"))
    yield arena
    assert stat.S_ISFIFO((arena / "fifo").stat().st_mode) and (arena / "file").read_text() == "content"
    shutil.rmtree(arena)


class Campaign:
    """Sends requests to a daemon with one pod and one container in it, and judges the answers."""

    def __init__(self, daemon: Daemon, call: Client, arena: Path) -> None:
        self.daemon, self.arena = daemon, arena
        self.kubelet = Kubelet(call, arena / "logs", "busybox")
        self.channel = grpc.insecure_channel(f"unix:{daemon.paths.socket}", [("grpc.max_receive_message_length", 16 << 20)])
        self.answers: Counter[str] = Counter()
        self.restore()

    def restore(self) -> None:
        """One pod that is ready, one container that runs, and nothing else."""
        for pod in self.kubelet.call(api.ListPodSandboxRequest()).items:
            self.kubelet.remove_pod(pod.id)
        pod_id = self.kubelet.run_pod()
        self.scene = Scene(self.arena, pod_id, self.kubelet.run(pod_id, "trap 'exit 0' TERM; while :; do sleep 0.1; done"))

    def faults(self, numbers: Iterable[int]) -> Iterator[str]:
        """Send the requests of these *numbers*; what is wrong with the answers."""
        for number in numbers:
            try:
                self._send(number)
            except AssertionError as error:
                yield str(error).splitlines()[0]

    def _send(self, number: int) -> None:
        """AssertionError when the answer does not fit."""
        method, content = Author(number, self.scene).request()
        code, message = self._ask(method, content)
        self.answers[code.name] += 1
        said = f"request {number}, {method.name}: {code.name}: {message[:500]}"
        assert code is not grpc.StatusCode.INTERNAL, said
        if code is grpc.StatusCode.UNKNOWN:
            assert method.name in MAY_BE_UNKNOWN, said
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            assert method.name in MAY_WAIT, f"{said}: it hangs"
        if code is not grpc.StatusCode.OK:
            assert message.strip() and "Traceback" not in message and "object at 0x" not in message, said
        if not self._is_as_it_was():
            self.restore()

    def _is_as_it_was(self) -> bool:
        pods = [(pod.id, pod.state) for pod in self.kubelet.call(api.ListPodSandboxRequest()).items]
        containers = [(each.id, each.state) for each in self.kubelet.call(api.ListContainersRequest()).containers]
        return pods == [(self.scene.pod, api.SANDBOX_READY)] and containers == [(self.scene.container, api.CONTAINER_RUNNING)]

    def _ask(self, method: Any, content: bytes) -> tuple[grpc.StatusCode, str]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        seconds = PATIENCE_SECONDS if method.name in MAY_WAIT else DEADLINE_SECONDS
        try:
            if method.server_streaming:
                for _ in self.channel.unary_stream(path)(content, timeout=seconds):
                    pass
            else:
                self.channel.unary_unary(path)(content, timeout=seconds)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""  # type: ignore[attr-defined]
        return grpc.StatusCode.OK, ""

    def close(self) -> None:
        for pod in self.kubelet.call(api.ListPodSandboxRequest()).items:
            self.kubelet.remove_pod(pod.id)
        self.channel.close()


def test_no_request_does_harm(daemon: Daemon, arena: Path) -> None:
    with daemon.client() as call:
        call.wait_until_ready()
        campaign = Campaign(daemon, call, arena)
        pid = daemon.pid
        campaign.close()
        had = kept(daemon.paths)
        campaign = Campaign(daemon, call, arena)
        try:
            held = len(os.listdir(f"/proc/{pid}/fd"))
            wrong = list(islice(campaign.faults(range(FIRST, FIRST + COUNT)), WRONG_AT_MOST))
            assert not wrong, "\n".join(wrong)
            assert len(os.listdir(f"/proc/{pid}/fd")) < held + 100
        finally:
            campaign.close()
        assert kept(daemon.paths) == had
        cgroup.remove(cgroup.ROOT / "fuzz")  # a parent that a request names is for who names it to remove
        # What the kernel holds is looked at once the daemon has stopped, as after every test.
        assert daemon.stop() == 0
    log = daemon.log.read_text()
    assert "Traceback" not in log, re.findall(r"Traceback.*?\n(?=\S*time=|\Z)", log, re.DOTALL)[0][:3000]
    print(f"\n{COUNT} requests: {dict(campaign.answers.most_common())}")
