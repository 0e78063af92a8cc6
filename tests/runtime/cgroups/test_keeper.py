"""Processes that do nothing but be in a cgroup: one for as long as it is held, one until it is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel import process
from kernel.cgroup import Cgroup
from runtime.cgroups import keeper
from runtime.cgroups.filesystem import FilesystemDriver
from runtime.spec import schema
from tests.support import cgroup, wait
from tests.support.requires import requires


def has_come(pid: int) -> bool:
    """Whether it waits: it has named itself to nobody, but the kernel says what it sleeps in."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_one_is_there_while_it_is_held() -> None:
    with keeper.Keeper() as held:
        wait.until(lambda: has_come(held.pid))
        assert Path(f"/proc/{held.pid}/status").exists()
    assert not Path(f"/proc/{held.pid}").exists()


def test_the_lasting_one_has_no_file_of_ours_and_ends_when_it_is_killed() -> None:
    pid = keeper.start_lasting()
    try:
        wait.until(lambda: has_come(pid) and os.listdir(f"/proc/{pid}/fd") == [])
        assert os.getsid(pid) == pid
    finally:
        process.end(pid)
    assert not Path(f"/proc/{pid}").exists()
    process.end(pid)  # one that is gone is no error


@requires("root", "cgroup2")
def test_pods_as_directories_are_found_by_their_names_and_removed_with_all_below() -> None:
    driver = FilesystemDriver(cgroup.ROOT, "/kernelet-pods")
    driver.prepare()
    sandbox_id = "a1" * 32
    path = driver.pod_path("", sandbox_id)
    driver.make_pod(path)
    pod = Cgroup(cgroup.ROOT / path.lstrip("/"))
    driver.limit(pod, schema.Resources())
    below = pod / "container"
    below.create()
    with keeper.Keeper() as held:
        below.write("cgroup.procs", str(held.pid))
        assert [(name, found.path) for name, found in driver.pods()] == [(sandbox_id, pod.path)]
        driver.remove(pod)
    assert not pod.exists()
    driver.remove(pod)
    driver.release()
    assert not Path(f"{cgroup.ROOT}/kernelet-pods").exists()


@pytest.mark.parametrize("asked", ["/kubepods/pod1", "/kubepods/pod1/"])
def test_a_place_that_is_asked_for_is_the_pod_s(asked: str) -> None:
    assert FilesystemDriver(cgroup.ROOT, "/kernelet").pod_path(asked, "1") == "/kubepods/pod1"
