"""``cold-oci-run``: a whole ``run`` of each command line, from its start to its end, the container's included.

Nothing of ours is warm here but the page cache: kernelet-oci is an interpreter that starts, reads config.json,
composes and spawns.  Both it and runc make a cgroup; crun does not (``peers``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.bench import bundle, measure, peers
from tests.bench.first_instruction import in_memory
from tests.bench.measure import Action, Figure
from tests.support.isolation import Run

COMMAND = Path(sys.executable).with_name("kernelet-oci")


def whole_run(peer: peers.Peer, made: Path) -> Action:
    return lambda number: peer.do("run", "--bundle", str(made), f"cold-{os.getpid()}-{number}")


def measured(directory: Path, _run: Run, count: int = measure.RUNS) -> list[Figure]:
    spec = bundle.spec([bundle.STAMP])
    spec.linux.cgroups_path = "/bench"  # the same for both, and nothing above it to be left behind
    made = bundle.write(directory / "bundle", spec)
    with in_memory(directory) as run_dir:
        ours = peers.Peer("ours", run_dir / "ours", [str(COMMAND)])
        present = peers.available(run_dir)
        actions: dict[str, Action] = {peer.name: whole_run(peer, made) for peer in (ours, *present)}
        times = measure.alternate(actions, count)
    return measure.table("cold-oci-run", times, ("ours",), [peer.name for peer in present])
