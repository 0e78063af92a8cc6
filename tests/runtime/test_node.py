"""The whole path without gRPC: sandboxes and containers on a real kernel."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import (
    Cancelled,
    ContainerNotFound,
    ContainerNotRunning,
    ExecTimedOut,
    HostPathNotFound,
    ImageNotFound,
    InvalidArgument,
    SandboxNotReady,
    StartFailed,
    WrongState,
)
from runtime.node import Node
from runtime.spec import schema
from tests.support import wait, wishes
from tests.support.image import store_busybox
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@pytest.fixture
def sandbox(node: Node) -> str:
    return node.run_sandbox(wishes.sandbox(hostname="web"))


def test_a_container_runs_and_its_output_and_exit_code_are_kept(node: Node, sandbox: str, tmp_path: Path) -> None:
    config = wishes.container(["sh", "-c", "echo out; echo err >&2; hostname; exit 3"], log=tmp_path / "a/0.log")
    container = wishes.run(node, sandbox, config)
    assert wishes.finish(node, container) == 3
    assert wishes.lines(tmp_path / "a/0.log", "stdout") == ["out", "web"]
    assert wishes.lines(tmp_path / "a/0.log", "stderr") == ["err"]
    record = node.find_container(container)
    assert record.created_at_ns <= record.started_at_ns <= record.finished_at_ns
    assert record.reason == "Error"


def test_a_created_container_waits_and_starts_in_no_time(node: Node, sandbox: str, tmp_path: Path) -> None:
    container = node.create_container(sandbox, wishes.container(["echo", "now"], log=tmp_path / "log"))
    assert node.find_container(container).state == "created"
    assert (tmp_path / "log").read_text() == ""
    node.start_container(container)
    assert wishes.finish(node, container) == 0
    assert wishes.lines(tmp_path / "log") == ["now"]
    with pytest.raises(WrongState, match="only a created container can be started"):
        node.start_container(container)


def test_inside_it_is_a_world_of_its_own(node: Node, sandbox: str, tmp_path: Path) -> None:
    script = (
        "echo $$; id; cat /proc/self/status | grep -E 'CapEff|Seccomp:'; ls /proc | grep -c '^[0-9]'; cat /etc/hostname;"
        " ls /dev; cat /proc/kcore | wc -c; (echo x > /proc/sys/kernel/hostname) 2>&1;"
        " touch /file && echo written; ip -o addr show eth0 | wc -l"
    )
    container = wishes.run(node, sandbox, wishes.container(["sh", "-c", script], log=tmp_path / "log"))
    assert wishes.finish(node, container) == 0
    lines = wishes.lines(tmp_path / "log")
    assert lines[0] == "1"
    assert lines[1] == "uid=0(root) gid=0(root) groups=0(root)"
    assert lines[2].split() == ["CapEff:", "00000000a80425fb"]
    assert lines[3].split() == ["Seccomp:", "2"]
    assert int(lines[4]) <= 4
    assert lines[5] == "web"
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin"} <= set(lines[6:])
    assert "0" in lines[lines.index("zero") :]
    assert "sh: can't create /proc/sys/kernel/hostname: Read-only file system" in lines
    assert "written" in lines


def test_containers_of_a_pod_share_network_ipc_name_and_shared_memory(node: Node, sandbox: str, tmp_path: Path) -> None:
    writer = wishes.container(["sh", "-c", "echo shared > /dev/shm/x; nc -l -p 8080 -e cat"])
    wishes.run(node, sandbox, writer)
    script = "until cat /dev/shm/x; do sleep 0.05; done; until echo hi | nc -w 1 127.0.0.1 8080; do sleep 0.05; done; hostname"
    reader = wishes.run(node, sandbox, wishes.container(["sh", "-c", script], log=tmp_path / "log"))
    assert wishes.finish(node, reader) == 0
    assert wishes.lines(tmp_path / "log", "stdout") == ["shared", "hi", "web"]


def test_a_shared_pid_namespace_has_a_pause_that_reaps(node: Node, tmp_path: Path) -> None:
    pod = node.run_sandbox(wishes.sandbox(pid="pod"))
    one = wishes.run(node, pod, wishes.container(["sleep", "100"], pid="pod"))
    script = (
        "cat /proc/1/comm; pidof sleep; (sleep 0.1 &) ; sleep 0.4;"
        " cat /proc/[0-9]*/stat | grep -c ') Z '; ls /proc/1/root/ 2>&1 | head -1"
    )
    two = wishes.run(node, pod, wishes.container(["sh", "-c", script], pid="pod", log=tmp_path / "log"))
    assert wishes.finish(node, two) == 0
    lines = wishes.lines(tmp_path / "log")
    assert lines[0] == "pause"
    assert lines[1].isdigit()
    assert lines[2] == "0"
    assert lines[3:] in ([], ["ls: /proc/1/root/: Permission denied"])
    assert node.find_container(one).state == "running"


def test_exec_joins_and_applies_everything_again(node: Node, sandbox: str) -> None:
    config = wishes.container(["sleep", "100"], run_as_user=1000, supplemental_groups=[7], env=["COLOR=blue"], cwd="/tmp")
    container = wishes.run(node, sandbox, config)
    script = (
        "id -u; id -g; id -G; echo $COLOR; pwd;"
        " grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; cat /proc/1/comm; echo bad >&2; exit 5"
    )
    result = node.exec_sync(container, ["sh", "-c", script], 10)
    assert result.exit_code == 5
    assert result.stderr == b"bad\n"
    lines = result.stdout.decode().splitlines()
    assert lines[:5] == ["1000", "1000", lines[2], "blue", "/tmp"]
    assert sorted(map(int, lines[2].split())) == [7, 33, 1000, 50000]
    assert [line.split()[1] for line in lines[5:8]] == ["0000000000000000", "0", "2"]
    assert lines[8] == "sleep"


def test_an_exec_that_takes_too_long_is_killed_with_all_it_started(node: Node, sandbox: str) -> None:
    container = wishes.run(node, sandbox, wishes.container(["sleep", "100"]))
    with pytest.raises(ExecTimedOut, match=r"not done after 0\.3 s"):
        node.exec_sync(container, ["sh", "-c", "setsid sleep 77 & sleep 77"], 0.3)
    left = node.exec_sync(container, ["sh", "-c", "ps | grep -v grep | grep -c 'sleep 77'"], 10)
    assert left.stdout == b"0\n"


def test_an_exec_does_not_wait_for_a_grandchild_that_holds_the_pipe(node: Node, sandbox: str) -> None:
    container = wishes.run(node, sandbox, wishes.container(["sleep", "100"]))
    begun = time.monotonic()
    assert node.exec_sync(container, ["sh", "-c", "sleep 50 & echo done"], 10).stdout == b"done\n"
    assert time.monotonic() - begun < 5


def test_an_exec_that_nobody_waits_for_is_ended(node: Node, sandbox: str) -> None:
    container = wishes.run(node, sandbox, wishes.container(["sleep", "100"]))
    gone = threading.Event()
    threading.Timer(0.2, gone.set).start()
    with pytest.raises(Cancelled, match="the caller went away"):
        node.exec_sync(container, ["sleep", "55"], 0, gone)
    assert node.exec_sync(container, ["sh", "-c", "ps | grep -c '[s]leep 55'"], 10).stdout == b"0\n"


def test_an_exec_of_nothing_says_so(node: Node, sandbox: str) -> None:
    container = wishes.run(node, sandbox, wishes.container(["sleep", "100"]))
    with pytest.raises(StartFailed, match="cannot execute 'nonesuch': no such file or directory"):
        node.exec_sync(container, ["nonesuch"], 10)
    node.stop_container(container, 0)
    with pytest.raises(ContainerNotRunning):
        node.exec_sync(container, ["true"], 10)


def test_a_command_that_cannot_be_executed_fails_the_start(node: Node, sandbox: str) -> None:
    container = node.create_container(sandbox, wishes.container(["/no/such/program"]))
    with pytest.raises(StartFailed, match="cannot execute '/no/such/program': no such file or directory"):
        node.start_container(container)
    record = node.find_container(container)
    assert (record.state, record.exit_code, record.reason) == ("exited", 128, "StartError")


def deaf_to_term(answer: str) -> str:
    """A script that says "ready" once it has a trap: before that, the first process of a pid namespace ignores SIGTERM."""
    return f"trap '{answer}' TERM; echo ready; while :; do sleep 0.05; done"


def started(node: Node, sandbox: str, script: str, log: Path) -> str:
    container = wishes.run(node, sandbox, wishes.container(["sh", "-c", script], log=log))
    wait.until(lambda: wishes.lines(log) == ["ready"], 10, "the trap to be set")
    return container


def test_stop_asks_first_and_kills_when_the_time_is_over(node: Node, sandbox: str, tmp_path: Path) -> None:
    polite = started(node, sandbox, deaf_to_term("exit 9"), tmp_path / "polite")
    node.stop_container(polite, 20)
    assert node.find_container(polite).exit_code == 9
    deaf = started(node, sandbox, deaf_to_term(""), tmp_path / "deaf")
    node.stop_container(deaf, 0.2)
    record = node.find_container(deaf)
    assert (record.state, record.exit_code) == ("exited", 137)
    node.stop_container(deaf, 5)
    node.stop_container("0" * 64, 5)


def test_a_second_stop_shortens_the_first(node: Node, sandbox: str, tmp_path: Path) -> None:
    deaf = started(node, sandbox, deaf_to_term(""), tmp_path / "deaf")
    patient = threading.Thread(target=node.stop_container, args=(deaf, 60))
    patient.start()
    begun = time.monotonic()
    node.stop_container(deaf, 0.1)
    patient.join(20)
    assert not patient.is_alive()
    assert time.monotonic() - begun < 15


def test_a_stopped_sandbox_kills_keeps_its_records_and_takes_no_more(node: Node, sandbox: str) -> None:
    container = wishes.run(node, sandbox, wishes.container(["sleep", "100"]))
    node.stop_sandbox(sandbox)
    node.stop_sandbox(sandbox)
    assert node.find_sandbox(sandbox).state == "not ready"
    assert node.find_sandbox(sandbox).ip == ""
    assert node.find_container(container).exit_code == 137
    with pytest.raises(SandboxNotReady):
        node.create_container(sandbox, wishes.container(["true"]))
    node.remove_sandbox(sandbox)
    node.remove_sandbox(sandbox)
    with pytest.raises(ContainerNotFound):
        node.find_container(container)


def test_what_cannot_be_created_leaves_nothing(node: Node, sandbox: str, tmp_path: Path) -> None:
    missing = wishes.container(["true"])
    missing.spec.mounts.append(schema.Mount(destination="/x", type="bind", source=str(tmp_path / "none"), options=["rbind"]))
    with pytest.raises(HostPathNotFound, match="none: no such file or directory"):
        node.create_container(sandbox, missing)
    with pytest.raises(ImageNotFound):
        node.create_container(sandbox, wishes.container(["true"], image="unknown"))
    with pytest.raises(InvalidArgument, match="'nemo': not in the image's /etc/passwd"):
        node.create_container(sandbox, wishes.container(["true"], run_as_username="nemo"))
    unlimited = wishes.container(["true"])
    unlimited.spec.linux.resources = schema.Resources(unified={"nonsense.max": "1"})
    with pytest.raises(Exception, match="nonsense"):
        node.create_container(sandbox, unlimited)
    assert node.containers() == []
    assert os.listdir(node.paths.run_containers) == []
    assert os.listdir(node.paths.containers) == []


def test_volumes_files_and_read_only_roots(node: Node, sandbox: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in").write_text("from outside\n")
    (tmp_path / "message").write_text("")
    config = wishes.container(
        [
            "sh",
            "-c",
            "cat /deep/data/in; echo x > /deep/data/out; echo y > /ro/in; echo z > /root-file; echo m > /dev/termination-log",
        ],
        log=tmp_path / "log",
        readonly=True,
    )
    config.spec.mounts += [
        schema.Mount(destination="/deep/data", type="bind", source=str(tmp_path / "data"), options=["rbind", "rprivate"]),
        schema.Mount(destination="/ro", type="bind", source=str(tmp_path / "data"), options=["rbind", "rprivate", "ro"]),
        schema.Mount(
            destination="/dev/termination-log", type="bind", source=str(tmp_path / "message"), options=["rbind", "rprivate"]
        ),
    ]
    wishes.finish(node, wishes.run(node, sandbox, config))
    assert wishes.lines(tmp_path / "log", "stdout") == ["from outside"]
    assert wishes.lines(tmp_path / "log", "stderr") == [
        "sh: can't create /ro/in: Read-only file system",
        "sh: can't create /root-file: Read-only file system",
    ]
    assert (tmp_path / "data/out").read_text() == "x\n"
    assert (tmp_path / "message").read_text() == "m\n"


def test_a_terminal_is_a_terminal(node: Node, sandbox: str, tmp_path: Path) -> None:
    config = wishes.container(
        ["sh", "-c", "tty; [ -t 0 ] && [ -t 1 ] && echo both; ls -l /dev/console | cut -c1"], tty=True, log=tmp_path / "log"
    )
    assert wishes.finish(node, wishes.run(node, sandbox, config)) == 0
    assert [line.rstrip("\r") for line in wishes.lines(tmp_path / "log", "stdout")] == ["/dev/pts/0", "both", "c"]


def test_a_rotated_log_goes_on_in_a_new_file(node: Node, sandbox: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    container = wishes.run(
        node, sandbox, wishes.container(["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.005; done"], log=log)
    )
    wait.until(lambda: len(wishes.lines(log)) > 3, 20)
    log.rename(tmp_path / "log.1")
    node.reopen_log(container)
    assert log.exists()
    old = (tmp_path / "log.1").read_text()
    wait.until(lambda: len(wishes.lines(log)) > 3, 20)
    node.stop_container(container, 0)
    assert (tmp_path / "log.1").read_text() == old
    numbers = [int(line) for file in (tmp_path / "log.1", log) for line in wishes.lines(file)]
    assert numbers == list(range(len(numbers)))
    assert len(wishes.lines(log)) > 3
    with pytest.raises(ContainerNotRunning):
        node.reopen_log(container)


def test_host_namespaces_are_shared_when_asked_for(node: Node, tmp_path: Path) -> None:
    pod = node.run_sandbox(wishes.sandbox(network="node", pid="node", ipc="node"))
    config = wishes.container(
        ["sh", "-c", "for kind in net ipc pid; do readlink /proc/self/ns/$kind; done"], pid="node", log=tmp_path / "log"
    )
    assert wishes.finish(node, wishes.run(node, pod, config)) == 0
    assert wishes.lines(tmp_path / "log") == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc", "pid")]


def test_a_container_has_the_limit_of_descriptors_that_the_daemon_had(make_node: Callable[[], Node], tmp_path: Path) -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, usual[1]))
    try:
        node = make_node()
        store_busybox(node.images)
        pod = node.run_sandbox(wishes.sandbox())
        config = wishes.container(["sh", "-c", "ulimit -n; sleep 100"], log=tmp_path / "log")
        container = wishes.run(node, pod, config)
        assert node.exec_sync(container, ["sh", "-c", "ulimit -n"], 10).stdout == b"777\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    wait.until(lambda: wishes.lines(tmp_path / "log") == ["777"], 5)
    assert resource.prlimit(node.monitor_pid, resource.RLIMIT_NOFILE)[0] == usual[1]


def test_a_retry_gets_what_the_first_call_made(node: Node) -> None:
    config = wishes.sandbox()
    first = node.run_sandbox(config)
    assert node.run_sandbox(config) == first
    wish = wishes.container(["true"])
    container = node.create_container(first, wish)
    assert node.create_container(first, wish) == container
    node.start_container(container)
    wishes.finish(node, container)
    with pytest.raises(WrongState, match="remove it or use another attempt number"):
        node.create_container(first, wish)


def test_the_set_up_is_kept_for_who_asks(node: Node, sandbox: str) -> None:
    container = node.create_container(sandbox, wishes.container(["true"]))
    steps = node.history_of(container)
    calls = [step.call.partition("(")[0] for step in steps]
    assert "move_mount" in calls
    # The last one is the word that it is done, which is read before its time is written down.
    done = steps[: calls.index("read") - 1]
    assert all(step.at_us for step in done if not step.skipped)


def test_a_node_that_is_started_again_finds_all(make_node: Callable[[], Node], node: Node, tmp_path: Path) -> None:
    pod = node.run_sandbox(wishes.sandbox(pid="pod"))
    running = wishes.run(
        node, pod, wishes.container(["sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.05; done"], log=tmp_path / "a")
    )
    created = node.create_container(pod, wishes.container(["echo", "late"], log=tmp_path / "b"))
    short = wishes.run(node, pod, wishes.container(["sh", "-c", "sleep 0.3; echo bye; exit 6"], log=tmp_path / "c"))
    address = node.find_sandbox(pod).ip
    node.close()
    time.sleep(0.6)
    again = make_node()
    assert again.find_sandbox(pod).ip == address != ""
    assert again.find_container(running).state == "running"
    assert again.find_container(created).state == "created"
    assert wishes.finish(again, short) == 6
    assert wishes.lines(tmp_path / "c") == ["bye"]
    again.start_container(created)
    assert wishes.finish(again, created) == 0
    assert wishes.lines(tmp_path / "b") == ["late"]
    again.stop_container(running, 10)
    assert again.find_container(running).exit_code == 4


def test_a_container_without_a_log_has_none_to_reopen(node: Node, sandbox: str) -> None:
    container = wishes.run(node, sandbox, wishes.container(["sleep", "100"]))
    with pytest.raises(WrongState, match=r"^reopen log: container .* has none$"):
        node.reopen_log(container)
