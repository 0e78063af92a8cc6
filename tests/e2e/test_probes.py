"""A node's liveness probes: a hundred ExecSync a second, for as long as ``KERNELET_PROBE_SECONDS`` says (10 minutes in
``make endurance``, 3 s otherwise): every one answered, nothing left, nothing grown.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from kernel import process
from runtime.monitor.adopt import find_reapers
from tests.e2e.kubelet import Kubelet
from tests.support import wait
from tests.support.daemon import Daemon
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry")

SECONDS = float(os.environ.get("KERNELET_PROBE_SECONDS", "3"))
IS_LONG = SECONDS >= 60
PODS = 50 if IS_LONG else 8
RATE = 100
#: A kubelet asks for each container in a thread of its own.
CALLERS = 16
#: What a daemon may grow by after its first probes: caches that fill, and no more however long it takes.
GROWTH_KB = 8 << 10


@dataclass
class Answers:
    """What came back: how long each probe took, and what was wrong with any."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Size:
    """What a process holds."""

    descriptors: int
    threads: int
    memory_kb: int


@pytest.mark.timeout(SECONDS + 300)
def test_a_hundred_probes_a_second_leave_nothing(daemon: Daemon, kubelet: Kubelet) -> None:
    containers = [kubelet.run(kubelet.run_pod(), "exec sleep 100000") for _ in range(PODS)]
    ours = {"daemon": daemon.pid, "monitor": daemon.monitor_pid()}
    with ThreadPoolExecutor(CALLERS) as callers:
        probe(kubelet, containers, callers, max(2 * PODS / RATE, SECONDS / 10))  # what is made once is made now
        before = {name: size_of(pid) for name, pid in ours.items()}
        begun = time.monotonic()
        answers = probe(kubelet, containers, callers, SECONDS)
        taken = time.monotonic() - begun
    assert answers.wrong == []
    assert len(answers.seconds) == int(SECONDS * RATE)
    wait.until(lambda: not zombies(daemon), 10, "every probe to be reaped")
    wait.until(lambda: all(size_of(pid).descriptors <= before[name].descriptors for name, pid in ours.items()), 10, "descriptors")
    after = {name: size_of(pid) for name, pid in ours.items()}
    for name in ours:
        grown = after[name].memory_kb - before[name].memory_kb
        assert grown < GROWTH_KB, f"the {name} grew by {grown} KB in {taken:.0f} s: {before[name]} {after[name]}"
    assert set(ours.values()) == {daemon.pid, daemon.monitor_pid()}, "nobody was replaced meanwhile"
    milliseconds = sorted(1000 * seconds for seconds in answers.seconds)
    print(
        f"\n{len(milliseconds)} probes on {PODS} pods in {taken:.1f} s ({len(milliseconds) / taken:.0f} a second): "
        f"median {statistics.median(milliseconds):.1f} ms, p99 {milliseconds[int(0.99 * len(milliseconds)) - 1]:.1f} ms; "
        + "; ".join(f"{name} {before[name].memory_kb} KB before, {after[name].memory_kb} after" for name in ours)
    )


def probe(kubelet: Kubelet, containers: list[str], callers: ThreadPoolExecutor, seconds: float) -> Answers:
    """Probe one container after the other, ``RATE`` times a second, each beginning in time if a caller is free."""
    answers, guard = Answers(), threading.Lock()
    begun = time.monotonic()

    def ask(number: int) -> None:
        time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
        started = time.monotonic()
        request = api.ExecSyncRequest(container_id=containers[number % len(containers)], cmd=["echo", str(number)], timeout=30)
        answer = kubelet.call(request, deadline_seconds=60)
        with guard:
            answers.seconds.append(time.monotonic() - started)
            if (answer.exit_code, answer.stdout) != (0, f"{number}\n".encode()):
                answers.wrong.append(f"{number}: {answer}")

    list(callers.map(ask, range(int(seconds * RATE))))
    return answers


def size_of(pid: int) -> Size:
    """Its descriptors, threads, and anonymous memory: files that are mapped are not its own."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Size(
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
        memory_kb=int(status["RssAnon"].split()[0]),
    )


def zombies(daemon: Daemon) -> set[int]:
    """Processes that ended and were not reaped, among those that are ours."""
    parents = {daemon.pid, daemon.monitor_pid(), *(found.pid for found in find_reapers(daemon.paths.run_dir).values())}
    return {pid for pid in process.all_pids() if is_zombie(pid) and process.parent_of(pid) in parents}


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
