"""Many starts: thousands in a row, dozens at once; nothing hangs, nothing is left, nothing grows.

KERNELET_ENDURANCE=10000 (``make endurance``) is the whole length; without, it takes a minute at most.  What is counted at
the end: descriptors, memory, threads, mounts and children of the monitor and of this process; cgroups, processes and
mounts of the node by the audit that every test has.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernel import mount
from kernel.cgroup import Cgroup
from runtime.container import ground, init
from runtime.container.descriptors import EXIT_FILE, Descriptor
from runtime.monitor.client import Exited, MonitorClient
from runtime.node import Node
from runtime.paths import Paths
from tests.safety.bundle import Bundle
from tests.safety.oci import Oci
from tests.support import cgroup, wait, wishes
from tests.support.requires import requires

pytestmark = [requires("root", "cgroup2", "busybox"), pytest.mark.timeout(7200)]

STARTS = int(os.environ.get("KERNELET_ENDURANCE", "1200"))
AT_ONCE = 64
#: Before the first look: caches fill, an allocator takes what it will keep.
WARM_UP = 200
#: How much more memory may be in use after any number of starts: what the allocator has not given back.
SLACK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a process holds."""

    descriptors: int
    memory_bytes: int
    threads: int
    mounts: int
    children: int
    zombies: int


def holdings(pid: int | str) -> Holdings:
    """What process *pid* holds now."""
    main = os.getpid() if pid == "self" else pid
    children = [int(child) for child in Path(f"/proc/{pid}/task/{main}/children").read_text().split()]
    states = [_state(child) for child in children]
    return Holdings(
        len(os.listdir(f"/proc/{pid}/fd")),
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(f"/proc/{pid}/task")),
        len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        len(children),
        states.count("Z"),
    )


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def assert_no_growth(before: Holdings, pid: int | str) -> Holdings:
    """Nothing more is held by *pid* than before, but for some memory; what has just ended may take a moment to be reaped."""

    def is_settled() -> Holdings | None:
        now = holdings(pid)
        return now if now.zombies == 0 and now.children <= before.children + 2 else None

    after = wait.until(is_settled, 10, f"the last children of {pid} to be reaped")
    assert after is not None
    assert after.descriptors <= before.descriptors + 2, (before, after)
    assert after.threads <= before.threads, (before, after)
    assert after.mounts <= before.mounts, (before, after)
    assert after.memory_bytes <= before.memory_bytes + SLACK_BYTES, (before, after)
    return after


class Starter:
    """Runs one bundle by a monitor, as the daemon does without its records."""

    def __init__(self, paths: Paths, bundle: Bundle) -> None:
        self._paths, self._bundle = paths, bundle
        self._ended: dict[str, int | None] = {}
        self._news = threading.Condition()
        self.monitor = MonitorClient(paths, on_exit=self._on_exit, on_lost=lambda: None)
        self.monitor.connect()
        self.monitor.settle()

    def close(self) -> None:
        self.monitor.close(end_monitor=True)

    def run(self, name: str) -> int | None:
        """Create, start, wait for the end, forget; the exit code."""
        run_dir = self._paths.run_container(name)
        run_dir.mkdir()
        group = Cgroup(cgroup.ROOT / name)
        group.create()
        root = mount.clone_tree(self._bundle.rootfs)
        spec = self._bundle.spec
        prepared = ground.prepare(spec, root, attach_point=self._paths.attach_point, in_cgroup=True, by_monitor=True)
        program = init.program(name, spec, prepared.facts)
        with group.open() as directory:
            descriptors = {**prepared.descriptors, Descriptor.CGROUP: directory}
            launched, report = self.monitor.launch(
                name, "container", program, run_dir=run_dir, name="kernelet:init", descriptors=descriptors
            )
        prepared.close()
        with report.memory:
            assert launched.failed is None, program.all_steps[launched.failed]
            assert self.monitor.start(name).failed is None
        with self._news:
            assert self._news.wait_for(lambda: name in self._ended, 60), f"{name} has not ended"
            code = self._ended.pop(name)
        self.monitor.forget(name, run_dir)
        group.remove()
        (run_dir / EXIT_FILE).unlink(missing_ok=True)
        run_dir.rmdir()
        return code

    def _on_exit(self, exited: Exited) -> None:
        with self._news:
            self._ended[exited.id] = exited.code
            self._news.notify_all()


@pytest.fixture
def starter(paths: Paths, bundle: Bundle) -> Iterator[Starter]:
    made = Starter(paths, bundle)
    yield made
    made.close()


