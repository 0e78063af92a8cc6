"""kernelet explain: for a container of a daemon, for a start that failed, for one of kernelet-oci."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.__main__ import main
from cri.command import explain
from runtime import history
from runtime.history import StepRecord
from tests.cri.conftest import Daemon
from tests.runtime.container.test_shell import spec, write_bundle
from tests.runtime.test_history import failing
from tests.support import launch
from tests.support.requires import TREE

Explain = Callable[..., tuple[int, str, str]]


@pytest.fixture
def explained(daemon: Daemon, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Explain:
    """Run explain against the daemon, whose run directory is *tmp_path*."""
    from runtime.paths import Paths

    monkeypatch.setattr(explain, "paths_of", lambda _: Paths(run_dir=tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["explain", "--socket", str(daemon.socket), *arguments])
        return status, *capfd.readouterr()

    return run


def keep(directory: Path) -> None:
    directory.mkdir(parents=True)
    program = failing()
    history.save(directory, program, launch.run(program)[0])


def test_steps_stand_below_headings_after_a_summary(daemon: Daemon, explained: Explain, tmp_path: Path) -> None:
    container = daemon.running("web")
    keep(tmp_path / "containers" / container)
    status, out, _ = explained("web")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].startswith(f"container web ({container[:13]}): 4 steps in ")
    assert lines[0].endswith(" µs, 1 of them skipped, 1 not reached when this was written")
    assert "the slowest" in lines and "first" in lines and "second" in lines
    assert any(line.endswith('openat(AT_FDCWD, "/nonexistent", 0, 0)  = ENOENT, which is fine here') for line in lines)
    assert any(line.endswith("fchdir(file)  (skipped: what it needs is not there)") for line in lines)
    assert any(line.endswith('chdir("/nonexistent")  = ENOENT') for line in lines)
    assert json.loads(explained("web", "--json")[1])[0]["heading"] == "first"


def test_a_start_that_failed_is_told_by_the_containers_name(daemon: Daemon, explained: Explain, tmp_path: Path) -> None:
    program = failing()
    history.save_failure(
        tmp_path / "failures", "pod1", "gone", "step 4 of 5, x: no", history.records(program, launch.run(program)[0])
    )
    status, out, _ = explained("gone")
    assert status == 0
    assert out.startswith("a start of gone that failed, 0s ago, in pod pod1: ")
    assert out.rstrip().endswith("step 4 of 5, x: no")
    assert json.loads(explained("gone", "--json")[1])["message"] == "step 4 of 5, x: no"
    daemon.running("gone")
    assert "of its start nothing is kept" in explained("gone")[2]
    assert explained("gone", "--failed")[0] == 0
    assert "no start of a container 'other' has failed" in explained("other", "--failed")[2]
    assert explained("other")[0] == 1


def test_the_slowest_are_not_those_that_waited() -> None:
    waited = StepRecord("read(start, &started, 8)", "", 8, 5000.0, False)
    steps = [StepRecord("one()", "", 0, 10.0, False), waited, StepRecord("two()", "", 0, 5030.0, False)]
    assert explain.durations(steps) == [10.0, 4990.0, 30.0]
    assert [explain._waits(step) for step in steps] == [False, True, False]
    assert explain.answer(StepRecord("x", "", -errno.EPERM, 1.0, False, is_fine=False)) == "  = EPERM"


def test_a_clone_takes_no_longer_than_until_the_new_process_goes_on() -> None:
    steps = [
        StepRecord("a()", "", 0, 10.0, False),
        StepRecord("clone3()", "", 7, 100.0, False),
        StepRecord("b()", "", 0, 60.0, False),
    ]
    assert explain.durations(steps) == [10.0, 50.0, 0.0]


def test_below_a_filter_no_step_is_timed() -> None:
    steps = [
        StepRecord("seccomp()", "", 0, 10.0, False),
        StepRecord("a()", "", 0, 10.001, False),
        StepRecord("b()", "", 0, 10.002, False),
    ]
    assert explain.durations(steps) == [10.0, None, None]


def test_an_execve_that_did_not_come_back_is_no_step_that_was_not_reached() -> None:
    waited, gone = StepRecord("read(start, &started, 8)", "", 8, 10.0, False), StepRecord("execve(x)", "", 0, None, False)
    assert explain.has_gone_on([waited, gone], 1)
    not_yet = StepRecord("read(start, &started, 8)", "", 0, None, False)
    assert not explain.has_gone_on([not_yet, gone], 1)
    refused = StepRecord("execve(x)", "", -errno.ENOENT, None, False, is_fine=False)
    assert not explain.has_gone_on([waited, refused], 1)


@pytest.mark.requires("root", "cgroup2")
def test_a_container_of_the_oci_command_line(tmp_path: Path) -> None:
    wanted = spec()
    assert wanted.process is not None
    wanted.process.args = ["sh", "-c", "exit 0"]
    bundle = write_bundle(tmp_path / "bundle", wanted)
    root = tmp_path / "state"

    def oci(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runtime.oci", "--root", root, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=TREE, timeout=60, check=False)

    done = oci("run", "--keep", "--bundle", bundle, "told")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "cri", "explain", "--root", root, "told"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=TREE, timeout=60, check=False)
    lines = told.stdout.splitlines()
    assert told.returncode == 0, told.stderr
    assert lines[0].startswith("container told: ") and " steps in " in lines[0]
    assert any('pivot_root(".", ".")' in line and " µs  " in line for line in lines)
    assert any("execve(" in line for line in lines)
    assert oci("delete", "told").returncode == 0
    told = subprocess.run(command, capture_output=True, text=True, cwd=TREE, timeout=60, check=False)
    assert (told.returncode, told.stderr.startswith("kernelet: container told: ")) == (1, True)
