"""Between the launch of a process and its record: the monitor dies there, or the process does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from kernel import process
from runtime.container.state import Container
from runtime.network.selection import SelectedNetwork
from runtime.node import Node
from runtime.sandbox.state import Sandbox, SandboxState
from tests.support import wait, wishes
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


def before_saving(node: Node, what: str, act: Callable[[Container | Sandbox], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have *act* done once, when the first record is about to be saved."""
    inventory = node._context.inventory
    save = getattr(inventory, what)

    def late(record: Container | Sandbox, **more: str) -> None:
        monkeypatch.undo()
        act(record)
        save(record, **more)

    monkeypatch.setattr(inventory, what, late)


def replace_monitor(node: Node) -> None:
    old = node.monitor_pid
    os.kill(old, signal.SIGKILL)
    monitor = node._context.monitor
    wait.until(lambda: monitor.losses > 0 and monitor.is_settled and node.monitor_pid != old, 10, "another monitor")


def test_a_monitor_that_dies_before_a_container_is_recorded(node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    before_saving(node, "save_container", lambda _: replace_monitor(node), monkeypatch)
    container = wishes.run(node, pod, wishes.container(["sh", "-c", "echo here; exit 4"], log=tmp_path / "log"))
    assert wishes.finish(node, container) == 4
    assert wishes.lines(tmp_path / "log") == ["here"]


def test_a_container_that_dies_before_it_is_recorded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = node.run_sandbox(wishes.sandbox())

    def die(record: Container | Sandbox) -> None:
        assert isinstance(record, Container)
        os.kill(record.pid, signal.SIGKILL)
        wait.until((node.paths.run_container(record.id) / "exit").exists)

    before_saving(node, "save_container", die, monkeypatch)
    container = node.create_container(pod, wishes.container(["true"]))
    assert wishes.finish(node, container) == 137
    node.remove_container(container)


def test_a_monitor_that_dies_before_a_pod_with_a_pause_is_recorded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before_saving(node, "save_sandbox", lambda _: replace_monitor(node), monkeypatch)
    pod = node.run_sandbox(wishes.sandbox(pid="pod"))
    record = node.find_sandbox(pod)
    assert record.state is SandboxState.READY
    os.kill(record.pause_pid, signal.SIGKILL)
    wait.until(lambda: node.find_sandbox(pod).state is SandboxState.NOT_READY, 10, "the pod to be stopped")


def test_a_pause_that_dies_while_there_is_no_monitor(node: Node) -> None:
    pod = node.run_sandbox(wishes.sandbox(pid="pod"))
    monitor = node.monitor_pid
    os.kill(monitor, signal.SIGSTOP)
    os.kill(node.find_sandbox(pod).pause_pid, signal.SIGKILL)
    wait.until((node.paths.run_container(pod) / "exit").exists)
    os.kill(monitor, signal.SIGKILL)
    wait.until(lambda: node.find_sandbox(pod).state is SandboxState.NOT_READY, 10, "the pod to be stopped")


def test_a_monitor_that_dies_while_a_node_starts(make_node: Callable[[], Node], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = SelectedNetwork.sweep

    def late(network: SelectedNetwork, alive: Collection[Sandbox]) -> None:
        sweep(network, alive)
        [pid] = [pid for pid in process.all_pids() if is_monitor(pid)]
        os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(SelectedNetwork, "sweep", late)
    node = make_node()
    assert node.faults() == []


def is_monitor(pid: int) -> bool:
    """Whether it is the monitor of this process."""
    return process.parent_of(pid) == os.getpid() and b"runtime.monitor" in Path(f"/proc/{pid}/cmdline").read_bytes()
