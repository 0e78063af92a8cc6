"""What is used, by the kernel's own account; limits and controllers are tested in guests (tests/vm/inside/test_stats.py)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kernel import tree_size
from kernel.cgroup import Cgroup, find_tree
from runtime import usage, writable
from runtime.network.traffic import parse_links
from runtime.node import Node
from runtime.paths import Paths
from runtime.snapshot import UPPER
from runtime.usage import ContainerUse, SandboxUse
from runtime.writable import WritableLayers
from tests.support import wait, wishes
from tests.support.requires import requires

DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     1       2    3    4    5     6          7         8      9      10   11   12   13    14      15         16
  eth0:  1000       2    3    4    5     6          7         8   9000      10   11   12   13    14      15         16
"""


def test_links_are_read_off_the_kernels_columns() -> None:
    (link,) = parse_links(DEV)
    assert link.name == "eth0"
    assert (link.received.bytes, link.received.packets, link.received.errors, link.received.dropped) == (1000, 2, 3, 4)
    assert (link.sent.bytes, link.sent.packets, link.sent.errors, link.sent.dropped) == (9000, 10, 11, 12)


def layer(paths: Paths, name: str, size: int) -> None:
    upper = paths.container(name) / UPPER
    upper.mkdir(parents=True)
    (upper / "file").write_bytes(b"x" * size)