def report(what: str, count: int, seconds: float, before: Holdings, after: Holdings) -> None:
    """Figures, for who runs it with -s."""
    grown = (after.memory_bytes - before.memory_bytes) / 1024
    print(f"\n{what}: {count} in {seconds:.1f} s, {1000 * seconds / count:.1f} ms each; memory {grown:+.0f} KiB, {after}")


def test_thousands_in_a_row(starter: Starter) -> None:
    """CVE-2022-23471, CVE-2025-64329, P12, P15: by the monitor, one after the other."""
    for number in range(WARM_UP):
        assert starter.run(f"warm{number}") == 0
    ours, theirs, begun = holdings("self"), holdings(starter.monitor.pid), time.monotonic()
    for number in range(STARTS):
        assert starter.run(f"row{number}") == 0
    seconds = time.monotonic() - begun
    report("in a row", STARTS, seconds, theirs, assert_no_growth(theirs, starter.monitor.pid))
    assert_no_growth(ours, "self")


def test_many_at_once(starter: Starter) -> None:
    """CVE-2022-23471, P6: by the monitor, from as many threads."""
    rounds = max(3, STARTS // 1000)
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def run_all(name: str) -> None:
            assert list(pool.map(starter.run, [f"{name}-{number}" for number in range(AT_ONCE)])) == [0] * AT_ONCE

        for number in range(3):
            run_all(f"warm{number}")
        ours, theirs, begun = holdings("self"), holdings(starter.monitor.pid), time.monotonic()
        for number in range(rounds):
            run_all(f"round{number}")
        seconds = time.monotonic() - begun
        report("at once", rounds * AT_ONCE, seconds, theirs, assert_no_growth(theirs, starter.monitor.pid))
        assert_no_growth(ours, "self")


def test_failing_starts_leave_as_little(starter: Starter, bundle: Bundle) -> None:
    """CVE-2022-23471, P13: one that fails at execve takes nothing with it."""
    bundle.process.args = ["/nonexistent"]

    def fail(number: int) -> None:
        with pytest.raises(AssertionError):
            starter.run(f"fail{number}")
        starter.monitor.forget(f"fail{number}", starter._paths.run_container(f"fail{number}"))
        group = Cgroup(cgroup.ROOT / f"fail{number}")
        group.kill()
        group.remove()
        for file in starter._paths.run_container(f"fail{number}").iterdir():
            file.unlink()
        starter._paths.run_container(f"fail{number}").rmdir()

    for number in range(30):
        fail(number)
    before = holdings(starter.monitor.pid)
    for number in range(30, 30 + STARTS // 10):
        fail(number)
    assert_no_growth(before, starter.monitor.pid)


def test_the_whole_daemon(node: Node) -> None:
    """CVE-2022-23471, P15: records, snapshots and logs, too."""
    pod = node.run_sandbox(wishes.sandbox())

    def once() -> None:
        container = wishes.run(node, pod, wishes.container(["true"]))
        assert wishes.finish(node, container) == 0
        node.remove_container(container)

    for _ in range(15):
        once()
    ours, theirs, begun = holdings("self"), holdings(node.monitor_pid), time.monotonic()
    count = STARTS // 30
    for _ in range(count):
        once()
    seconds = time.monotonic() - begun
    report("by the daemon", count, seconds, theirs, assert_no_growth(theirs, node.monitor_pid))
    assert_no_growth(ours, "self")


def test_the_command_line_in_a_row(oci: Oci, bundle: Bundle) -> None:
    """CVE-2022-23471, P12: create, start, delete; each a process of its own."""
    count, before, begun = STARTS // 20, holdings("self"), time.monotonic()
    for _ in range(count):
        assert oci.run(bundle).code == 0
    seconds = time.monotonic() - begun
    report("by command line", count, seconds, before, assert_no_growth(before, "self"))


def test_the_command_line_at_once(oci: Oci, bundle: Bundle) -> None:
    """CVE-2022-23471, P6: run, as many processes at a time."""
    bundle.write()
    before, begun = holdings("self"), time.monotonic()
    for attempt in range(max(1, STARTS // 3000)):
        running = []
        for number in range(AT_ONCE):
            running.append(oci.begin("run", "--bundle", str(bundle.directory), f"once-{attempt}-{number}"))
        assert [oci.end(process) for process in running] == [(0, "")] * AT_ONCE
    seconds = time.monotonic() - begun
    report("by command line at once", AT_ONCE, seconds, before, assert_no_growth(before, "self"))
