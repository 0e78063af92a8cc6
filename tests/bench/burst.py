"""``burst-100``: a hundred containers asked for at once, until the last of them has ended.

Ours reads config.json, prepares, composes and packs for each, in this process, and sends the launch to the monitor
without waiting for the one before.  A peer gets its better rate of one and of two ``run`` at a time, this machine's
processors.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.bench import bundle, measure, peers
from tests.bench.first_instruction import monitored
from tests.bench.measure import Figure
from tests.bench.ours import Ours
from tests.support.isolation import Run

CONTAINERS = 100
ROUNDS = 6


def ours_all(ours: Ours, made: Path, count: int) -> int:
    """Nanoseconds for *count* containers, started and ended."""
    begun_ns = time.monotonic_ns()
    shots = [ours.begin(made, f"b{number}") for number in range(count)]
    for shot in shots:
        ours.wait(shot.name)
    taken_ns = time.monotonic_ns() - begun_ns
    for shot in shots:
        ours.remove(shot)
    return taken_ns


def peer_all(peer: peers.Peer, made: Path, count: int, at_once: int) -> int:
    """The same by *at_once* commands beside one another."""
    begun_ns = time.monotonic_ns()
    running: list[int] = []
    for number in range(count):
        if len(running) == at_once:
            peer.wait(running.pop(0), "run")
        running.append(peer.begin("run", "--bundle", str(made), f"burst-{os.getpid()}-{number}")[1])
    for pid in running:
        peer.wait(pid, "run")
    return time.monotonic_ns() - begun_ns


def measured(directory: Path, _run: Run, count: int = ROUNDS, containers: int = CONTAINERS) -> list[Figure]:
    with monitored(directory) as (paths, ours):
        made = bundle.write(directory / "bundle", bundle.spec([bundle.STAMP]))
        present = peers.available(paths.run_dir)
        actions: dict[str, measure.Action] = {"ours": lambda _: ours_all(ours, made, containers)}
        for peer in present:
            for at_once in (1, 2):
                actions[f"{peer.name} -P{at_once}"] = lambda _, peer=peer, at_once=at_once: peer_all(  # type: ignore[misc]
                    peer, made, containers, at_once
                )
        times = measure.alternate(actions, count, warm_up=1)
    return measure.table(f"burst-{containers}", times, ("ours",), [name for name in times if name != "ours"])
