"""What is told of sandboxes and containers: each change once, in order, with the records as they are then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.errors import StartFailed
from runtime.events import Change
from runtime.node import Node
from tests.support import wait, wishes
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@pytest.fixture
def told(node: Node) -> list[Change]:
    changes: list[Change] = []
    node.listen(changes.append)
    return changes


def words(told: list[Change], sandbox: str) -> list[str]:
    return [f"{'pod' if change.id == sandbox else 'container'} {change.kind}" for change in told]


def test_a_life_is_told_from_beginning_to_end(node: Node, told: list[Change]) -> None:
    sandbox = node.run_sandbox(wishes.sandbox())
    container = wishes.run(node, sandbox, wishes.container(["sh", "-c", "exit 3"]))
    wishes.finish(node, container)
    node.stop_sandbox(sandbox)
    node.stop_sandbox(sandbox)
    node.remove_sandbox(sandbox)
    assert words(told, sandbox) == [
        *("pod created", "pod started", "container created", "container started", "container stopped"),
        *("pod stopped", "container deleted", "pod deleted"),
    ]
    stopped = told[4]
    assert [(each.id, each.exit_code, each.state) for each in stopped.containers] == [(container, 3, "exited")]
    assert stopped.sandbox is not None
    assert stopped.sandbox.state == "ready"
    assert told[6].containers == ()
    assert told[7].sandbox is not None
    assert told[7].sandbox.state == "not ready"
    assert sorted(told, key=lambda change: change.at_ns) == told


def test_what_ends_at_once_has_started_before_it_is_stopped(node: Node, told: list[Change]) -> None:
    sandbox = node.run_sandbox(wishes.sandbox())
    containers = [wishes.run(node, sandbox, wishes.container(["true"])) for _ in range(10)]
    wait.until(lambda: sum(change.kind == "stopped" for change in told) == 10, 10, "all ends to be told")
    for container in containers:
        assert [change.kind for change in told if change.id == container] == ["created", "started", "stopped"]


def test_a_start_that_fails_is_no_start(node: Node, told: list[Change]) -> None:
    sandbox = node.run_sandbox(wishes.sandbox())
    container = node.create_container(sandbox, wishes.container(["/not/there"]))
    with pytest.raises(StartFailed):
        node.start_container(container)
    assert [change.kind for change in told if change.id == container] == ["created", "stopped"]
    assert told[-1].containers[0].reason == "StartError"


def test_who_does_not_listen_any_more_is_told_nothing(node: Node) -> None:
    changes: list[Change] = []
    stop: Callable[[], None] = node.listen(changes.append)
    node.run_sandbox(wishes.sandbox())
    stop()
    stop()
    node.run_sandbox(wishes.sandbox())
    assert len(changes) == 2
