"""What a container's life does when something fails half-way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup
from runtime import lifecycle
from runtime.errors import ExecTimedOut, HostPathNotFound, InvalidArgument, MonitorLost
from runtime.node import Node
from runtime.spec import schema
from tests.support import wait, wishes
from tests.support.image import store_busybox
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


def test_a_stop_that_failed_leaves_the_next_one_its_time(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    script = "trap 'sleep 0.3; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    container = wishes.run(node, pod, wishes.container(["sh", "-c", script], log=tmp_path / "log"))
    wait.until(lambda: wishes.lines(tmp_path / "log") == ["ready"], 10)

    def no_monitor(*_: object) -> bool:
        raise MonitorLost("gone")

    with monkeypatch.context() as patch:
        patch.setattr(node._context.monitor, "signal", no_monitor)
        with pytest.raises(MonitorLost):
            node.stop_container(container, 0.01)
    assert node._context.stop_deadlines == {}
    node.stop_container(container, 20)
    assert node.find_container(container).exit_code == 9


def test_why_a_create_failed_is_told_though_it_cannot_be_undone_and_the_next_start_undoes_it(
    make_node: Callable[[], Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node()
    store_busybox(node.images)
    pod = node.run_sandbox(wishes.sandbox())
    config = wishes.container(["true"])
    config.spec.mounts.append(schema.Mount(destination="/x", type="bind", source=str(tmp_path / "none"), options=["rbind"]))

    def broken(*_: object) -> None:
        raise OSError("the disk is full of holes")

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "destroy", broken)
        with pytest.raises(HostPathNotFound, match="none: no such file or directory"):
            node.create_container(pod, config)
    [left] = os.listdir(node.paths.containers)
    node.close()
    again = make_node()
    assert os.listdir(again.paths.containers) == []
    assert not list(Path("/sys/fs/cgroup").rglob(left))


def test_a_cgroup_is_below_the_tree(node: Node) -> None:
    with pytest.raises(InvalidArgument, match=r"must not contain '\.\.'"):
        node._context.cgroup("/pods/../../etc")


def test_a_log_is_a_regular_file_with_its_directory_made(tmp_path: Path) -> None:
    for content in (b"x", b"y"):
        with lifecycle.open_log(str(tmp_path / "a/b/0.log")) as log:
            handle = f"/proc/self/fd/{log.file.fileno()}"  # opened again by who writes
            with open(handle, "ab") as file:
                file.write(content)
    assert (tmp_path / "a/b/0.log").read_text() == "xy"
    assert (tmp_path / "a/b/0.log").stat().st_mode & 0o137 == 0
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "a"):
        with pytest.raises(OSError):
            lifecycle.open_log(str(tmp_path / name))
    with pytest.raises(OSError, match="a log must be a regular file"):
        lifecycle.open_log("/dev/null")
    assert not (tmp_path / "target").exists()


def test_an_exec_that_cannot_be_cleaned_up_has_its_answer_and_is_taken_along_by_the_container(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    container = wishes.run(node, pod, wishes.container(["sleep", "100"]))

    def broken(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Cgroup, "remove", broken)
        assert node.exec_sync(container, ["echo", "here"], 10).stdout == b"here\n"
    assert node._context.executing == {}
    [left] = node._context.cgroup(node.find_container(container).cgroup).descendants()
    assert left.path.name.startswith("exec-")
    node.remove_container(container)


def test_execs_that_time_out_leave_no_record_behind(node: Node) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    container = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    for _ in range(5):
        with pytest.raises(ExecTimedOut):
            node.exec_sync(container, ["sleep", "50"], 0.05)
    assert node.exec_sync(container, ["true"], 10).exit_code == 0  # its end comes after all of theirs
    assert node._context.executing == {}
    assert node._context.monitor.known() == ([container], [])
