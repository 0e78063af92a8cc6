"""A real daemon, a real registry that has busybox in several forms, and a kubelet's hand on both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Package, Packer, pack_index
from runtime.image.push import push
from runtime.image.registry import Registry as RegistryClient
from runtime.paths import Paths
from tests.e2e.kubelet import Kubelet, kept
from tests.support.client import Client
from tests.support.daemon import Daemon
from tests.support.image import PATH, busybox_layer
from tests.support.isolation import Run
from tests.support.registry import docker_registry
from tests.support.requires import enforce


@dataclass(frozen=True)
class Registry:
    """Where the images are, and the digests that their tags mean: "gzip", "zstd", "docker", "index"."""

    address: str
    digests: dict[str, str]

    def name(self, tag: str) -> str:
        return f"{self.address}/library/busybox:{tag}"

    def exact(self, tag: str) -> str:
        return f"{self.address}/library/busybox@{self.digests[tag]}"


def packages() -> Iterator[tuple[str, Package]]:
    """busybox by tag; no two share a layer, so that none is here because another was pulled."""
    for tag in ("gzip", "zstd", "docker"):
        yield tag, busybox(tag)
    yield "index", pack_index([busybox("foreign", architecture="riscv64"), busybox("native")])


def busybox(marker: str, *, architecture: str | None = None) -> Package:
    """Two layers: busybox with a file that is *marker*'s own, and a small one on top."""
    packer = Packer(docker=marker == "docker", architecture=architecture)
    packer.env, packer.cmd = (PATH,), ("sh",)
    below, above = busybox_layer("zstd" if marker == "zstd" else "gzip"), LayerWriter()
    for layer in (below, above):
        layer.file("marker", marker.encode())
        packer.add_layer(layer)
    return packer.pack()


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    enforce(("docker-registry", "busybox"))
    client = RegistryClient()
    with docker_registry() as address:
        found = Registry(address, {})
        for tag, package in packages():
            found.digests[tag] = push(client, package, found.name(tag))
        yield found


@pytest.fixture
def daemon(paths: Paths, run: Run) -> Iterator[Daemon]:
    """A daemon that answers.  After the test it runs again, gives everything back, and is stopped."""
    enforce(("root", "cgroup2"))
    daemon = Daemon(paths, run)
    daemon.start()
    yield daemon
    if not daemon.is_running:
        daemon.start()
    with daemon.client() as call:
        Kubelet(call, paths.run_dir, "").clear()
    left = kept(paths)
    assert daemon.stop() == 0, daemon.log.read_text()[-3000:]
    assert {place: names for place, names in left.items() if names} == {}
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def call(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as client:
        client.wait_until_ready()
        yield client


@pytest.fixture
def kubelet(call: Client, registry: Registry, tmp_path: Path) -> Iterator[Kubelet]:
    """With busybox on the node."""
    kubelet = Kubelet(call, tmp_path / "logs", registry.name("gzip"))
    kubelet.pull()
    yield kubelet
    kubelet.call.close()
