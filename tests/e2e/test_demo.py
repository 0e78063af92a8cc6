"""``make run`` ends in ``kernelet demo``: a stranger's first minute."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cri.command import demo
from cri.config import Config, load
from runtime.paths import Paths
from tests.support.isolation import Run
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@pytest.fixture
def config(paths: Paths, run: Run) -> Path:
    """A configuration of the test's own, whose directories are not there yet."""
    directory = paths.root_dir.parent / "demo"
    directory.mkdir()
    file = directory / "kernelet.toml"
    network = f'[network]\nkind = "built-in"\nbridge = "{run.bridge}"\nsubnet = "{run.subnet}"\n'
    file.write_text(f'root_dir = "{directory}/root"\nrun_dir = "{directory}/run"\n{network}')
    return file


def test_it_shows_a_pod_serves_on_and_leaves_nothing_after_an_interrupt(config: Path) -> None:
    command = [sys.executable, "-m", "cri", "demo", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as demo:
        assert demo.stdout is not None
        output = read_until(demo.stdout.fileno(), b"leaves nothing behind", 60)
        listed = kernelet(config, "ps")
        explained = kernelet(config, "explain", "hello")
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0
    assert "hello from demo, where I am process 1" in output
    assert re.search(r"the pod's address: 10\.\d+\.0\.2\n", output)
    assert re.search(r"made by \d+ system calls in [\d.]+ ms", output)
    assert re.search(r"StartContainer +[\d.]+ ms", output)
    assert "running" in listed
    assert re.search(r"^ +\d+ +[\d.]+ µs  move_mount", explained, re.MULTILINE)
    assert "put the container's root upon the empty directory" in explained
    assert b"everything is gone again" in rest
    assert sorted(file.name for file in config.parent.iterdir()) == ["kernelet.toml"]


def test_without_a_configuration_the_network_is_one_that_goes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cri.config_files.DEFAULT_PATH", tmp_path / "kernelet.toml")
    chosen = Config(run_dir=tmp_path)
    written = demo.own_configuration(chosen)
    assert written is not None and load(written).network.kind == "built-in"
    (tmp_path / "kernelet.toml").write_text("")
    assert demo.own_configuration(chosen) is None


def test_it_says_what_is_wrong_when_another_daemon_has_the_place(config: Path) -> None:
    from runtime import lock

    taken = Paths(config.parent / "root", config.parent / "run")
    taken.prepare()
    with lock.take(taken.lock):
        command = [sys.executable, "-m", "cri", "demo", "--config", str(config)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "another daemon uses this run directory" in ended.stderr
    assert "Traceback" not in ended.stderr


def kernelet(config: Path, *words: str) -> str:
    socket = config.parent / "run/kernelet.sock"
    command = [sys.executable, "-m", "cri", words[0], "--socket", str(socket), *words[1:]]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout


def read_until(number: int, wanted: bytes, seconds: float) -> str:
    """What comes out of descriptor *number* up to and with *wanted*."""
    deadline = time.monotonic() + seconds
    seen = b""
    while wanted not in seen:
        left = deadline - time.monotonic()
        assert left > 0, seen.decode()
        assert select.select([number], [], [], left)[0], seen.decode()
        piece = os.read(number, 65536)
        assert piece, f"it ended: {seen.decode()}"
        seen += piece
    return seen.decode()
