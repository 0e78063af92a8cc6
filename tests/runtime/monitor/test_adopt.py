"""Reapers are found by what they are; whoever only looks like one is not taken for one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup
from kernel.program import Program, Vector
from runtime.container import process, reaper
from runtime.monitor import adopt
from runtime.monitor.client import MonitorClient
from runtime.paths import Paths
from tests.support import cgroup, wait
from tests.support.requires import requires

pytestmark = requires("root", "busybox", "cgroup2")

#: Executes busybox from a memfd with the runner's name, descriptor 9 being a directory; as root, with fewer rights or all,
#: or all in a user namespace of its own, as root or somebody else.
FAKE = """
import os, sys, prctl
from kernel import namespace
name, directory, rights = sys.argv[1:]
image = os.memfd_create(name, 0)
os.sendfile(image, os.open("/bin/busybox", os.O_RDONLY), 0, 1 << 30)
os.dup2(os.open(directory, os.O_RDONLY), 9)
os.set_inheritable(9, True)
if rights == "few":
    prctl.capbset.limit()
if rights == "another user's":
    os.setresuid(1000, 1000, 1000)
    prctl.set_dumpable(True)
if rights not in ("few", "all"):
    user = os.geteuid()
    namespace.unshare(namespace.FLAGS["user"])
    open("/proc/self/uid_map", "w").write(f"0 {user} 1")
os.execve(image, ["sleep", "100"], {})
"""


@pytest.fixture
def fake(paths: Paths) -> Callable[[str, Path, str], subprocess.Popen[bytes]]:
    def start(name: str, directory: Path, rights: str) -> subprocess.Popen[bytes]:
        directory.mkdir(exist_ok=True)
        started = subprocess.Popen([sys.executable, "-c", FAKE, name, str(directory), rights])
        wait.until(lambda: os.readlink(f"/proc/{started.pid}/exe").startswith(f"/memfd:{name}"), 10, "it to look like one")
        return started

    return start


def end(started: subprocess.Popen[bytes]) -> None:
    started.kill()
    started.wait()


def found(paths: Paths) -> list[Path]:
    reapers = adopt.find_reapers(paths.run_dir)
    for each in reapers.values():
        each.pidfd.close()
    return list(reapers)


Fake = Callable[[str, Path, str], subprocess.Popen[bytes]]


def test_a_reaper_of_ours_is_found_by_its_run_directory(paths: Paths) -> None:
    run_dir = paths.run_container("one")
    run_dir.mkdir()
    client = MonitorClient(paths, on_exit=lambda _: None, on_lost=lambda: None)
    client.connect()
    client.settle()
    steps = Program("one")
    steps.clone((), cgroup=None, why="a child")
    process.close_all(steps)
    process.wait_for_start(steps)
    steps.call("execve", "/bin/busybox", Vector((b"true",)), Vector(()), why="run")
    reaper.stay_behind(steps)
    launched, report = client.launch("one", "container", steps, run_dir=run_dir, name="test", descriptors={})
    report.memory.close()
    assert found(paths) == [run_dir]
    assert found(Paths(paths.root_dir, paths.run_dir / "other")) == []
    [one] = adopt.find_reapers(paths.run_dir).values()
    assert one.pid != launched.pid  # its parent: the process that is set up runs the same program
    one.pidfd.close()
    client.forget("one", run_dir)
    client.close(end_monitor=True)


def test_one_that_has_the_name_but_not_our_rights_is_none(paths: Paths, fake: Fake) -> None:
    """A container's process, with the path of another container's directory in its own tree."""
    started = fake("kernelet-runner", paths.run_container("victim"), "few")
    assert found(paths) == []
    end(started)


def test_what_would_be_found_with_our_rights(paths: Paths, fake: Fake) -> None:
    """The attack above fails for the rights alone."""
    started = fake("kernelet-runner", paths.run_container("victim"), "all")
    assert found(paths) == [paths.run_container("victim")]
    end(started)


def test_one_of_our_user_in_a_pods_user_namespace_is_found(paths: Paths, fake: Fake) -> None:
    started = fake("kernelet-runner", paths.run_container("victim"), "its own")
    assert found(paths) == [paths.run_container("victim")]
    end(started)


def test_one_in_a_containers_cgroup_or_of_another_user_is_none(paths: Paths, fake: Fake) -> None:
    """In a user namespace that he has made, anybody has all rights."""
    other = fake("kernelet-runner", paths.run_container("victim"), "another user's")
    paths.run_container("attacker").mkdir()
    place = Cgroup(cgroup.ROOT / "pod" / "attacker")
    place.create()
    started = fake("kernelet-runner", paths.run_container("victim"), "its own")
    place.write("cgroup.procs", str(started.pid))
    assert found(paths) == []
    end(other)
    end(started)
    place.remove()
    place.path.parent.rmdir()


@pytest.mark.parametrize(("name", "place"), [("another", "inside"), ("kernelet-runner", "outside")])
def test_another_program_or_another_directory_is_none(paths: Paths, fake: Fake, tmp_path: Path, name: str, place: str) -> None:
    started = fake(name, paths.run_container("x") if place == "inside" else tmp_path, "all")
    assert found(paths) == []
    end(started)
