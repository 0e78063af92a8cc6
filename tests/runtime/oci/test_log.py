"""The log file's lines are what callers parse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.oci.log import Log, quote, timestamp


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_quoted_text_is_json(text: str) -> None:
    assert json.loads(quote(text)) == text


def test_an_error_is_a_line_of_json_and_a_line_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(str(tmp_path / "log"), "json")
    log.warning("left out")
    log.error('exec: "foo": not found')
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["level"], line["msg"]) for line in lines] == [("warning", "left out"), ("error", 'exec: "foo": not found')]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line["time"]) for line in lines)
    assert capsys.readouterr().err == 'exec: "foo": not found\n'


def test_text_is_logfmt(tmp_path: Path) -> None:
    Log(str(tmp_path / "log")).error('a "b"')
    assert re.fullmatch(r'time="[^"]+" level=error msg="a \\"b\\""\n', (tmp_path / "log").read_text())


def test_debug_is_for_who_asked(tmp_path: Path) -> None:
    Log(str(tmp_path / "log")).debug("more")
    Log(str(tmp_path / "log"), debug=True).debug("most")
    assert "most" in (tmp_path / "log").read_text()
    assert "more" not in (tmp_path / "log").read_text()


def test_a_log_that_cannot_be_written_keeps_nobody_from_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    Log("/nonexistent/log").error("the error")
    said = capsys.readouterr().err
    assert "--log /nonexistent/log: no such file or directory" in said
    assert said.endswith("the error\n")


def test_a_file_name_of_any_bytes_can_be_told(tmp_path: Path) -> None:
    Log(str(tmp_path / "log"), "json").error("no \udcff file")
    assert json.loads((tmp_path / "log").read_text())["msg"]


def test_a_time_is_utc() -> None:
    assert timestamp(1_700_000_000_000_000_042) == "2023-11-14T22:13:20.000000042Z"
