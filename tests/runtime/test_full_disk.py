"""A disk without any room: what runs is seen to end, can be taken down and gives room again; a daemon comes up on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kernel import mount
from runtime import lock
from runtime.container.state import ContainerState
from runtime.node import Node
from runtime.paths import Paths
from tests.support import wait, wishes
from tests.support.image import store_busybox
from tests.support.isolation import Run
from tests.support.requires import requires

EXITS = "trap 'exit 3' TERM; while :; do sleep 0.01; done"

pytestmark = requires("root", "cgroup2", "busybox")


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[None]:
    """A file system of that size at *place*."""
    with mount.new_filesystem("tmpfs", [("size", str(size_bytes))]) as disk:
        mount.attach(disk, place)
    try:
        yield
    finally:
        mount.unmount(place)


def fill(place: Path) -> None:
    """Leave no room at all at *place*."""
    with open(place / "ballast", "ab", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))


@pytest.fixture
def disks(paths: Paths) -> Iterator[None]:
    """Small ones for what the node keeps and for what it does not."""
    with small_disk(paths.root_dir, 40 << 20), small_disk(paths.run_dir, 4 << 20):
        yield


@pytest.fixture
def start(disks: None, paths: Paths, run: Run) -> Iterator[Callable[[], Node]]:
    """Starts a node, in the place of the one before, which is closed and has the disks filled behind it."""
    nodes: list[Node] = []

    def start() -> Node:
        if nodes:
            nodes.pop().close()
            fill(paths.root_dir)
            fill(paths.run_dir)
        nodes.append(Node(paths, bridge=run.bridge, subnet=run.subnet))
        nodes[-1].start()
        return nodes[-1]

    yield start
    for sandbox in nodes[-1].sandboxes():
        nodes[-1].remove_sandbox(sandbox.id)
    nodes[-1].close()


@pytest.fixture
def node(start: Callable[[], Node]) -> Node:
    node = start()
    store_busybox(node.images)
    return node


def test_containers_end_and_go_where_nothing_can_be_written(node: Node) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    ends = wishes.run(node, pod, wishes.container(["sh", "-c", EXITS]))
    lives = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    fill(node.paths.root_dir)
    os.kill(node.find_container(ends).pid, signal.SIGTERM)
    assert wishes.finish(node, ends) == 3
    node.remove_container(ends)
    node.stop_container(lives, 0)
    node.remove_container(lives)
    node.remove_sandbox(pod)
    [image] = node.images.list()
    node.images.remove(image.id)
    assert node.images.list() == []


def test_an_exit_code_is_kept_where_nothing_can_be_written(node: Node) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    container = wishes.run(node, pod, wishes.container(["sh", "-c", EXITS]))
    wait.until(lambda: node.exec_sync(container, ["true"], 10).exit_code == 0)
    fill(node.paths.run_dir)
    assert node.exec_sync(container, ["sh", "-c", "exit 4"], 10).exit_code == 4
    node.stop_container(container, 10)
    assert node.find_container(container).exit_code == 3


def test_a_daemon_comes_up_where_nothing_can_be_written(node: Node, start: Callable[[], Node]) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    container = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    node._context.journal.begin("0" * 64, "container.create")
    with lock.take(node.paths.lock):
        again = start()
        assert again.faults() == []
        assert again.find_container(container).state is ContainerState.RUNNING
        again.remove_sandbox(pod)
        [image] = again.images.list()
        again.images.remove(image.id)
        assert os.listdir(again.paths.layers) == []
