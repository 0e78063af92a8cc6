"""From the request to the user's first instruction: ``first-instruction``, ``-join`` and ``-seccomp``.

The user process is a static program without libc that notes the time before all else (``stamp.c``).  All start the
same bundle: proc, dev, devpts, shm, mqueue, sysfs, cgroup2, six devices, masked and read-only paths, fourteen
capabilities, no_new_privs, a limit.  *-join* enters a pod's network, IPC and UTS namespaces instead of making them,
beside peers that do the same and ("new") that make their own; *-seccomp* has the default profile, which a peer
compiles from config.json at each run and ours once, for it remembers filters by their profile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel import mount
from runtime.container.seccomp import default_profile
from runtime.paths import Paths
from runtime.sandbox import namespaces
from runtime.spec import defaults, schema
from tests.bench import bundle, measure, peers
from tests.bench.measure import Action, Figure
from tests.bench.ours import Ours
from tests.support.isolation import Run

OURS = ("ours", "ours from config.json")


@contextmanager
def in_memory(directory: Path) -> Iterator[Path]:
    """A directory on a tmpfs for everybody's state, as /run is everywhere."""
    made = directory / "run"
    made.mkdir()
    with mount.new_filesystem("tmpfs") as memory:
        mount.attach(memory, made)
    try:
        yield made
    finally:
        mount.unmount(made)  # with the pins below it


@contextmanager
def monitored(directory: Path) -> Iterator[tuple[Paths, Ours]]:
    """A run directory, and a monitor that serves it."""
    with in_memory(directory) as run_dir:
        paths = Paths(directory / "root", run_dir)
        paths.prepare()
        ours = Ours(paths)
        try:
            yield paths, ours
        finally:
            ours.close()


def shots(ours: Ours, made: Path) -> Action:
    """Ours: one start gives both of its values."""

    def run(number: int) -> dict[str, int]:
        shot = ours.launch(made, f"c{number}")
        first_ns = shot.first_instruction_ns()
        ours.wait(shot.name)
        ours.remove(shot)
        return dict(zip(OURS, (first_ns - shot.received_ns, first_ns - shot.begun_ns), strict=True))

    return run


def runs(peer: peers.Peer, made: Path) -> Action:
    """A peer's ``run``."""
    return lambda number: peer.first_instruction_ns("run", "--bundle", str(made), f"bench-{os.getpid()}-{number}")


def compared(
    case: str, directory: Path, wanted: Callable[[Paths], schema.Spec], count: int, *, beside: schema.Spec | None = None
) -> list[Figure]:
    """Us and the peers with the spec *wanted*; the peers with *beside*, too, if that is given."""
    with monitored(directory) as (paths, ours):
        made = bundle.write(directory / "bundle", wanted(paths))
        present = peers.available(paths.run_dir)
        actions: dict[str, Action] = {"ours": shots(ours, made), **{peer.name: runs(peer, made) for peer in present}}
        if beside is not None:
            other = bundle.write(directory / "beside", beside)
            actions |= {f"{peer.name} new": runs(peer, other) for peer in present}
        times = measure.alternate(actions, count)
    return measure.table(case, times, OURS, [name for name in actions if name != "ours"])


def measured(directory: Path, _run: Run, count: int = measure.RUNS) -> list[Figure]:
    return compared("first-instruction", directory, lambda _: bundle.spec([bundle.STAMP]), count)


def measured_join(directory: Path, _run: Run, count: int = measure.RUNS) -> list[Figure]:
    def wanted(paths: Paths) -> schema.Spec:
        namespaces.prepare(paths)
        namespaces.create(paths, "pod", network=True, ipc=True, hostname="bench", sysctls={})
        pinned = namespaces.pinned(paths, "pod")
        names = {"net": "network"}
        return bundle.with_shared(bundle.spec([bundle.STAMP]), {names.get(kind, kind): path for kind, path in pinned.items()})

    return compared("first-instruction-join", directory, wanted, count, beside=bundle.spec([bundle.STAMP]))


def measured_seccomp(directory: Path, _run: Run, count: int = measure.RUNS) -> list[Figure]:
    def wanted(_: Paths) -> schema.Spec:
        spec = bundle.spec([bundle.STAMP])
        spec.linux.seccomp = default_profile(defaults.CAPABILITIES)
        return spec

    return compared("first-instruction-seccomp", directory, wanted, count)