def test_a_layer_is_measured_once_in_a_while_and_answered_from_memory(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    layer(paths, "a", 100_000)
    layers = WritableLayers(paths)
    walks: list[int] = []
    real = tree_size.measure
    monkeypatch.setattr(tree_size, "measure", lambda *given: walks.append(1) or real(*given))
    try:
        first = layers.use(["a", "gone"], 10)
        assert first["a"].bytes >= 100_000
        assert first["a"].inodes == 2
        (paths.container("a") / UPPER / "more").write_bytes(b"x" * 100_000)
        assert [layers.use(["a"], 10) for _ in range(50)][-1] == {"a": first["a"]}
        assert len(walks) == 1
        monkeypatch.setattr(writable, "FRESH_SECONDS", 0)
        layers.keep_only([])
        assert layers.use(["a"], 10)["a"].bytes >= 200_000
    finally:
        layers.close()


def test_a_layer_that_takes_long_holds_nobody_up(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    layer(paths, "slow", 1)
    go = threading.Event()
    real = tree_size.measure
    monkeypatch.setattr(tree_size, "measure", lambda *given: go.wait(10) and real(*given))
    layers = WritableLayers(paths)
    try:
        assert layers.use(["slow"], 0.01) == {}
        go.set()
        wait.until(lambda: layers.use(["slow"]), 10, "the walk to end")
    finally:
        layers.close()
    assert layers.use(["slow"])["slow"].inodes == 2  # what is known is answered still


@pytest.fixture
def sandbox(node: Node) -> str:
    return node.run_sandbox(wishes.sandbox())


def use_of(node: Node, container_id: str) -> ContainerUse:
    (use,) = node.use_of_containers([node.find_container(container_id)])
    return use


def use_of_pod(node: Node, sandbox_id: str) -> SandboxUse:
    (use,) = node.use_of_sandboxes([node.find_sandbox(sandbox_id)])
    return use


@requires("root", "cgroup2", "busybox")
def test_a_container_uses_what_its_cgroup_counts_and_what_it_wrote(
    node: Node, sandbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "RATE_SECONDS", 0.05)
    script = "dd if=/dev/zero of=/big bs=1M count=3; while :; do :; done"
    container = wishes.run(node, sandbox, wishes.container(["sh", "-c", script]))
    cgroup = Cgroup(find_tree() / node.find_container(container).cgroup.lstrip("/"))
    wait.until(lambda: cgroup.fields("cpu.stat")["user_usec"] > 50_000, 10, "some cpu time")
    before = cgroup.fields("cpu.stat")["usage_usec"] * 1000
    use = use_of(node, container)
    assert use.use.statistics is not None
    assert use.use.statistics.cpu is not None
    assert before <= use.use.statistics.cpu.total_ns <= cgroup.fields("cpu.stat")["usage_usec"] * 1000
    # No controller for it here: no figure, rather than nothing used.
    assert (use.use.statistics.memory is None) == ("memory" not in cgroup.controllers())
    assert use.writable is not None
    assert 3 << 20 <= use.writable.bytes < 4 << 20
    assert node.use_of_layers().bytes >= use.writable.bytes
    assert use.use.nano_cores is None
    wait.until(lambda: use_of(node, container).use.nano_cores, 10, "a rate")
    node.stop_container(container, 0)
    ended = use_of(node, container)
    assert ended.use.statistics is None
    assert ended.writable is not None


@requires("root", "cgroup2", "busybox")
@pytest.mark.parametrize("has_process", [True, False])
def test_a_pod_uses_its_network_with_and_without_a_process_to_look_through(node: Node, sandbox: str, has_process: bool) -> None:
    script = "ping -c 3 -i 0.01 -W 1 $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); sleep 100"
    container = wishes.run(node, sandbox, wishes.container(["sh", "-c", script if has_process else "true"]))
    if has_process:
        wait.until(lambda: (links := use_of_pod(node, sandbox).links) and links[0].sent.packets >= 3, 10, "some packets")
        assert use_of_pod(node, sandbox).process_count == 2
    else:
        wishes.finish(node, container)
    use = use_of_pod(node, sandbox)
    assert use.links is not None
    assert [link.name for link in use.links] == ["eth0"]
    assert [each.container.id for each in use.containers] == ([container] if has_process else [])
    node.stop_sandbox(sandbox)
    stopped = use_of_pod(node, sandbox)
    assert (stopped.links, stopped.use.statistics, stopped.process_count) == (None, None, None)


@requires("root", "cgroup2", "busybox")
def test_a_pod_whose_cgroup_was_taken_away_uses_nobody_knows_what(node: Node, sandbox: str) -> None:
    os.rmdir(find_tree() / node.find_sandbox(sandbox).cgroup_parent.lstrip("/"))
    use = use_of_pod(node, sandbox)
    assert (use.use.statistics, use.process_count) == (None, None)


@requires("root", "cgroup2", "busybox")
def test_a_pod_on_the_nodes_network_has_no_traffic_of_its_own(node: Node) -> None:
    assert use_of_pod(node, node.run_sandbox(wishes.sandbox(network="node"))).links is None


@requires("root", "cgroup2", "busybox")
def test_processes_are_counted_with_what_they_hold(node: Node, sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "sleep 100 & exec 5</dev/null 6</dev/null; nc -l -p 99; true"
    container = wishes.run(node, sandbox, wishes.container(["sh", "-c", script]))
    record = node.find_container(container)
    pids = Cgroup(find_tree() / record.cgroup.lstrip("/"))

    def found() -> tuple[int, int]:
        processes = node.processes_of(record)
        return (processes.count, processes.sockets) if processes else (0, 0)

    wait.until(lambda: found() == (3, 1), 10, "the shell and its two children")
    processes = node.processes_of(record)
    assert processes is not None
    assert processes.threads == 3
    assert processes.descriptors == sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids.processes())
    assert f"Max open files            {processes.open_files_limit} " in Path(f"/proc/{record.pid}/limits").read_text()
    monkeypatch.setattr(usage, "LOOKED_AT_LIMIT", 3)
    many = node.processes_of(record)
    assert many is not None
    assert (many.descriptors, many.sockets) == (processes.descriptors, None)
    node.stop_container(container, 0)
    assert node.processes_of(node.find_container(container)) is None


@requires("root", "cgroup2", "busybox")
def test_what_this_nodes_cgroups_count_is_known_before_there_is_a_container(node: Node, sandbox: str) -> None:
    accounts = node.accounts()
    assert {"cpu.stat", "cgroup.procs"} <= accounts
    container = wishes.run(node, sandbox, wishes.container(["sleep", "100"]))
    files = set(os.listdir(find_tree() / node.find_container(container).cgroup.lstrip("/")))
    assert {file for file in accounts if "." in file and not file.endswith(".pressure")} == {
        file for file in files if not file.endswith(".pressure")
    }
    assert ("hugetlb" in accounts) == any(file.startswith("hugetlb.") for file in files)


@requires("root", "cgroup2", "busybox")
def test_the_disk_is_that_of_the_writable_layers(node: Node, paths: Paths) -> None:
    disk, found = node.disk(), os.statvfs(paths.root_dir)
    assert (disk.bytes, disk.inodes) == (found.f_blocks * found.f_frsize, found.f_files)
    assert disk.device
