"""What is made of critest's report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conformance.report import load

UNEXPECTED = """failed to create container: status
Unexpected error:
    <*status.Error | 0x29fe7dc8>: 
    rpc error: code = Unimplemented
    {
        s: nil,
    }
occurred"""  # noqa: W291 - as gomega writes it


def spec(text: str, state: str, message: str = "", *, kind: str = "It", within: tuple[str, ...] = ("Pod",)) -> dict[str, Any]:
    failure = {"Failure": {"Message": message}} if message else {}
    return {"LeafNodeType": kind, "ContainerHierarchyTexts": within, "LeafNodeText": text, "State": state, **failure}


def test_specs_are_sorted_by_their_end_and_those_not_selected_left_out(tmp_path: Path) -> None:
    specs = [
        spec("runs", "passed"),
        spec("stops", "failed", UNEXPECTED),
        spec("hangs", "timedout", "a\n  timeout"),
        spec("confines", "skipped", "AppArmor is disabled on this host"),
        spec("is not selected", "skipped"),
        spec("needs the internet", "skipped"),
        spec("", "passed", kind="BeforeSuite"),
        spec("", "panicked", "no socket", kind="BeforeSuite"),
    ]
    (tmp_path / "critest.json").write_text(json.dumps([{"SpecReports": specs}, {"SpecReports": None}]))
    report = load(tmp_path / "critest.json", {"the internet": "there is none"})
    assert report.passed == ["Pod runs"]
    assert report.failed == {
        "Pod stops": "failed to create container: status: rpc error: code = Unimplemented",
        "Pod hangs": "a timeout",
        "BeforeSuite": "no socket",
    }
    assert report.skipped == {"Pod confines": "AppArmor is disabled on this host", "Pod needs the internet": "there is none"}
    assert report.table().splitlines()[-1] == "1 passed, 3 failed, 2 skipped"
    assert report.document()["skipped"][:1] == [{"name": "Pod confines", "reason": "AppArmor is disabled on this host"}]
