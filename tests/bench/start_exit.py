"""``start-exit``: request to exit of one container, on the same bundle, warm.

Ours twice: *ours* is seen from the monitor, which is what stands where a peer's own process stands; *ours by
daemon* goes the whole way, a request over the socket to a monitor in another process and its word of the exit
back.  Both read config.json, prepare the ground, compose the program, and end when the exit status is known; what
is removed after that (0.1 ms) is in a peer's time and not in ours.

Nobody makes a cgroup but runc: crun's device filter wants CAP_SYS_RESOURCE, so it runs with cgroups disabled, and
ours does as crun does.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel import mount
from kernel.fd import Fd, memory, open_path
from kernel.program import Program
from kernel.report import Report
from runtime.container import ground, init
from runtime.container.descriptors import EXIT_FILE
from runtime.errors import KerneletError
from runtime.monitor.__main__ import leave_the_hosts_mounts
from runtime.monitor.client import Exited, MonitorClient
from runtime.monitor.launch import Launcher
from runtime.monitor.watch import Watch
from runtime.paths import Paths
from runtime.spec import defaults, load
from tests.bench import bundle, measure
from tests.support.isolation import Run

RUNS = 60


class Ours:
    """What both ways share: from config.json to a program and the descriptors that it names."""

    def __init__(self, paths: Paths, directory: Path) -> None:
        self._paths, self._config, self._rootfs = paths, f"{directory}/config.json", f"{directory}/rootfs"

    def prepare(self, name: str) -> tuple[Path, ground.Ground, Program]:
        with open_path(self._config) as file:
            spec = load.load(os.read(file.fileno(), load.SIZE_LIMIT_BYTES))
        spec.linux.devices = defaults.devices()
        run_dir = self._paths.run_container(name)
        run_dir.mkdir()
        root = mount.clone_tree(self._rootfs)
        prepared = ground.prepare(spec, root, attach_point=self._paths.attach_point, in_cgroup=False, by_monitor=True)
        return run_dir, prepared, init.program(name, spec, prepared.facts, waits=False)


class FromTheMonitor(Ours):
    """Launch as the monitor does, in a process and a mount namespace like the monitor's; that process takes the time."""

    def __init__(self, paths: Paths, directory: Path) -> None:
        super().__init__(paths, directory)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._ours.close()
                self._serve(theirs)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()

    def close(self) -> None:
        self._ours.close()
        os.waitpid(self._pid, 0)

    def run(self, number: int) -> int:
        self._ours.send(str(number).encode())
        answer = self._ours.recv(64)
        if not answer:
            raise KerneletError("the launching process ended; its error is above")
        return int(answer)

    def _serve(self, connection: socket.socket) -> None:
        launcher, last = Launcher(), None
        leave_the_hosts_mounts(self._paths.run_dir, "/dev/null", self._rootfs)
        while number := connection.recv(64):
            watch, taken_ns = self._launch(launcher, f"m{number.decode()}")
            if last is not None:
                last.bury_reaper()  # as the monitor does: when it hears of it, not waiting
            last = watch
            connection.send(str(taken_ns).encode())
        if last is not None:
            last.bury_reaper()

    def _launch(self, launcher: Launcher, name: str) -> tuple[Watch, int]:
        begun = time.perf_counter_ns()
        run_dir, prepared, program = self.prepare(name)
        report = Report(len(program.all_steps))
        request = {"id": name, "kind": "container", "run_dir": str(run_dir), "name": "bench", "input": False, "output": "log"}
        with memory("kernelet-program", program.pack()) as code:
            files: list[Fd] = [code, report.memory, *prepared.descriptors.values()]
            watch, ends = launcher.launch({**request, "descriptors": list(prepared.descriptors)}, files)
        os.eventfd_read(watch.done.fileno())
        ended = watch.read_exit()
        taken_ns = time.perf_counter_ns() - begun
        for end in ends.values():
            end.close()
        watch.end_reaper()
        watch.close()
        if ended.code != 0:
            raise KerneletError(f"{name} ended with {ended.code}")
        os.unlink(run_dir / EXIT_FILE)
        os.rmdir(run_dir)
        return watch, taken_ns


class ByDaemon(Ours):
    """The library path of a container, as the daemon takes it."""

    def __init__(self, paths: Paths, directory: Path) -> None:
        super().__init__(paths, directory)
        self._ended = threading.Event()
        self._monitor = MonitorClient(paths, on_exit=self._on_exit, on_lost=lambda: None)
        self._monitor.connect()
        self._monitor.settle()

    def close(self) -> None:
        self._monitor.close(end_monitor=True)

    def run(self, number: int) -> int:
        name = f"d{number}"
        self._ended.clear()
        begun = time.perf_counter_ns()
        run_dir, prepared, program = self.prepare(name)
        launched, report = self._monitor.launch(
            name, "container", program, run_dir=run_dir, name="bench", descriptors=prepared.descriptors, sinks=()
        )
        prepared.close()
        report.memory.close()
        if launched.failed is not None:
            raise KerneletError(f"{program.all_steps[launched.failed]}: errno {launched.errno}")
        self._ended.wait(10)
        taken_ns = time.perf_counter_ns() - begun
        self._monitor.forget(name, run_dir)
        os.unlink(run_dir / EXIT_FILE)
        os.rmdir(run_dir)
        return taken_ns

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
def prepared(directory: Path) -> Iterator[dict[str, Callable[[int], int | None]]]:
    """All who run the bundle, by name."""
    made = bundle.write(directory / "bundle", bundle.spec(["true"]))
    paths = Paths(directory / "root", directory / "run")
    paths.run_dir.mkdir()
    with mount.new_filesystem("tmpfs") as memory:  # as /run is everywhere
        mount.attach(memory, paths.run_dir)
    paths.prepare()
    monitor = FromTheMonitor(paths, made)
    by_daemon = ByDaemon(paths, made)  # after the fork: it has a thread
    actions: dict[str, Callable[[int], int | None]] = {"ours": monitor.run, "ours by daemon": by_daemon.run}
    if shutil.which("crun"):
        actions["crun"] = peer(["crun", "--root", str(paths.run_dir / "crun"), "--cgroup-manager=disabled"], made)
    if shutil.which("runc"):
        actions["runc"] = peer(["runc", "--root", str(paths.run_dir / "runc")], made)
    try:
        yield actions
    finally:
        by_daemon.close()
        monitor.close()
        mount.unmount(paths.run_dir)


def measured(directory: Path, _run: Run, count: int = RUNS) -> list[measure.Figure]:
    with prepared(directory) as actions:
        return measure.table("start-exit", measure.alternate(actions, count), ("ours", "ours by daemon"), ("crun", "runc"))
