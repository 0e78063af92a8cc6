"""What a process in a container can try: each attack is made on a real container, and is refused or harmless."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel import process
from runtime.errors import ContainerNotRunning, ExecTimedOut
from runtime.node import Node
from runtime.spec import schema
from tests.support import cgroup, wait, wishes
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

#: As a shell writes it: everything about every process in sight that a link or a list tells.
LOOK = "for p in /proc/[0-9]*; do readlink $p/exe $p/root $p/cwd; ls -l $p/fd 2>/dev/null; cat $p/comm; done"


@pytest.fixture
def pod(node: Node) -> str:
    return node.run_sandbox(wishes.sandbox())


@pytest.fixture
def shared(node: Node) -> str:
    """A pod whose containers see each other's processes."""
    return node.run_sandbox(wishes.sandbox(pid="pod"))


def output(node: Node, pod: str, log: Path, script: str, **more: object) -> list[str]:
    config = wishes.container(["sh", "-c", script], log=log, **more)  # type: ignore[arg-type]
    wishes.finish(node, wishes.run(node, pod, config))
    return wishes.lines(log)


@contextlib.contextmanager
def ignored(*numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_no_descriptor_of_the_hosts_is_open(node: Node, pod: str) -> None:
    container = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    result = node.exec_sync(container, ["sh", "-c", "ls /proc/1/fd; echo exec; ls /proc/$$/fd; true"], 10)
    assert result.stdout.split() == [b"0", b"1", b"2", b"exec", b"0", b"1", b"2"]


def test_nothing_is_open_in_the_created_container_but_what_starts_it(node: Node, pod: str) -> None:
    container = node.find_container(node.create_container(pod, wishes.container(["true"])))
    opened = Path(f"/proc/{container.pid}/fd")
    # The null device on a mount of its own and the working directory, the streams and the ready pipe, the start event.
    assert sorted(os.readlink(opened / name).partition(":")[0] for name in os.listdir(opened)) == [
        *("/", "/"), "anon_inode", *("pipe", "pipe", "pipe")
    ]  # fmt: skip


def test_no_right_is_inheritable_or_ambient(node: Node, pod: str, tmp_path: Path) -> None:
    """CVE-2022-24769: a file's inheritable capabilities would give back what was dropped."""
    for user in (None, 1000):
        lines = output(node, pod, tmp_path / f"log{user}", "grep -E 'CapInh|CapAmb|CapEff' /proc/self/status", run_as_user=user)
        sets = dict(line.split(":\t") for line in lines)
        assert sets["CapInh"] == sets["CapAmb"] == "0" * 16
        assert (int(sets["CapEff"], 16) == 0) == bool(user)


def test_no_signal_is_ignored_or_blocked(make_node: Callable[[], Node], tmp_path: Path) -> None:
    from tests.support.image import store_busybox

    with ignored(signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP, signal.SIGTTOU, signal.SIGPIPE, signal.SIGRTMIN):
        node = make_node()
        store_busybox(node.images)
        pod = node.run_sandbox(wishes.sandbox())
        config = wishes.container(["grep", "Sig[BIC]", "/proc/self/status"], log=tmp_path / "log")
        wishes.finish(node, wishes.run(node, pod, config))
        container = wishes.run(node, pod, wishes.container(["sleep", "100"]))
        executed = node.exec_sync(container, ["grep", "Sig[BIC]", "/proc/self/status"], 10).stdout.decode().splitlines()
        nothing = [f"Sig{what}:\t{0:016x}" for what in ("Blk", "Ign", "Cgt")]
        assert wishes.lines(tmp_path / "log") == executed == nothing


def test_each_container_has_a_key_ring_of_its_own(node: Node, pod: str, tmp_path: Path) -> None:
    """Else it could read the keys of whoever started the daemon."""
    before = {line.split()[0] for line in Path("/proc/keys").read_text().splitlines()}
    rings = set()
    for number in range(2):
        config = wishes.container(["cat", "/proc/keys"], log=tmp_path / f"log{number}")
        config.spec.linux.masked_paths = []
        container = wishes.run(node, pod, config)
        [joined] = [step.result for step in node.history_of(container) if step.call.startswith("keyctl")]
        wishes.finish(node, container)
        assert f"{joined:08x}" in {line.split()[0] for line in wishes.lines(tmp_path / f"log{number}")} - before
        rings.add(joined)
    assert len(rings) == 2


@pytest.mark.parametrize("user", [0, 65534])
def test_the_pause_leads_nowhere_and_cannot_be_ended(node: Node, shared: str, tmp_path: Path, user: int) -> None:
    neighbour = wishes.run(node, shared, wishes.container(["sleep", "100"], pid="pod"))
    script = (
        "cat /proc/1/comm; for f in /proc/1/root/* /proc/1/cwd/* /proc/1/fd/*; do [ -e $f ] && echo $f; done;"
        " cd /proc/1/root 2>/dev/null && ls ..;"
        " for s in TERM INT HUP QUIT USR1 STOP ABRT KILL SEGV CHLD; do kill -$s 1; done 2>/dev/null; sleep 0.1; cat /proc/1/comm"
    )
    lines = output(node, shared, tmp_path / "log", script, pid="pod", run_as_user=user)
    assert lines == ["pause", "pause"]
    assert node.find_sandbox(shared).state == "ready"
    assert node.find_container(neighbour).state == "running"


def test_the_pause_holds_nothing(node: Node, shared: str) -> None:
    """As the host sees it, who may look at everything."""
    pid = node.find_sandbox(shared).pause_pid
    assert os.listdir(f"/proc/{pid}/fd") == []
    assert os.listdir(f"/proc/{pid}/root") == os.listdir(f"/proc/{pid}/cwd") == []
    status = Path(f"/proc/{pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Uid:\t65534\t65534\t65534\t65534" in status


def test_a_process_that_is_being_set_up_shows_nothing_to_its_neighbours(node: Node, shared: str, tmp_path: Path) -> None:
    """CVE-2016-9962, CVE-2019-5736: neither its root, nor its descriptors, nor its executable to write to."""
    write = "for p in /proc/[0-9]*; do (echo x > $p/exe) 2>/dev/null && echo WROTE $p; done"
    script = f"while :; do {LOOK}; {write}; done 2>/dev/null"
    spy = wishes.run(node, shared, wishes.container(["sh", "-c", script], pid="pod", log=tmp_path / "spy"))
    victim = wishes.run(node, shared, wishes.container(["sleep", "100"], pid="pod"))
    for _ in range(15):
        assert node.exec_sync(spy, ["true"], 10).exit_code == 0
        assert node.exec_sync(victim, ["true"], 10).exit_code == 0
        node.remove_container(wishes.run(node, shared, wishes.container(["true"], pid="pod")))
    node.stop_container(spy, 0)
    seen = set(wishes.lines(tmp_path / "spy"))
    assert "pause" in seen  # it did look
    host = [line for line in seen if "WROTE" in line or "memfd" in line or "kernelet" in line or "eventfd" in line]
    assert [line for line in host if line != "kernelet-runner"] == []


def test_the_executable_of_a_process_that_is_set_up_is_sealed(node: Node, pod: str) -> None:
    """CVE-2019-5736."""
    container = node.find_container(node.create_container(pod, wishes.container(["true"])))
    for pid in (container.pid, process.parent_of(container.pid)):
        with open(f"/proc/{pid}/exe", "rb") as file:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_WRITE
        assert seals & fcntl.F_SEAL_SEAL
        with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
            open(f"/proc/{pid}/exe", "r+b").close()


def test_no_reaper_is_in_sight(node: Node, shared: str, tmp_path: Path) -> None:
    for number, mode in enumerate(("container", "pod")):
        lines = output(node, shared, tmp_path / f"log{number}", "cat /proc/[0-9]*/comm", pid=mode)
        assert set(lines) <= {"pause", "sh", "cat"}


def test_a_reaper_that_somebody_killed_takes_its_container_along(node: Node, pod: str, tmp_path: Path) -> None:
    """Nobody could say how it ends; a container without a record of its end must not run on."""
    container = wishes.run(node, pod, wishes.container(["sh", "-c", "sleep 100 & sleep 100"], log=tmp_path / "log"))
    pid = node.find_container(container).pid
    os.kill(process.parent_of(pid), signal.SIGKILL)
    wishes.finish(node, container)
    record = node.find_container(container)
    assert (record.exit_code, record.reason) == (255, "Unknown")
    wait.until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text(), 5)
    node.remove_container(container)


def test_a_pod_whose_pause_was_killed_is_not_ready(node: Node, shared: str) -> None:
    container = wishes.run(node, shared, wishes.container(["sleep", "100"], pid="pod"))
    os.kill(node.find_sandbox(shared).pause_pid, signal.SIGKILL)
    wait.until(lambda: node.find_sandbox(shared).state == "not ready", 10, "the sandbox to be stopped")
    assert node.find_container(container).exit_code == 137


def test_a_fork_bomb_is_stopped_whole(node: Node, pod: str) -> None:
    config = wishes.container(["sh", "-c", "b() { sleep 100 & b & b; }; b & exec sleep 100"], run_as_user=54321)
    assert config.spec.process is not None
    config.spec.process.rlimits = [schema.Rlimit(type="RLIMIT_NPROC", soft=150, hard=150)]
    container = wishes.run(node, pod, config)
    group = f"{cgroup.ROOT}{node.find_container(container).cgroup}"
    wait.until(lambda: len(cgroup.all_processes(group)) > 50, 10, "the bomb to go off")
    begun = time.monotonic()
    node.stop_container(container, 0)
    assert time.monotonic() - begun < 5
    assert node.find_container(container).state == "exited"
    wait.until(lambda: not os.path.isdir(group), 5, "the cgroup to be gone")


def test_an_exec_that_daemonizes_ends_with_its_time_out(node: Node, pod: str) -> None:
    container = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    with pytest.raises(ExecTimedOut):
        node.exec_sync(container, ["sh", "-c", "for i in 1 2 3; do setsid sh -c 'setsid sleep 66 &' & done; sleep 66"], 0.2)
    record = node.find_container(container)
    assert cgroup.all_processes(f"{cgroup.ROOT}{record.cgroup}") == {record.pid}


def test_output_without_a_newline_stops_nobody(node: Node, pod: str, tmp_path: Path) -> None:
    count = 20_000_000
    flood = wishes.run(
        node, pod, wishes.container(["sh", "-c", f"head -c {count} /dev/zero | tr '\\0' x"], log=tmp_path / "flood")
    )
    lines = output(node, pod, tmp_path / "log", "i=0; while [ $i -lt 50 ]; do echo $i; i=$((i+1)); done")
    assert lines == [str(number) for number in range(50)]
    assert wishes.finish(node, flood) == 0
    written = 0
    with open(tmp_path / "flood", "rb") as log:
        for line in log:
            _, stream, tag, content = line.split(b" ", 3)
            assert (stream, tag) == (b"stdout", b"P")
            assert len(content) <= 16385
            written += len(content) - 1
    assert written == count


def test_a_container_that_closes_its_output_runs_on(node: Node, pod: str, tmp_path: Path) -> None:
    script = "echo first; exec >&- 2>&-; sleep 0.2; exit 7"
    container = wishes.run(node, pod, wishes.container(["sh", "-c", script], log=tmp_path / "log"))
    assert wishes.finish(node, container) == 7
    assert wishes.lines(tmp_path / "log") == ["first"]


def test_a_container_that_reads_its_own_output_harms_only_itself(node: Node, pod: str, tmp_path: Path) -> None:
    """Its end of the pipe can be opened for reading: what it takes between the monitor's look and its own is gone."""
    monitor = node.monitor_pid
    script = "for i in 1 2 3 4; do cat </proc/self/fd/1 >/dev/null & done; i=0; while :; do echo $i; i=$((i+1)); done"
    thief = wishes.run(node, pod, wishes.container(["sh", "-c", script], log=tmp_path / "thief"))
    for number in range(3):
        expected = [str(line) for line in range(200)]
        script = "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); done"
        assert output(node, pod, tmp_path / f"log{number}", script) == expected
    node.stop_container(thief, 0)
    assert node.monitor_pid == monitor


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_a_log_that_was_replaced_is_not_followed(node: Node, pod: str, tmp_path: Path, kind: str) -> None:
    """A pod that collects logs can write where they are."""
    log, target = tmp_path / "log", tmp_path / "target"
    target.write_text("precious\n")
    container = wishes.run(node, pod, wishes.container(["sh", "-c", "while :; do echo x; sleep 0.01; done"], log=log))
    log.rename(tmp_path / "log.1")
    match kind:
        case "symlink":
            log.symlink_to(target)
        case "fifo":
            os.mkfifo(log)
            reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        case _:
            log.mkdir()
    with pytest.raises(OSError, match=r"symbolic links|regular file|Is a directory"):
        node.reopen_log(container)
    before = (tmp_path / "log.1").stat().st_size
    wait.until(lambda: (tmp_path / "log.1").stat().st_size > before, 5, "the log to go on in the old file")
    assert target.read_text() == "precious\n"
    if kind == "fifo":
        os.close(reader)


def test_an_exec_into_a_number_that_is_another_process_is_refused(node: Node, pod: str) -> None:
    """The container has ended, nobody has noticed yet, and its number is a process of the host's by now."""
    container = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    record = node.find_container(container)
    pid, record.pid = record.pid, os.getpid()
    try:
        with pytest.raises(ContainerNotRunning, match="has just ended"):
            node.exec_sync(container, ["true"], 10)
    finally:
        record.pid = pid
