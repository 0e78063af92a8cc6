"""kernelet logs: the CRI's log format read back, rotated and half-written files included."""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

import pytest

from cri.__main__ import main
from cri.command.logs import Entry, LogFile, moment, parse_entry
from runtime.errors import NotFound
from runtime.monitor.log import entries
from tests.cri.conftest import Daemon

LINE = b"2026-11-22T13:00:00.000000001Z "


@pytest.fixture
def log(daemon: Daemon, tmp_path: Path) -> Path:
    """The log of a running container called web."""
    container_id = daemon.container(daemon.pod(log_directory=str(tmp_path)), "web", log_path="web.log")
    daemon.node.start_container(container_id)
    return tmp_path / "web.log"


def test_entries() -> None:
    assert parse_entry(LINE + b"stdout F a  b\n") == Entry(LINE.decode().strip(), "stdout", True, b"a  b")
    assert parse_entry(LINE + b"stderr P:x \n") == Entry(LINE.decode().strip(), "stderr", False, b"")
    for wrong in (b"", b"a\n", LINE + b"stdin F a\n", LINE + b"stdout\n"):
        assert parse_entry(wrong) is None


def test_what_the_monitor_writes_is_what_is_read() -> None:
    text = entries(b"x" * 40000 + b"\nrest", b"stdout", 1)
    found = [parse_entry(line) for line in text.splitlines(keepends=True)]
    assert b"".join(entry.content + b"\n" * entry.is_whole for entry in found if entry) == b"x" * 40000 + b"\nrest"


def test_each_stream_goes_where_it_came_from(daemon: Daemon, log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.write_bytes(
        LINE + b"stdout F one\n" + LINE + b"stderr F two\n" + b"broken\n" + LINE + b"stdout P th\n" + LINE + b"stdout F ree\n"
    )
    assert main(["logs", "--socket", str(daemon.socket), "web"]) == 0
    assert capfd.readouterr() == ("one\nthree\n", "two\n")
    assert main(["logs", "--socket", str(daemon.socket), "--tail", "2", "--timestamps", "web"]) == 0
    assert capfd.readouterr().out == LINE.decode() + "three\n"
    assert main(["logs", "--socket", str(daemon.socket), "--json", "--tail", "1", "web"]) == 0
    assert json.loads(capfd.readouterr().out) == {
        "time": LINE.decode().strip(), "stream": "stdout", "whole": True, "content": "ree",
    }  # fmt: skip


def test_no_log_is_said_so(daemon: Daemon, log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--socket", str(daemon.socket), "web"]) == 1
    assert capfd.readouterr().err == f"kernelet: log {log}: no such file or directory\n"
    daemon.running("quiet")
    assert main(["logs", "--socket", str(daemon.socket), "quiet"]) == 1
    assert "has no log" in capfd.readouterr().err


def test_a_rotated_log_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LINE + b"stdout F one\n" + LINE + b"std")
    with LogFile(path) as log:
        assert [entry.content for entry in log.entries()] == [b"one"]
        with path.open("ab") as file:
            file.write(b"out F two\n")
        path.rename(tmp_path / "log.old")
        assert [entry.content for entry in log.entries()] == [b"two"]
        path.write_bytes(LINE + b"stdout F three\n")
        assert [entry.content for entry in log.entries()] == [b"three"]
        assert list(log.entries()) == []
    with pytest.raises(NotFound, match="no such file"):
        LogFile(tmp_path / "absent")


def test_following_ends_with_the_container_and_misses_nothing(
    daemon: Daemon, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(LINE + b"stdout F one\n")
    [container] = daemon.node.containers()

    def end() -> None:
        with log.open("ab") as file:
            file.write(LINE + b"stdout F last\n")
        daemon.node.change(container.id, finished_at_ns=9)

    timer = threading.Timer(0.15, end)
    timer.start()
    assert main(["logs", "--socket", str(daemon.socket), "--follow", "web"]) == 0
    timer.join()
    assert capfd.readouterr().out == "one\nlast\n"


def test_a_moment_is_so_long_ago_or_said_outright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_795_553_099.0)
    assert moment("2h") == "2026-11-24T18:44:59.000000000Z"
    assert moment("2026-11-24T21:00:00+01:00") == "2026-11-24T20:00:00.000000000Z"
    for text in ("yesterday", "5", "-3m"):
        with pytest.raises(argparse.ArgumentTypeError, match="neither so long ago"):
            moment(text)


def test_what_is_older_is_left_out(daemon: Daemon, log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.write_bytes(LINE + b"stdout F old\n" + LINE.replace(b"13:", b"14:") + b"stdout F young\n")
    assert main(["logs", "--socket", str(daemon.socket), "--since", "2026-11-22T13:30:00Z", "web"]) == 0
    assert capfd.readouterr().out == "young\n"
