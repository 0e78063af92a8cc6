"""kernelet config: what is right is said so, what is not is named, and the default is a document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cri import config, config_files
from cri.__main__ import main


def test_the_default_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "default"]) == 0
    printed = capsys.readouterr().out
    assert printed == config.document()
    assert config.parse(printed) == config.Config()
    assert main(["config", "default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["network"]["subnet"] == "10.85.0.0/16"


def test_what_is_right_and_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, dropin = tmp_path / "kernelet.toml", tmp_path / "kernelet.toml.d" / "a.toml"
    dropin.parent.mkdir()
    file.write_text('[log]\nlevel = "debug"\n')
    dropin.write_text('cgroup_parent = "/pods"\n')
    assert main(["config", "check", str(file)]) == 0
    assert capsys.readouterr().out == f"right: {file}, {dropin}\n"
    assert main(["config", "check", "--json", str(file)]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert (checked["log"]["level"], checked["cgroup_parent"]) == ("debug", "/pods")
    dropin.write_text("cgroup_parent = 5\n")
    assert main(["config", "check", str(file)]) == 1
    assert capsys.readouterr().err == f"kernelet: {dropin}: cgroup_parent: not a string\n"


def test_without_a_file_all_is_as_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_files, "DEFAULT_PATH", tmp_path / "kernelet.toml")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/kernelet.toml is not there: all is as by default\n"


def test_commands_find_the_daemon_where_it_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kernelet.toml"
    monkeypatch.setattr(config_files, "DEFAULT_PATH", file)
    for text in ("", 'run_dir = "/run/other"', 'run_dir = "/run/other"\nsocket = "/run/a.sock"'):
        file.write_text(text)
        assert config_files.find_socket() == config.parse(text).socket
    file.write_text("wrong")
    assert config_files.find_socket() == config.Config().socket
