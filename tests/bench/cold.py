"""``cold-oci-run``: a whole ``run`` of each command line, from its start to its end, the container's included.

Nothing of ours is warm here but the page cache: kernelet-oci is an interpreter that starts, reads config.json,
composes and spawns.  Both it and runc make a cgroup; crun does not (``peers``).

Where the time goes, in ms: the smallest of 37 alternating runs on a machine that was not quiet, now and before the code
was kept in one file (``runtime.oci.library``).  Down to our own modules it is processor time, then time passed; the last
line is of 68 runs of their own.

                                     before   now
    the interpreter                     5.2   5.2
    others' modules                     8.4   8.0   re, typing, pathlib, msgspec and what they import
    our modules                        10.5   8.3
    config.json, checked                0.6   0.6
    directory, lock, record             0.2   0.2
    cgroup                              2.1   2.0   with the filter of devices, and the modules for it
    ground                              0.7   0.8
    composing                           0.9   0.8
    packing, spawning                   1.2   1.4
    start, delete                       0.4   0.4
    all, processor time (runc: 16.7)   32.4  29.8   with the shell's start, the container's and the spaces between

So 0.8 of runc's time is not to be had this way: the interpreter, others' modules and the command itself are as much as
all of runc.  It would want a start that begins with what is imported already: an image of the interpreter's memory, or a
server.  Neither was tried.
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
