"""kernelet explain: what the start of a container really did, system call by system call."""

from __future__ import annotations

import argparse
import errno
import json
from pathlib import Path

import msgspec

from cri.api import api_pb2 as api
from cri.client import Client
from cri.command import connection
from runtime import history
from runtime.errors import NotFound
from runtime.paths import Paths


def add_explain(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("container", help="the beginning of its id, or its name")


def run_explain(options: argparse.Namespace) -> int:
    """Needs to be on the daemon's machine: the steps are in its run directory."""
    with connection.connect(options) as client:
        container = connection.find_container(client, options.container)
        steps = history.load(paths_of(client).run_container(container.id))
    if not steps:
        raise NotFound(f"container {container.metadata.name}: of its start nothing is kept; the node was restarted since")
    if options.json:
        print(json.dumps(msgspec.to_builtins(steps), indent=2))
        return 0
    print(f"container {container.metadata.name} ({container.id[:13]}), {len(steps)} steps")
    for number, (step, took_us) in enumerate(zip(steps, durations(steps), strict=True), 1):
        print(f"{number:4} {took_us:>10}  {step.call}{answer(step)}\n{'':17}{step.why}")
    return 0


def paths_of(client: Client) -> Paths:
    """Where the daemon keeps what runs, as it says itself."""
    info = client.call(api.StatusRequest(verbose=True), api.StatusResponse).info
    return Paths(run_dir=Path(json.loads(info["config"])["stateDir"]))


def durations(steps: list[history.StepRecord]) -> list[str]:
    """How long each step took, in µs; nothing for one that was skipped or not reached when this was written."""
    shown, before = [], 0.0
    for step in steps:
        if step.at_us is None or step.skipped:
            shown.append("")
            continue
        shown.append(f"{step.at_us - before:.1f} µs")
        before = step.at_us
    return shown


def answer(step: history.StepRecord) -> str:
    """What the kernel said, where that is worth a word."""
    if step.skipped:
        return "  (skipped: what it needs is not there)"
    if step.at_us is None:
        return "  (after the start)"
    if -4096 < step.result < 0:
        return f"  = {errno.errorcode.get(-step.result, -step.result)}, which is fine here"
    return ""
