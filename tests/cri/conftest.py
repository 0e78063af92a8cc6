"""A daemon over a node in memory, and a client of it, for the tests of the RPCs."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from cri.client import Client
from cri.config import Config
from cri.daemon import serving
from tests.cri.fake import NAME, FakeNode, FakePull


@dataclass
class Daemon:
    node: FakeNode
    pull: FakePull
    socket: Path
    client: Client
    #: Tells the server to stop; returns at once.
    stop: Callable[[], None]

    def pod(self, name: str = "web", **fields: object) -> str:
        """A sandbox's id, made through the RPC."""
        metadata = api.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}")
        config = api.PodSandboxConfig(metadata=metadata, **fields)
        return self.client.call(api.RunPodSandboxRequest(config=config), api.RunPodSandboxResponse).pod_sandbox_id

    def container(self, pod: str, name: str = "c", **fields: object) -> str:
        """A created container's id, made through the RPC."""
        values = {"image": api.ImageSpec(image=NAME)} | fields
        config = api.ContainerConfig(metadata=api.ContainerMetadata(name=name), **values)
        request = api.CreateContainerRequest(pod_sandbox_id=pod, config=config)
        return self.client.call(request, api.CreateContainerResponse).container_id

    def running(self, name: str = "c", **fields: object) -> str:
        container_id = self.container(self.pod(f"pod-of-{name}"), name, **fields)
        self.client.call(api.StartContainerRequest(container_id=container_id), api.StartContainerResponse)
        return container_id

    def refused(self, call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
        """Code and message with which *call* fails."""
        with pytest.raises(grpc.RpcError) as caught:
            call()
        return caught.value.code(), caught.value.details()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    # A socket's path has 107 bytes at most; tmp_path may be longer.
    directory = Path(tempfile.mkdtemp(prefix="kl-"))
    node = FakeNode()
    pull = FakePull(node.images)
    config = Config(root_dir=directory, run_dir=directory, socket=directory / "s")
    started, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(config, node, pull):
            started.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="daemon")
    thread.start()
    assert started.wait(10)
    try:
        with Client(config.socket) as client:
            yield Daemon(node, pull, config.socket, client, done.set)
    finally:
        done.set()
        thread.join()
        shutil.rmtree(directory)
