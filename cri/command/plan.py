"""kernelet plan: the system calls that a container's start consists of, before any is made."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from cri.command.pages import Page
from runtime.container import plan as planning
from runtime.container.plan import Difference, Plan, PlannedStep


def add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="CONFIG.json|BUNDLE", help="a config.json, or the directory that has it")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--shell", action="store_true", help="print a shell script that does the same by hand")
    parser.add_argument("--diff", type=Path, metavar="OTHER", help="print what is different in another one")


def run_plan(options: argparse.Namespace) -> int:
    """Reads config.json and nothing else; needs no root and no daemon."""
    spec = planning.load_spec(options.bundle)
    if options.shell:
        from runtime.container import shell

        print(shell.script(spec, options.bundle if options.bundle.is_dir() else options.bundle.parent), end="")
        return 0
    plan = planning.plan(planning.title_of(options.bundle), spec)
    if options.diff is not None:
        other = planning.plan(planning.title_of(options.diff), planning.load_spec(options.diff))
        _show_differences(plan, other, options.diff, as_json=options.json)
    elif options.json:
        print(json.dumps(asdict(plan), indent=2))
    else:
        _show(plan, Page())
    return 0


def _show(plan: Plan, page: Page) -> None:
    born = next((step.number for step in plan.steps if step.call == "clone3"), None)
    page.line(f"{page.ink(plan.title, 'bold')}: {len(plan.steps)} steps; number {born} makes the new process")
    for title, steps in plan.sections():
        page.heading(title)
        before = ""
        for step in steps:
            page.step(f"{step.number:4}  ", step.text, _why(step, before))
            before = step.why


def _why(step: PlannedStep, before: str) -> str:
    """Why, unless the line above says so, and what is no failure."""
    fine = f"({', '.join(step.tolerated)} is fine)" if step.tolerated else ""
    return " ".join(filter(None, ("" if step.why == before else step.why, fine)))


def _show_differences(left: Plan, right: Plan, other: Path, *, as_json: bool) -> None:
    found = planning.compare(left, right)
    if as_json:
        print(json.dumps([asdict(difference) for difference in found], indent=2))
        return
    page = Page()
    count = f"{len(found)} steps differ" if len(found) != 1 else "one step differs"
    page.line(f"{page.ink(left.title, 'bold')} ({len(left.steps)} steps), against {other} ({len(right.steps)}): {count}")
    heading = None
    for difference in found:
        if difference.heading != heading:
            heading = difference.heading
            page.heading(heading)
        _show_difference(page, difference)


def _show_difference(page: Page, difference: Difference) -> None:
    left, right = difference.left, difference.right
    if left is not None and right is not None:
        page.step(f"  ~ {left.number:4} {right.number:4}  ", right.text, right.why, style="yellow")
        for before, after in difference.changed_arguments():
            page.step(" " * 15 + "was ", before or "nothing", style="red")
            page.step(" " * 15 + "is  ", after or "nothing", style="green")
    elif left is not None:
        page.step(f"  - {left.number:4}       ", left.text, left.why, style="red")
    elif right is not None:
        page.step(f"  +      {right.number:4}  ", right.text, right.why, style="green")
