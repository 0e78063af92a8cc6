"""``exec``: from the request to the first instruction of a further process in a container that runs.

Everybody's process has the container's own user, capabilities, environment and directory.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from runtime.spec import schema
from tests.bench import bundle, measure, peers
from tests.bench.first_instruction import OURS, monitored
from tests.bench.measure import Action, Figure
from tests.bench.ours import Ours, Shot
from tests.support.isolation import Run


def executions(ours: Ours, container: Shot, process: schema.Process) -> Action:
    def run(number: int) -> dict[str, int]:
        shot = ours.execute(container, process, f"e{number}")
        first_ns = shot.first_instruction_ns()
        ours.wait(shot.name)
        ours.remove(shot)
        return dict(zip(OURS, (first_ns - shot.received_ns, first_ns - shot.begun_ns), strict=True))

    return run


def measured(directory: Path, _run: Run, count: int = measure.RUNS) -> list[Figure]:
    spec = bundle.spec([bundle.STAMP, "wait"])
    assert spec.process
    process = msgspec.convert(msgspec.to_builtins(spec.process), schema.Process)
    process.args = [bundle.STAMP]
    name = f"bench-{os.getpid()}"
    with monitored(directory) as (paths, ours):
        made = bundle.write(directory / "bundle", spec)
        present = peers.available(paths.run_dir)
        container = ours.launch(made, "container")
        for peer in present:
            peer.do("run", "--detach", "--bundle", str(made), name)
        actions: dict[str, Action] = {"ours": executions(ours, container, process)}
        for peer in present:
            actions[peer.name] = lambda _, peer=peer: peer.first_instruction_ns("exec", name, bundle.STAMP)  # type: ignore[misc]
        times = measure.alternate(actions, count)
        ours.remove(container)
        for peer in present:
            peer.do("delete", "--force", name)
    return measure.table("exec", times, OURS, [peer.name for peer in present])
