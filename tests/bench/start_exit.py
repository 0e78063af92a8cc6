"""``start-exit``: request to exit of one container, on the same bundle, warm.

Ours: the bundle's config.json is read, the ground prepared, the program composed and run by a monitor that is
there already, and its exit heard.  crun runs without cgroups (its device filter wants CAP_SYS_RESOURCE); ours and
runc make one.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel import mount
from kernel.cgroup import Cgroup, find_tree
from kernel.fd import open_path
from runtime.container import ground, init
from runtime.container.descriptors import Descriptor
from runtime.errors import KerneletError
from runtime.monitor.client import Exited, MonitorClient
from runtime.paths import Paths
from runtime.spec import defaults, load
from tests.bench import bundle, measure

RUNS = 60


class Ours:
    """The library path of a container, as the daemon takes it."""

    def __init__(self, paths: Paths, directory: Path) -> None:
        self._paths, self._bundle = paths, directory
        self._ended = threading.Event()
        self._monitor = MonitorClient(paths, on_exit=self._on_exit, on_lost=lambda: None)
        self._monitor.connect()
        self._tree = find_tree()

    def close(self) -> None:
        self._monitor.close(end_monitor=True)

    def run(self, number: int) -> None:
        """One container, from its config.json to its end."""
        name = f"bench-{number}"
        spec = load.load((self._bundle / "config.json").read_bytes())
        spec.linux.devices = defaults.devices()
        run_dir = self._paths.run_container(name)
        run_dir.mkdir()
        cgroup = Cgroup(self._tree / name)
        cgroup.create()
        self._ended.clear()
        root = mount.clone_tree(self._bundle / "rootfs")
        prepared = ground.prepare(spec, root, attach_point=self._paths.attach_point, in_cgroup=True)
        program = init.program(name, spec, prepared.facts, waits=False)
        with cgroup.open() as opened:
            descriptors = {**prepared.descriptors, Descriptor.CGROUP: opened}
            launched, report = self._monitor.launch(
                name, "container", program, run_dir=run_dir, name="bench", descriptors=descriptors, sinks=()
            )
        prepared.close()
        report.memory.close()
        if launched.failed is not None:
            raise KerneletError(f"{program.all_steps[launched.failed]}: errno {launched.errno}")
        self._ended.wait(10)
        self._monitor.forget(name, run_dir)
        cgroup.remove()
        os.unlink(run_dir / "exit")
        os.rmdir(run_dir)

    def _on_exit(self, exited: Exited) -> None:
        if exited.code != 0:
            raise KerneletError(f"{exited.id} ended with {exited.code}")
        self._ended.set()


def peer(command: list[str], directory: Path) -> Callable[[int], None]:
    """A peer's whole ``run``, started in the cheapest way there is."""
    program = shutil.which(command[0]) or command[0]
    with open_path("/dev/null", os.O_RDWR) as null:
        quiet = null.duplicate(100)
    actions = [(os.POSIX_SPAWN_DUP2, quiet.fileno(), number) for number in (0, 1, 2)]

    def run(number: int) -> None:
        arguments = [*command, "run", "--bundle", str(directory), f"bench-{os.getpid()}-{number}"]
        pid = os.posix_spawn(program, arguments, os.environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        if status:
            raise KerneletError(f"{command[0]} failed with status {status}")
        assert quiet.is_open

    return run


@contextmanager
def prepared(directory: Path) -> Iterator[dict[str, Callable[[int], None]]]:
    """All who run the bundle, by name."""
    made = bundle.write(directory / "bundle", ["true"])
    paths = Paths(directory / "root", directory / "run")
    paths.prepare()
    ours = Ours(paths, made)
    actions: dict[str, Callable[[int], None]] = {"ours": ours.run}
    if shutil.which("crun"):
        actions["crun"] = peer(["crun", "--root", str(directory / "crun"), "--cgroup-manager=disabled"], made)
    if shutil.which("runc"):
        actions["runc"] = peer(["runc", "--root", str(directory / "runc")], made)
    try:
        yield actions
    finally:
        ours.close()


def measured(directory: Path) -> list[measure.Figure]:
    with prepared(directory) as actions:
        return measure.table("start-exit", measure.alternate(actions, RUNS), "ours")
