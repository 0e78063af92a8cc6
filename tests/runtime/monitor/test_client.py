"""The daemon's end of a real monitor: found, lost, found again, shared by two, and deaf to none."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kernel.program import Program, Vector
from runtime.container import process, reaper
from runtime.errors import MonitorLost
from runtime.monitor import protocol
from runtime.monitor.client import Exited, Launched, MonitorClient
from runtime.paths import Paths
from tests.support import wait
from tests.support.requires import requires

pytestmark = requires("root", "busybox")


@dataclass
class Daemon:
    """A client, what it heard, and how often its monitor was lost."""

    paths: Paths
    exits: queue.Queue[Exited] = field(default_factory=queue.Queue)
    lost: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.client = MonitorClient(self.paths, on_exit=self.exits.put, on_lost=self.lost.set)

    def launch(self, name: str, script: str, *, waits: bool = True) -> tuple[Launched, Path]:
        run_dir = self.paths.run_container(name)
        run_dir.mkdir(mode=0o700)
        steps = Program(name)
        steps.clone((), cgroup=None, why="a child")
        process.close_all(steps)
        if waits:
            process.wait_for_start(steps)
        steps.call("execve", "/bin/busybox", Vector((b"sh", b"-c", script.encode())), Vector(()), why="run")
        reaper.stay_behind(steps)
        kind = "container" if waits else "exec"
        launched, report = self.client.launch(name, kind, steps, run_dir=run_dir, name="test", descriptors={})
        report.memory.close()
        return launched, run_dir


@pytest.fixture
def make(paths: Paths) -> Iterator[Callable[[], Daemon]]:
    """Daemons that are connected to one monitor, which is ended after the test."""
    daemons: list[Daemon] = []

    def connect() -> Daemon:
        daemon = Daemon(paths)
        daemon.client.connect()
        daemon.client.settle()
        daemons.append(daemon)
        return daemon

    yield connect
    for daemon in reversed(daemons):
        daemon.client.close(end_monitor=daemon is daemons[0])


@pytest.fixture
def daemon(make: Callable[[], Daemon]) -> Daemon:
    return make()


def kill_monitor(daemon: Daemon) -> int:
    """Kill it; returns when it is gone with all its sockets, so that no connection is made to what is ending."""
    pid = daemon.client.pid
    os.kill(pid, signal.SIGKILL)
    wait.until(lambda: ") Z " in Path(f"/proc/{pid}/stat").read_text(), 5, "the monitor to be a zombie")
    assert daemon.lost.wait(5)
    return pid


def end(daemon: Daemon, name: str, run_dir: Path) -> None:
    daemon.client.forget(name, run_dir)
    wait.until(lambda: name not in daemon.client.known()[0], 5)


def test_a_process_is_created_started_and_its_end_is_told(daemon: Daemon) -> None:
    launched, run_dir = daemon.launch("one", "exit 7")
    assert launched.failed is None
    assert launched.pid > 0
    assert daemon.client.known() == (["one"], [])
    assert daemon.client.start("one").failed is None
    exited = daemon.exits.get(timeout=10)
    assert (exited.id, exited.code) == ("one", 7)
    assert abs(exited.at_ns - time.time_ns()) < 10**10
    standing = daemon.client.adopt("one", "container", run_dir=run_dir)
    assert (standing.state, standing.code) == ("ended", 7)
    end(daemon, "one", run_dir)


def test_a_step_that_fails_is_told_with_its_errno(daemon: Daemon) -> None:
    steps = Program("fails")
    steps.clone((), cgroup=None, why="a child")
    steps.call("chdir", "/nonexistent", why="not there")
    reaper.stay_behind(steps)
    run_dir = daemon.paths.run_container("fails")
    run_dir.mkdir()
    launched, report = daemon.client.launch("fails", "container", steps, run_dir=run_dir, name="test", descriptors={})
    report.memory.close()
    assert (launched.failed, launched.errno) == (1, 2)
    end(daemon, "fails", run_dir)


def test_a_signal_reaches_who_lives(daemon: Daemon) -> None:
    _, run_dir = daemon.launch("one", "sleep 100")
    daemon.client.start("one")
    assert daemon.client.signal("one", signal.SIGKILL)
    assert daemon.exits.get(timeout=10).code == 137
    with pytest.raises(ProcessLookupError, match="no such process: two"):
        daemon.client.signal("two", signal.SIGKILL)
    end(daemon, "one", run_dir)


def test_forget_ends_who_still_runs_and_knows_no_strangers(daemon: Daemon) -> None:
    launched, run_dir = daemon.launch("one", "sleep 100")
    daemon.client.start("one")
    daemon.client.forget("one", run_dir)
    wait.until(lambda: not Path(f"/proc/{launched.pid}").exists(), 5, "the process to be gone")
    daemon.client.forget("one", run_dir)
    daemon.client.forget("nobody", run_dir)
    assert daemon.client.known() == ([], [])


def test_a_second_start_is_answered_like_the_first(daemon: Daemon) -> None:
    launched, run_dir = daemon.launch("one", "sleep 100")
    assert daemon.client.start("one").failed is None
    again = daemon.client.start("one")
    assert (again.pid, again.failed) == (launched.pid, None)
    end(daemon, "one", run_dir)


def test_a_second_client_finds_the_same_monitor_and_hears_the_same(make: Callable[[], Daemon]) -> None:
    one, two = make(), make()
    assert one.client.pid == two.client.pid
    _, run_dir = one.launch("shared", "exit 3")
    assert two.client.known()[0] == ["shared"]
    two.client.start("shared")
    assert [daemon.exits.get(timeout=10).code for daemon in (one, two)] == [3, 3]
    end(two, "shared", run_dir)


def test_one_that_leaves_takes_nothing_with_it(make: Callable[[], Daemon]) -> None:
    one, two = make(), make()
    _, run_dir = two.launch("stays", "sleep 100")
    two.client.close()
    assert not two.lost.is_set()
    assert one.client.start("stays").failed is None
    with pytest.raises(MonitorLost):
        two.client.start("stays")
    end(one, "stays", run_dir)


def test_a_request_under_way_fails_when_the_monitor_is_killed(daemon: Daemon) -> None:
    """A launch whose set-up takes its time, here for a lock that nobody gives up."""
    failures: list[BaseException] = []
    run_dir = daemon.paths.run_container("slow")
    run_dir.mkdir()
    steps = Program("slow")
    steps.clone((), cgroup=None, why="a child")
    steps.call("ppoll", 0, 0, 0, 0, 0, why="never ends")
    reaper.stay_behind(steps)

    def work() -> None:
        try:
            daemon.client.launch("slow", "container", steps, run_dir=run_dir, name="test", descriptors={})
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait.until(lambda: daemon.client.known()[0] == ["slow"], 5)
    killed = kill_monitor(daemon)
    thread.join(10)
    assert isinstance(failures.pop(), MonitorLost)
    assert daemon.client.connect()
    daemon.client.settle()
    assert daemon.client.pid != killed
    assert daemon.client.known() == ([], [run_dir])
    daemon.client.forget("slow", run_dir)
    assert daemon.client.known() == ([], [])


def test_another_monitor_finds_what_runs_and_tells_its_end(daemon: Daemon) -> None:
    launched, run_dir = daemon.launch("one", "sleep 0.2; exit 5")
    daemon.client.start("one")
    kill_monitor(daemon)
    daemon.client.connect()
    standing = daemon.client.adopt("one", "container", run_dir=run_dir)
    daemon.client.settle()
    assert standing.pid == launched.pid
    code = standing.code if standing.state == "ended" else daemon.exits.get(timeout=10).code
    assert code == 5
    end(daemon, "one", run_dir)


def test_a_request_waits_for_the_new_monitor(daemon: Daemon) -> None:
    _, run_dir = daemon.launch("one", "sleep 100")
    kill_monitor(daemon)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(daemon.client.signal("one", 0)))
    thread.start()
    daemon.client.connect()
    daemon.client.adopt("one", "container", run_dir=run_dir)
    assert answers == []
    daemon.client.settle()
    thread.join(10)
    assert answers == [True]
    end(daemon, "one", run_dir)


def test_a_client_that_does_not_read_stops_nobody(daemon: Daemon) -> None:
    """A daemon that was stopped, say: what it does not read is kept within bounds, and all others are served."""
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    deaf.connect(str(daemon.paths.monitor_socket))
    deaf.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        for sent in range(100_000):
            protocol.send(deaf, {"op": "list", "seq": sent})
    begun = time.monotonic()
    _, run_dir = daemon.launch("one", "exit 0")
    daemon.client.start("one")
    assert daemon.exits.get(timeout=10).code == 0
    assert time.monotonic() - begun < 5
    deaf.setblocking(True)
    deaf.settimeout(10)
    answered = []
    while sent not in answered[-1:] and len(answered) < sent:
        received = protocol.receive(deaf)
        assert received is not None
        if "seq" in received[0]:
            answered.append(received[0]["seq"])
    assert answered == list(range(sent))
    deaf.close()
    end(daemon, "one", run_dir)


def test_a_monitor_of_another_version_is_replaced_and_its_processes_are_found(
    make: Callable[[], Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade; the reapers hold everything meanwhile."""
    old = make()
    launched, run_dir = old.launch("one", "sleep 100")
    before = old.client.pid
    real, answers = protocol.receive, iter([protocol.VERSION - 1])

    def as_of_the_past(connection: socket.socket) -> object:
        received = real(connection)
        if received is not None and "version" in received[0]:
            received[0]["version"] = next(answers, protocol.VERSION)
        return received

    monkeypatch.setattr(protocol, "receive", as_of_the_past)
    new = Daemon(old.paths)
    assert new.client.connect()
    standing = new.client.adopt("one", "container", run_dir=run_dir)
    new.client.settle()
    assert new.client.pid != before
    assert (standing.pid, standing.state) == (launched.pid, "created")
    end(new, "one", run_dir)
    new.client.close(end_monitor=True)


def test_only_its_owner_can_reach_it(daemon: Daemon) -> None:
    assert daemon.paths.monitor_socket.stat().st_mode & 0o077 == 0
    assert daemon.paths.run_dir.stat().st_mode & 0o077 == 0
