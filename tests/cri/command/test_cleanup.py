"""kernelet cleanup: pods that a daemon left running are ended, and only when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cri.__main__ import main
from runtime.node import Node
from runtime.paths import Paths
from runtime.sandbox.config import SandboxConfig
from runtime.sandbox.state import SandboxState
from tests.cri.serving import config_of
from tests.support.daemon import Daemon
from tests.support.isolation import Run
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2")


def leave_a_pod(paths: Paths, run: Run) -> str:
    """As a daemon does that is stopped: its pods stay."""
    node = Node(paths, bridge=run.bridge, subnet=run.subnet)
    node.start()
    sandbox_id = node.run_sandbox(SandboxConfig(name="web", namespace="default", uid="u"))
    node.close()
    return sandbox_id


def test_what_a_daemon_left_is_ended(paths: Paths, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Daemon(paths, run)  # writes the configuration
    sandbox_id = leave_a_pod(paths, run)
    pins = paths.run_sandbox(sandbox_id)
    assert (pins / "net").exists()
    assert main(["cleanup", "--config", str(config_of(paths)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"id": sandbox_id, "pod": "default/web"}
    assert not pins.exists()
    node = Node(paths, bridge=run.bridge, subnet=run.subnet)
    node.start()
    assert [sandbox.state for sandbox in node.sandboxes()] == [SandboxState.NOT_READY]
    node.close()
    assert main(["cleanup", "--config", str(config_of(paths)), "--remove"]) == 0
    assert capsys.readouterr().out == "default/web\n"
    assert not (paths.sandboxes / sandbox_id).exists()


def test_a_daemon_that_runs_is_in_the_way(paths: Paths, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(paths, run)
    daemon.start()
    try:
        assert main(["cleanup", "--config", str(config_of(paths))]) == 1
        assert f"held by process {daemon.pid}" in capsys.readouterr().err
    finally:
        daemon.stop()


def test_where_nothing_ever_ran_nothing_is_made(tmp_path: Path) -> None:
    file = tmp_path / "kernelet.toml"
    file.write_text(f'root_dir = "{tmp_path}/root"\nrun_dir = "{tmp_path}/run"\n')
    assert main(["cleanup", "--config", str(file)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["kernelet.toml"]
