"""kernelet explain: what the start of a container really did, system call by system call."""

from __future__ import annotations

import argparse
import errno
import json
import time
from pathlib import Path

import msgspec

from cri.api import api_pb2 as api
from cri.client import Client
from cri.command import connection, tables
from cri.command.pages import Page
from runtime import history
from runtime.errors import NotFound
from runtime.history import Failure, StepRecord
from runtime.paths import Paths

GONE_ON = "  (no way back: the process is the program now)"
#: Below the filter the clock is not asked any more: each step counts as a nanosecond (runner.c).
UNTIMED_US = 0.0015
#: How many of the slowest steps are shown.
SLOWEST = 5


def add_explain(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("--root", type=Path, metavar="DIR", help="of kernelet-oci: a container of that state directory")
    parser.add_argument("--failed", action="store_true", help="the last start of a container of that name that failed")
    parser.add_argument("container", help="the beginning of its id, or its name; with --root its id")


def run_explain(options: argparse.Namespace) -> int:
    """Needs to be on the machine of the container: the steps are in a run directory."""
    if options.root is not None:
        from runtime.oci import past

        _show(f"container {options.container}", past.steps_of(options.root, options.container), as_json=options.json)
        return 0
    with connection.connect(options) as client:
        paths = paths_of(client)
        failed = history.failures(paths.failures, options.container)
        try:
            container = None if options.failed else connection.find_container(client, options.container)
        except NotFound:
            if not failed:
                raise
            container = None
        if container is not None:
            steps = history.load_from_outside(paths.run_container(container.id))
            if not steps:
                raise NotFound(f"container {container.metadata.name}: of its start nothing is kept; the node was restarted since")
            _show(f"container {container.metadata.name} ({container.id[:13]})", steps, as_json=options.json)
            return 0
    if not failed:
        raise NotFound(f"no start of a container {options.container!r} has failed since the node was started")
    _show_failure(failed[0], as_json=options.json)
    return 0


def paths_of(client: Client) -> Paths:
    """Where the daemon keeps what runs, as it says itself."""
    info = client.call(api.StatusRequest(verbose=True), api.StatusResponse).info
    return Paths(run_dir=Path(json.loads(info["config"])["stateDir"]))


def _show_failure(failure: Failure, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(msgspec.to_builtins(failure), indent=2))
        return
    age = tables.age(failure.at_ns, time.time_ns())
    title = f"a start of {failure.container} that failed, {age} ago, in pod {failure.sandbox_id[:13]}"
    _show(title, failure.steps, as_json=False)
    page = Page()
    page.line()
    page.step("", failure.message, style="red")


def _show(title: str, steps: list[StepRecord], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(msgspec.to_builtins(steps), indent=2))
        return
    page = Page()
    _summarize(page, title, steps)
    heading = None
    for number, (step, took) in enumerate(zip(steps, durations(steps), strict=True), 1):
        if step.heading != heading:
            heading = step.heading
            page.heading(heading)
        shown = "" if took is None else f"{took:.1f} µs"
        style = "" if step.is_fine else "red"
        said = GONE_ON if has_gone_on(steps, number - 1) else answer(step)
        page.step(f"{number:4} {shown:>11}  ", f"{step.call}{said}", step.why, style=style)


def _summarize(page: Page, title: str, steps: list[StepRecord]) -> None:
    """How many steps, how long, how many were skipped or not reached, and which of them took longest."""
    took = list(enumerate(durations(steps)))
    timed = [(us, number) for number, us in took if us is not None and not _waits(steps[number])]
    total = sum(us for us, _ in timed)
    waited = sum(us for number, us in took if us is not None and _waits(steps[number]))
    skipped = sum(step.skipped for step in steps)
    later = sum(step.at_us is None and not has_gone_on(steps, number) for number, step in enumerate(steps))
    parts = [f"{sum(step.at_us is not None for step in steps)} steps in {total:,.0f} µs"]
    parts += [f"{skipped} of them skipped"] if skipped else []
    parts += [f"{later} not reached when this was written"] if later else []
    parts += [f"waited {waited:,.0f} µs to be started"] if waited else []
    page.line(f"{page.ink(title, 'bold')}: {', '.join(parts)}")
    page.heading("the slowest")
    for us, number in sorted(timed, reverse=True)[:SLOWEST]:
        page.step(f"{number + 1:4} {us:>8.1f} µs  {us / (total or 1.0):4.0%}  ", steps[number].call)


def has_gone_on(steps: list[StepRecord], number: int) -> bool:
    """Whether the step is the execve from which there is no way back: the one before it was made, and it did not fail."""
    step, before = steps[number], steps[number - 1] if number else None
    return step.call.startswith("execve(") and step.result == 0 and before is not None and before.at_us is not None


def durations(steps: list[StepRecord]) -> list[float | None]:
    """How long each step took, in µs; None for one that was skipped, not timed, or not reached when this was written.

    The time of a clone is written by the parent half, maybe when the new process has gone on: no later than that counts.
    """
    shown: list[float | None] = []
    before = 0.0
    for number, step in enumerate(steps):
        if step.at_us is None or step.skipped:
            shown.append(None)
            continue
        later = [other.at_us for other in steps[number + 1 : number + 2] if other.at_us is not None]
        end = max(before, min([step.at_us, *later]))
        shown.append(None if 0 < end - before < UNTIMED_US else end - before)
        before = end
    return shown


def answer(step: StepRecord) -> str:
    """What the kernel said, where that is worth a word."""
    if step.skipped:
        return "  (skipped: what it needs is not there)"
    if not -4096 < step.result < 0:
        return "  (after the start)" if step.at_us is None else ""
    name = errno.errorcode.get(-step.result, str(-step.result))
    return f"  = {name}, which is fine here" if step.is_fine else f"  = {name}"


def _waits(step: StepRecord) -> bool:
    """Whether its time is somebody else's: it waited to be started, or for hooks."""
    return step.call.startswith("read(start")
