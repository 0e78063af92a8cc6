"""``start-created``: from the request to start a created container to the user's first instruction.

What waits is the container's own init: ours in a runner of 24 KB, crun's and runc's in themselves.  A peer's command is
a process of its own and ours a message to the monitor, as it is for whoever uses either.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench import bundle, measure, peers
from tests.bench.first_instruction import monitored
from tests.bench.measure import Action, Figure
from tests.bench.ours import Ours
from tests.support.isolation import Run


def starts(ours: Ours, made: Path) -> Action:
    """Ours: create, not timed; start."""

    def run(number: int) -> int:
        shot = ours.launch(made, f"c{number}", waits=True)
        measure.wait_for_quiet()
        received_ns = ours.start(shot.name)
        first_ns = shot.first_instruction_ns()
        ours.wait(shot.name)
        ours.remove(shot)
        return first_ns - received_ns

    return run


def peer_starts(peer: peers.Peer, made: Path) -> Action:
    """A peer's: ``create``, not timed; ``start``; ``delete``."""

    def run(number: int) -> int:
        name = f"bench-{os.getpid()}-{number}"
        with peers.Sink() as sink:
            peer.do("create", "--bundle", str(made), name, output=sink.writer)
            measure.wait_for_quiet()
            begun_ns, pid = peer.begin("start", name)
            first_ns = sink.first_instruction_ns()
            peer.wait(pid, "start", name)
            peer.do("delete", "--force", name)
        return first_ns - begun_ns

    return run


def measured(directory: Path, _run: Run, count: int = measure.RUNS) -> list[Figure]:
    with monitored(directory) as (paths, ours):
        made = bundle.write(directory / "bundle", bundle.spec([bundle.STAMP]))
        present = peers.available(paths.run_dir)
        actions = {"ours": starts(ours, made), **{peer.name: peer_starts(peer, made) for peer in present}}
        times = measure.alternate(actions, count)
    return measure.table("start-created", times, ("ours",), [peer.name for peer in present])
