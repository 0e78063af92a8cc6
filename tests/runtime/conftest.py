"""A node of its own for each test, with busybox on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from runtime.node import Node
from runtime.paths import Paths
from tests.support.image import store_busybox
from tests.support.isolation import Run


@pytest.fixture
def make_node(paths: Paths, run: Run) -> Iterator[Callable[[], Node]]:
    """Starts a node on the test's paths; the last one is closed, with all that is in it, after the test."""
    nodes: list[Node] = []

    def make() -> Node:
        node = Node(paths, bridge=run.bridge, subnet=run.subnet)
        node.start()
        nodes.append(node)
        return node

    yield make
    last = nodes[-1]
    for sandbox in last.sandboxes():
        last.remove_sandbox(sandbox.id)
    last.close()


@pytest.fixture
def node(make_node: Callable[[], Node]) -> Node:
    """A node with busybox on it, under the name "busybox"."""
    node = make_node()
    store_busybox(node.images)
    return node
