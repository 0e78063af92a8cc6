"""critest's report (ginkgo's JSON) as a table for people and a document for programs."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSED = "passed"
#: Ginkgo's states of a spec that ran to no good end.
FAILED = ("failed", "panicked", "timedout", "interrupted", "aborted")
WIDTH = 118
#: Of a reason, in letters.
LIMIT = 500


@dataclass
class Report:
    """What became of each spec, by its full name; the reason where it did not pass."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        pairs = {
            kind: [{"name": name, "reason": reason} for name, reason in sorted(specs.items())]
            for kind, specs in (("failed", self.failed), ("skipped", self.skipped))
        }
        return {"passed": sorted(self.passed), **pairs}

    def table(self) -> str:
        lines = []
        for kind, specs in (("failed", self.failed), ("skipped", self.skipped)):
            for name, reason in sorted(specs.items()):
                lines += [f"{kind:<8} {name}", *textwrap.wrap(reason, WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9)]
        lines.append(f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped")
        return "\n".join(lines)


def load(path: Path, not_run: Mapping[str, str]) -> Report:
    """The report that critest wrote to *path*, without the specs that were not selected.

    *not_run* has the reasons for those that were skipped from outside, by a part of their name.
    """
    report = Report()
    for suite in json.loads(path.read_text()):
        for spec in suite["SpecReports"] or ():
            _add(report, spec, not_run)
    return report


def _add(report: Report, spec: dict[str, Any], not_run: Mapping[str, str]) -> None:
    if spec["LeafNodeType"] != "It":
        if spec["State"] in FAILED:
            report.failed[spec["LeafNodeType"]] = _reason(spec)
        return
    name = " ".join([*(spec["ContainerHierarchyTexts"] or ()), spec["LeafNodeText"]])
    if spec["State"] == PASSED:
        report.passed.append(name)
    elif spec["State"] in FAILED:
        report.failed[name] = _reason(spec)
    elif reason := _reason(spec) or next((why for part, why in not_run.items() if part in name), ""):
        report.skipped[name] = reason  # without a reason it was not selected


def _reason(spec: dict[str, Any]) -> str:
    """What the spec said of itself: gomega's description, and the error unless that has it; no dump of its fields."""
    message = re.split(r" \{$", spec.get("Failure", {}).get("Message", ""), maxsplit=1, flags=re.MULTILINE)[0]
    description, _, error = message.partition("Unexpected error:")
    description, error = (" ".join(text.split()) for text in (description, re.sub(r"^\s*<[^>]*>:", "", error)))
    return (description if error in description else f"{description}: {error}")[:LIMIT]
