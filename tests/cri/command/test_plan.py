"""kernelet plan, as a person calls it."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import msgspec
import pytest

from cri.__main__ import main
from cri.command.pages import WIDTH, Page, fold
from runtime.spec import schema
from tests.runtime.container.test_shell import as_a_user, spec


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(spec()))
    (tmp_path / "other.json").write_bytes(msgspec.json.encode(spec(as_a_user)))
    return tmp_path


def test_it_prints_numbered_steps_below_headings(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"the start of {bundle.name}: ") and lines[0].endswith("makes the new process")
    assert lines[1:3] == ["", "leaving the caller"] and lines[3].startswith("   1  ")
    numbers = [int(line[:4]) for line in lines if line[:4].strip().isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "the pivot" in lines and "\x1b" not in "".join(lines)
    assert [line for line in lines if len(line) > WIDTH and "execve" not in line and '"' not in line] == []


def test_json_has_all_that_is_known(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle / "config.json"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    step = next(step for step in document["steps"] if step["call"] == "mknodat" and step["arguments"][1] == '"null"')
    assert step["arguments"] == ["dev", '"null"', "S_IFCHR|0666", "1:3"]
    assert step["heading"] == "devices" and step["why"] and step["hint"]
    link = next(step for step in document["steps"] if step["call"] == "symlinkat")
    assert link["tolerated"] == ["EEXIST"]


def test_a_difference_is_readable(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle), "--diff", str(bundle / "other.json")]) == 0
    out = capsys.readouterr().out
    assert "was 022\n" in out and "is  027\n" in out
    assert "CAP_CHOWN can never come back" in out
    assert main(["plan", str(bundle), "--diff", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_script_is_one(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle), "--shell"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#!/bin/sh\n") and f"root={bundle}/rootfs" in text
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


def test_what_cannot_be_planned_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("kernelet: ") and error.count("\n") == 1 and "config.json" in error


def test_a_call_is_folded_between_arguments_and_never_within_a_string() -> None:
    call = 'mount("a, long | name", FLAG_ONE|FLAG_TWO|FLAG_THREE, 0)'
    assert fold(call, 100) == [call]
    assert fold(call, 34) == ['mount("a, long | name", FLAG_ONE', "  |FLAG_TWO|FLAG_THREE, 0)"]
    assert fold(call, 12) == ['mount("a, long | name",', "  FLAG_ONE", "  |FLAG_TWO", "  |FLAG_THREE,", "  0)"]


def test_what_strangers_wrote_does_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = spec()
    wanted.mounts.append(schema.Mount(destination="/a\x1b[31m", type="bind", source="/b\x1b[2J\n", options=["bind"]))
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(wanted))
    assert main(["plan", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "<mount of /b?[2J?>" in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Page(Terminal()).ink("x", "red") == "\x1b[31mx\x1b[0m"
    assert Page(io.StringIO()).ink("x", "red") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Page(Terminal()).ink("x", "red") == "x"
