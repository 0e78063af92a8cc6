"""SIGKILL to the daemon, to the monitor, to both, at any moment: nothing is lost, doubled, stalled or left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from kernel import mount
from kernel.mountinfo import load_mountinfo
from tests.e2e.conftest import Registry
from tests.e2e.kubelet import Kubelet, contents, kept, settled
from tests.support import cgroup, leaks, wait
from tests.support.daemon import Daemon
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry")

ROUNDS = 10
#: Numbers to stdout, every tenth to stderr too, until it is told to end.
COUNTER = """
    trap 'echo end; exit 5' TERM
    i=0; while :; do echo $i; [ $((i % 10)) = 0 ] && echo $i >&2; i=$((i+1)); sleep 0.01; done
"""


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Moments that differ from run to run; the seed is in the output of a test that fails."""
    seed = time.time_ns()
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that containers have as /shared, to be told things by files in it."""
    directory = tmp_path / "shared"
    directory.mkdir()
    return directory


def with_shared(shared: Path) -> dict[str, list[api.Mount]]:
    return {"mounts": [api.Mount(host_path=str(shared), container_path="/shared")]}


def restart(daemon: Daemon, kubelet: Kubelet) -> None:
    daemon.start()
    kubelet.reconnect(daemon)


def kill_monitor(daemon: Daemon) -> int:
    pid = daemon.monitor_pid()
    os.kill(pid, signal.SIGKILL)
    return pid


def new_monitor(daemon: Daemon, old: int) -> int:
    """The pid of the monitor that followed *old*."""

    def other() -> int | None:
        with suppress(AssertionError):
            found = daemon.monitor_pid()
            return found if found != old else None
        return None

    found = wait.until(other, 10, "another monitor")
    assert found is not None
    return found


def grows(log: Path) -> None:
    """Return when the log has become longer."""
    before = log.stat().st_size
    wait.until(lambda: log.stat().st_size > before, 10, "the writer to go on")


def reapers() -> list[int]:
    """The pids of all reapers of this run."""
    return [pid for pid in leaks.processes() if Path(f"/proc/{pid}/comm").read_text() == "kernelet:reaper\n"]


# Output.


def test_no_line_is_lost_or_doubled(kubelet: Kubelet, daemon: Daemon, chance: random.Random) -> None:
    pod = kubelet.run_pod()
    container = kubelet.run(pod, COUNTER)
    log, address = Path(kubelet.status(container).log_path), kubelet.pod_status(pod).network.ip
    started_at = kubelet.status(container).started_at
    for victims in ("daemon", "monitor", "monitor", "both", "monitor", "daemon", "both"):
        time.sleep(chance.uniform(0, 0.15))
        if victims != "monitor":
            daemon.kill()
            grows(log) if victims == "daemon" else None
        old = kill_monitor(daemon) if victims != "daemon" else 0
        if victims != "monitor":
            restart(daemon, kubelet)
        if old:
            new_monitor(daemon, old)
        grows(log)
        status = kubelet.status(container)
        assert (status.state, status.started_at) == (api.CONTAINER_RUNNING, started_at)
        assert kubelet.pod_status(pod).network.ip == address
    kubelet.stop(container, 10)
    assert kubelet.status(container).exit_code == 5
    numbers = contents(log, "stdout")
    assert numbers == [*map(str, range(len(numbers) - 1)), "end"] and len(numbers) > 50
    assert contents(log, "stderr") == [str(number) for number in range(len(numbers) - 1) if number % 10 == 0]


def test_a_flood_survives_a_monitor_that_is_killed_over_and_over(kubelet: Kubelet, daemon: Daemon, chance: random.Random) -> None:
    container = kubelet.run(kubelet.run_pod(), "seq 1 3000000; exit 4")
    log = Path(kubelet.status(container).log_path)
    pid = 0
    for _ in range(8):
        pid = new_monitor(daemon, pid)
        time.sleep(chance.uniform(0, 0.25))
        kill_monitor(daemon)
    assert kubelet.finish(container, 60) == 4
    assert kubelet.status(container).reason == "Error"
    entries = log.read_bytes().splitlines()
    assert [int(entry.rpartition(b" ")[2]) for entry in entries] == list(range(1, 3000001))


def test_a_terminal_goes_on(kubelet: Kubelet, daemon: Daemon) -> None:
    container = kubelet.run(kubelet.run_pod(), "trap 'exit 5' TERM; while :; do echo tick; sleep 0.01; done", tty=True)
    log = Path(kubelet.status(container).log_path)
    grows(log)
    new_monitor(daemon, kill_monitor(daemon))
    grows(log)
    kubelet.stop(container, 10)
    assert kubelet.status(container).exit_code == 5
    assert set(contents(log)) <= {"tick\r", "tick", "", "\r"}


def test_what_is_written_while_nobody_reads_waits(kubelet: Kubelet, daemon: Daemon, shared: Path) -> None:
    script = "until [ -e /shared/go ]; do sleep 0.01; done; seq 1 50000; exit 3"
    container = kubelet.run(kubelet.run_pod(), script, **with_shared(shared))
    log = Path(kubelet.status(container).log_path)
    daemon.kill()
    kill_monitor(daemon)
    (shared / "go").touch()  # 290 kB: more than a pipe holds
    restart(daemon, kubelet)
    assert kubelet.finish(container) == 3
    assert contents(log) == [str(number) for number in range(1, 50001)]


# Exits.


def test_an_exit_that_nobody_saw_is_kept(kubelet: Kubelet, daemon: Daemon, shared: Path) -> None:
    pod = kubelet.run_pod()
    script = "until [ -e /shared/go ]; do sleep 0.01; done; echo last; echo -n words; exit 6"
    ends = kubelet.run(pod, script, **with_shared(shared))
    killed = kubelet.run(
        pod, "until [ -e /shared/go ]; do sleep 0.01; done; kill -9 $$; sleep 9", pid=api.NODE, **with_shared(shared)
    )
    daemon.kill()
    kill_monitor(daemon)
    (shared / "go").touch()
    for container in (ends, killed):
        wait.until((daemon.paths.run_container(container) / "exit").exists, 10, "the reaper's word")
    moment = time.time_ns()
    restart(daemon, kubelet)
    assert kubelet.finish(ends) == 6
    assert kubelet.lines(ends) == ["last", "words"]
    assert kubelet.finish(killed) == 137
    assert kubelet.status(ends).started_at < kubelet.status(ends).finished_at < moment


def test_an_exit_under_a_stopped_monitor_is_seen_by_the_next(kubelet: Kubelet, daemon: Daemon, shared: Path) -> None:
    script = "until [ -e /shared/go ]; do sleep 0.01; done; echo bye; exit 8"
    container = kubelet.run(kubelet.run_pod(), script, **with_shared(shared))
    monitor = daemon.monitor_pid()
    os.kill(monitor, signal.SIGSTOP)
    (shared / "go").touch()
    wait.until((daemon.paths.run_container(container) / "exit").exists, 10, "the reaper's word")
    assert kubelet.status(container).state == api.CONTAINER_RUNNING
    os.kill(monitor, signal.SIGKILL)
    assert kubelet.finish(container) == 8
    assert kubelet.lines(container) == ["bye"]


def test_a_container_whose_reaper_is_killed_is_ended(kubelet: Kubelet, daemon: Daemon) -> None:
    container = kubelet.run(kubelet.run_pod(), "exec sleep 1000")
    (reaper,) = reapers()
    os.kill(reaper, signal.SIGKILL)
    assert kubelet.finish(container) == 255
    assert kubelet.status(container).reason == "Unknown"


# Records.


def test_a_restart_changes_nothing_that_can_be_asked(kubelet: Kubelet, daemon: Daemon) -> None:
    pod, other = kubelet.run_pod(kubelet.pod_config(pid=api.POD)), kubelet.run_pod()
    running = kubelet.run(pod, "exec sleep 1000", pid=api.POD)
    created = kubelet.create(pod, kubelet.container_config(["echo", "late"]))
    exited = kubelet.run(pod, "exit 9")
    stopped = kubelet.run(other, "exec sleep 1000")
    kubelet.finish(exited)
    kubelet.stop_pod(other)
    before, images, had = kubelet.everything(), kubelet.call(api.ListImagesRequest()), leaks.take()
    assert set(before) == {pod, other, running, created, exited, stopped}
    for way in ("stopped", "killed", "both killed"):
        if way == "stopped":
            assert daemon.stop() == 0
        else:
            daemon.kill()
        if way == "both killed":
            kill_monitor(daemon)
        restart(daemon, kubelet)
        assert kubelet.everything() == before
        assert kubelet.call(api.ListImagesRequest()) == images
        settled(daemon, had)
    new_monitor(daemon, kill_monitor(daemon))
    assert kubelet.execute(running, "true").exit_code == 0
    assert kubelet.everything() == before
    kubelet.start(created)
    assert kubelet.finish(created) == 0
    assert kubelet.lines(created) == ["late"]


def test_the_layers_of_a_removed_image_stay_for_its_container(kubelet: Kubelet, daemon: Daemon) -> None:
    container = kubelet.run(kubelet.run_pod(), "exec sleep 1000")
    kubelet.call(api.RemoveImageRequest(image=api.ImageSpec(image=kubelet.image)))
    daemon.kill()
    restart(daemon, kubelet)
    assert kubelet.execute(container, "cat", "/marker").stdout == b"gzip"
    kubelet.remove(container)
    assert kept(daemon.paths)["layers"] == []


def test_after_a_reboot_pods_are_not_ready_and_can_be_removed(kubelet: Kubelet, daemon: Daemon) -> None:
    pod = kubelet.run_pod(kubelet.pod_config(pid=api.POD))
    running, created = kubelet.run(pod, "exec sleep 1000"), kubelet.create(pod, kubelet.container_config(["true"]))
    daemon.kill()
    kill_monitor(daemon)
    end_all_but_the_disk(daemon)
    begun = time.monotonic()
    restart(daemon, kubelet)
    assert time.monotonic() - begun < 10
    assert (kubelet.pod_status(pod).state, kubelet.pod_status(pod).network.ip) == (api.SANDBOX_NOTREADY, "")
    for container in (running, created):
        assert (kubelet.status(container).state, kubelet.status(container).exit_code) == (api.CONTAINER_EXITED, 255)
    assert kubelet.run_pod() != pod
    kubelet.remove_pod(pod)


def end_all_but_the_disk(daemon: Daemon) -> None:
    """What a reboot ends: processes, cgroups, mounts, the run directory."""
    for pid in reapers():
        os.kill(pid, signal.SIGKILL)
    cgroup.remove(cgroup.ROOT / "kernelet")
    for row in reversed(load_mountinfo()):
        if row.target.startswith(str(daemon.paths.run_dir)):
            mount.unmount(row.target)
    shutil.rmtree(daemon.paths.run_dir)


# In the middle of something.


def started_at(daemon: Daemon, container: str) -> bool:
    """Whether the record says that the container was started."""
    database = sqlite3.connect(f"file:{daemon.paths.database}?mode=ro", uri=True)
    try:
        ((record,),) = database.execute("SELECT record FROM containers WHERE id = ?", (container,))
    finally:
        database.close()
    return b'"started_at_ns":1' in bytes(record)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_a_start_that_was_written_down_and_not_done_can_be_done_again(
    kubelet: Kubelet, daemon: Daemon, thread: ThreadPoolExecutor
) -> None:
    container = kubelet.create(kubelet.run_pod(), kubelet.container_config(["echo", "once"]))
    os.kill(daemon.monitor_pid(), signal.SIGSTOP)
    asked = thread.submit(kubelet.start, container)
    wait.until(lambda: started_at(daemon, container), 10, "the intent")
    daemon.kill()
    kill_monitor(daemon)
    with pytest.raises(grpc.RpcError):
        asked.result(30)
    restart(daemon, kubelet)
    assert (kubelet.status(container).state, kubelet.status(container).started_at) == (api.CONTAINER_CREATED, 0)
    kubelet.start(container)
    assert kubelet.finish(container) == 0
    assert kubelet.lines(container) == ["once"]


def test_a_start_outlives_its_monitor(kubelet: Kubelet, daemon: Daemon, thread: ThreadPoolExecutor) -> None:
    container = kubelet.create(kubelet.run_pod(), kubelet.container_config(["sh", "-c", "echo once; exit 2"]))
    monitor = daemon.monitor_pid()
    os.kill(monitor, signal.SIGSTOP)
    asked = thread.submit(kubelet.start, container)
    wait.until(lambda: started_at(daemon, container), 10, "the intent")
    os.kill(monitor, signal.SIGKILL)
    asked.result(30)
    assert kubelet.finish(container) == 2
    assert kubelet.lines(container) == ["once"]
    assert kubelet.status(container).started_at > 0


def test_an_exec_ends_with_the_daemon_that_was_asked_for_it(kubelet: Kubelet, daemon: Daemon, thread: ThreadPoolExecutor) -> None:
    container = kubelet.run(kubelet.run_pod(), "exec sleep 1000")
    before = leaks.take()
    asked = thread.submit(kubelet.execute, container, "sh", "-c", "sleep 998 & sleep 999")
    wait.until(lambda: b"998" in kubelet.execute(container, "ps").stdout, 10, "the exec to run")
    daemon.kill()
    with pytest.raises(grpc.RpcError):
        asked.result(30)
    restart(daemon, kubelet)
    assert b"99" not in kubelet.execute(container, "ps", "-o", "args").stdout
    settled(daemon, before)


def test_an_exec_without_end_is_told_that_its_monitor_died(kubelet: Kubelet, daemon: Daemon, thread: ThreadPoolExecutor) -> None:
    container = kubelet.run(kubelet.run_pod(), "exec sleep 1000")
    before = leaks.take()
    asked = thread.submit(kubelet.execute, container, "sleep", "999", timeout=0)
    wait.until(lambda: b"999" in kubelet.execute(container, "ps").stdout, 10, "the exec to run")
    kill_monitor(daemon)
    with pytest.raises(grpc.RpcError) as caught:
        asked.result(30)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert b"999" not in kubelet.execute(container, "ps").stdout
    settled(daemon, before)


def test_a_monitor_that_dies_while_containers_are_made(
    kubelet: Kubelet, daemon: Daemon, chance: random.Random, thread: ThreadPoolExecutor
) -> None:
    pod = kubelet.run_pod()
    took = timed(lambda: kubelet.remove(kubelet.run(pod, "exit 0")))
    before, had, files = leaks.take(), kept(daemon.paths), len(os.listdir(f"/proc/{daemon.pid}/fd"))
    for _ in range(ROUNDS):
        wish = kubelet.container_config(["sleep", "100"])
        asked = thread.submit(kubelet.create, pod, wish)
        time.sleep(chance.uniform(0, took))
        old = kill_monitor(daemon)
        with suppress(grpc.RpcError):
            asked.result(30)
        new_monitor(daemon, old)
        container = kubelet.create(pod, wish)
        kubelet.start(container)
        kubelet.remove(container)
    assert kept(daemon.paths) == had
    settled(daemon, before)
    opened = [os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in os.listdir(f"/proc/{daemon.pid}/fd")]
    wait.until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= files, 5, f"{files} descriptors of the daemon: {opened}")


def timed(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def interrupted(daemon: Daemon, thread: ThreadPoolExecutor, act: Callable[[], str], seconds: float) -> str | None:
    """Kill the daemon *seconds* after *act* has begun; what it answered before, if it did."""
    asked: Future[str] = thread.submit(act)
    time.sleep(seconds)
    daemon.kill()
    with suppress(grpc.RpcError):
        return asked.result(30)
    return None


def test_a_daemon_killed_while_it_runs_a_pod(kubelet: Kubelet, daemon: Daemon, thread: ThreadPoolExecutor) -> None:
    kubelet.run_pod()
    took = timed(lambda: kubelet.remove_pod(kubelet.run_pod(kubelet.pod_config(pid=api.POD))))
    before, had = leaks.take(), kept(daemon.paths)
    for number in range(ROUNDS):
        config = kubelet.pod_config(pid=api.POD if number % 2 else api.CONTAINER)
        answered = interrupted(daemon, thread, lambda config=config: kubelet.run_pod(config), took * number / ROUNDS)  # type: ignore[misc]
        restart(daemon, kubelet)
        listed = [pod.id for pod in kubelet.call(api.ListPodSandboxRequest()).items if pod.metadata == config.metadata]
        assert answered is None or listed == [answered]
        if not listed:
            assert kept(daemon.paths) == had
            settled(daemon, before)
        pod = kubelet.run_pod(config)
        assert not listed or [pod] == listed
        assert kubelet.finish(kubelet.run(pod, "exit 3")) == 3
        kubelet.remove_pod(pod)
        assert kept(daemon.paths) == had
        settled(daemon, before)


def test_a_daemon_killed_over_its_first_pod_gives_the_node_back(
    kubelet: Kubelet, daemon: Daemon, thread: ThreadPoolExecutor
) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before, links = forwarding.read_text(), {name for _, name in socket.if_nameindex()}
    took = timed(kubelet.run_pod)
    for number in range(ROUNDS // 2):
        for pod in kubelet.call(api.ListPodSandboxRequest()).items:
            kubelet.remove_pod(pod.id)
        assert daemon.stop() == 0
        assert ({name for _, name in socket.if_nameindex()}, forwarding.read_text()) == (links, before)
        restart(daemon, kubelet)
        interrupted(daemon, thread, kubelet.run_pod, took * number / (ROUNDS // 2))
        restart(daemon, kubelet)


def test_a_daemon_killed_while_it_makes_a_container(kubelet: Kubelet, daemon: Daemon, thread: ThreadPoolExecutor) -> None:
    pod = kubelet.run_pod()
    took = timed(lambda: kubelet.create(pod, kubelet.container_config(["true"])))
    for container in kubelet.call(api.ListContainersRequest()).containers:
        kubelet.remove(container.id)
    before, had = leaks.take(), kept(daemon.paths)
    for number in range(ROUNDS):
        config = kubelet.container_config(["sh", "-c", "echo hi; exit 3"])
        answered = interrupted(daemon, thread, lambda config=config: kubelet.create(pod, config), took * 1.5 * number / ROUNDS)  # type: ignore[misc]
        restart(daemon, kubelet)
        listed = [each.id for each in kubelet.call(api.ListContainersRequest()).containers]
        assert answered is None or listed == [answered]
        if not listed:
            assert kept(daemon.paths) == had
            settled(daemon, before)
        container = kubelet.create(pod, config)
        assert not listed or [container] == listed
        kubelet.start(container)
        assert kubelet.finish(container) == 3
        assert kubelet.lines(container) == ["hi"]
        kubelet.remove(container)
        assert kept(daemon.paths) == had
        settled(daemon, before)


@pytest.mark.parametrize("verb", ["stop_pod", "remove_pod", "stop", "remove"])
def test_a_daemon_killed_while_it_takes_down(kubelet: Kubelet, daemon: Daemon, thread: ThreadPoolExecutor, verb: str) -> None:
    kubelet.run_pod()
    before, had = leaks.take(), kept(daemon.paths)
    took = 0.0
    for number in range(ROUNDS // 2):
        config = kubelet.pod_config(pid=api.POD)
        pod = kubelet.run_pod(config)
        container = kubelet.run(pod, "exec sleep 1000", pid=api.POD)
        victim = pod if "pod" in verb else container
        if not number:
            took = timed(lambda: getattr(kubelet, verb)(victim))  # noqa: B023
        interrupted(daemon, thread, lambda: getattr(kubelet, verb)(victim), took * number / (ROUNDS // 2))  # noqa: B023
        restart(daemon, kubelet)
        assert kept(daemon.paths)["journal"] == []
        getattr(kubelet, verb)(victim)
        for each in kubelet.call(api.ListContainersRequest()).containers:
            assert each.state == api.CONTAINER_EXITED
            assert kubelet.status(each.id).exit_code == 137
        assert all(each.id != victim for each in kubelet.call(api.ListContainersRequest()).containers) or "remove" not in verb
        kubelet.remove_pod(pod)
        assert kept(daemon.paths) == had
        settled(daemon, before)


def test_a_daemon_killed_while_it_pulls(kubelet: Kubelet, daemon: Daemon, registry: Registry, thread: ThreadPoolExecutor) -> None:
    name = registry.name("zstd")
    remove = api.RemoveImageRequest(image=api.ImageSpec(image=name))
    took = timed(lambda: kubelet.pull(name))
    kubelet.call(remove)
    before, had = leaks.take(), kept(daemon.paths)
    for number in range(ROUNDS):
        answered = interrupted(daemon, thread, lambda: kubelet.pull(name), took * 1.2 * number / ROUNDS)
        restart(daemon, kubelet)
        found = kubelet.call(api.ImageStatusRequest(image=api.ImageSpec(image=name)))
        assert answered is None or found.image.id == answered
        if not found.HasField("image"):
            assert kept(daemon.paths) == had
            settled(daemon, before)
        image = kubelet.pull(name)
        assert kubelet.call(api.ImageStatusRequest(image=api.ImageSpec(image=name))).image.id == image
        kubelet.call(remove)
        assert kept(daemon.paths) == had
        settled(daemon, before)
