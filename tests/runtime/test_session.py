"""Exec, attach and port-forward on a real kernel: what is said, what is heard, how it ends, and who is let alone."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup
from runtime.errors import (
    ContainerNotRunning,
    InvalidArgument,
    PortUnreachable,
    SandboxNotReady,
    StartFailed,
    Unsupported,
)
from runtime.node import Node
from runtime.session import Session, Sink, Source
from runtime.spec.schema import IdMapping
from tests.support import wait, wishes
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

SECONDS = 20


@pytest.fixture
def pod(node: Node) -> str:
    return node.run_sandbox(wishes.sandbox(hostname="web"))


@pytest.fixture
def container(node: Node, pod: str) -> str:
    return wishes.run(node, pod, wishes.container(["sleep", "1000"]))


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    """Those that a test opens, which end with it."""
    opened: list[Session] = []
    yield opened
    for session in opened:
        session.close()


def exec_in(
    node: Node, container: str, *command: str, terminal: bool = False, stdin: bool = False, stderr: bool | None = None
) -> Session:
    err = not terminal if stderr is None else stderr
    return node.exec(container, list(command), terminal=terminal, stdin=stdin, stdout=True, stderr=err)


def hear(source: Source | None, until: bytes | None = None) -> bytes:
    """What *source* says, to its end or until there is *until*."""
    assert source is not None
    heard, deadline = b"", time.monotonic() + SECONDS
    while until is None or until not in heard:
        left = deadline - time.monotonic()
        assert left > 0, f"heard only {heard[-200:]!r}"
        select.select([source], [], [], left)
        piece = source.read()
        if piece == b"":
            assert until is None, f"the end came before {until!r}: {heard[-200:]!r}"
            return heard
        heard += piece or b""
    return heard


def say(sink: Sink | None, content: bytes) -> None:
    assert sink is not None
    view = memoryview(content)
    while view:
        assert select.select([], [sink], [], SECONDS)[1], "nobody reads"
        taken = sink.write(view)
        assert taken is not None, "nobody listens"
        view = view[taken:]


def processes(node: Node, container: str) -> dict[str, str]:
    """The command lines of what lives in the container, by cgroup below its own."""
    top = node._context.cgroup(node.find_container(container).cgroup)
    return {
        str(pid): Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip() for pid in top.all_processes()
    }


def test_what_goes_in_comes_out_and_ends(node: Node, container: str, sessions: list[Session]) -> None:
    session = exec_in(node, container, "sh", "-c", "cat; echo bad >&2; exit 7", stdin=True)
    sessions.append(session)
    assert session.stdin is not None
    heard, filled = b"", False
    for _ in range(10):
        say(session.stdin, b"one\n" * 5_000)
        heard += hear(session.stdout, b"one\n")
    while not filled:  # cat waits for us to read, and then we for cat
        filled = session.stdin.write(b"one\n" * 1_000) == 0
    session.stdin.close()
    heard += hear(session.stdout)
    assert len(heard) > 10 * 20_000 and heard == b"one\n" * (len(heard) // 4)
    assert hear(session.stderr) == b"bad\n"
    assert session.wait(SECONDS) == 7


def test_without_stdin_there_is_nothing_to_read(node: Node, container: str, sessions: list[Session]) -> None:
    session = exec_in(node, container, "sh", "-c", "cat | wc -c; kill -9 $$", stderr=False)
    sessions.append(session)
    assert session.stdin is None and session.stderr is None
    assert hear(session.stdout) == b"0\n"
    assert session.wait(SECONDS) == 137


def test_a_terminal_has_a_name_a_size_and_a_type(node: Node, container: str, sessions: list[Session]) -> None:
    script = "tty; echo $TERM; read _; stty size; sleep 100"
    session = exec_in(node, container, "sh", "-c", script, terminal=True, stdin=True)
    sessions.append(session)
    assert hear(session.stdout, b"xterm\r\n").startswith(b"/dev/pts/")
    session.resize(width=132, height=43)
    say(session.stdin, b"\n")
    assert b"43 132" in hear(session.stdout, b"43 132")
    say(session.stdin, b"\x03")
    assert session.wait(SECONDS) == 130


def test_a_type_of_the_containers_own_stays(node: Node, pod: str, sessions: list[Session]) -> None:
    container = wishes.run(node, pod, wishes.container(["sleep", "100"], env=["TERM=vt100"]))
    session = exec_in(node, container, "sh", "-c", "echo $TERM", terminal=True)
    sessions.append(session)
    assert hear(session.stdout) == b"vt100\r\n"


def test_a_terminal_belongs_to_the_user(node: Node, pod: str, sessions: list[Session]) -> None:
    container = wishes.run(node, pod, wishes.container(["sleep", "100"], run_as_user=1000))
    session = exec_in(node, container, "sh", "-c", "stat -c '%u %g %a' $(tty); echo hi > $(tty)", terminal=True)
    sessions.append(session)
    assert hear(session.stdout) == b"1000 5 620\r\nhi\r\n"


def test_who_goes_takes_all_that_was_started_along(node: Node, container: str) -> None:
    session = exec_in(node, container, "sh", "-c", "sleep 2000 & setsid sleep 3000 & echo on; sleep 4000")
    hear(session.stdout, b"on\n")
    sleeping = {f"sleep {number}" for number in (1000, 2000, 3000, 4000)}
    wait.until(lambda: sleeping <= {*processes(node, container).values()}, SECONDS, "all of them")
    session.close()
    assert list(processes(node, container).values()) == ["sleep 1000"]
    assert node._context.cgroup(node.find_container(container).cgroup).descendants() == []
    assert os.listdir(node.paths.run_container(container) / "exec") == []
    session.close()  # a second time does nothing


def test_what_a_command_leaves_running_runs_on_in_the_container(node: Node, container: str) -> None:
    """As with every other runtime: "kubectl exec -- sh -c 'server &'" starts a server."""
    session = exec_in(node, container, "sh", "-c", "sleep 2000 & echo on")
    assert hear(session.stdout, b"on\n") == b"on\n"
    assert session.wait(SECONDS) == 0
    session.close()
    assert sorted(processes(node, container).values()) == ["sleep 1000", "sleep 2000"]
    top = node._context.cgroup(node.find_container(container).cgroup)
    assert len(top.processes()) == 2 and top.descendants() == []
    node.stop_container(container, 0)


def test_an_end_is_told_by_the_next_monitor_when_one_is_killed(node: Node, container: str, sessions: list[Session]) -> None:
    session = exec_in(node, container, "sh", "-c", "echo on; read line; echo $line; exit 9", stdin=True)
    sessions.append(session)
    hear(session.stdout, b"on\n")
    os.kill(node.monitor_pid, 9)
    say(session.stdin, b"still here\n")
    assert hear(session.stdout) == b"still here\n"
    assert session.wait(SECONDS) == 9
    session.close()
    assert node._context.executing == {}


def test_what_cannot_be_run_is_told_and_leaves_nothing(node: Node, container: str, pod: str) -> None:
    for terminal in (False, True):
        with pytest.raises(StartFailed, match="nonesuch"):
            exec_in(node, container, "nonesuch", terminal=terminal)
    assert os.listdir(node.paths.run_container(container) / "exec") == []
    assert node._context.executing == {}
    with pytest.raises(InvalidArgument, match="a terminal has no stderr"):
        exec_in(node, container, "sh", terminal=True, stderr=True)
    config = wishes.container(["sleep", "100"])
    config.spec.mounts = [mount for mount in config.spec.mounts if mount.type != "devpts"]
    with pytest.raises(Unsupported, match="no devpts"):
        exec_in(node, wishes.run(node, pod, config), "sh", terminal=True)
    node.stop_container(container, 0)
    with pytest.raises(ContainerNotRunning):
        exec_in(node, container, "true")


def test_an_exec_ends_with_its_container(node: Node, container: str, sessions: list[Session]) -> None:
    session = exec_in(node, container, "sh", "-c", "echo on; sleep 1000")
    sessions.append(session)
    hear(session.stdout, b"on\n")
    node.stop_container(container, 0)
    assert hear(session.stdout) == b""
    assert session.wait(SECONDS) == 137


# Attach.


def attach(node: Node, container: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = True) -> Session:
    return node.attach(container, stdin=stdin, stdout=stdout, stderr=stderr)


def test_attached_it_hears_what_comes_from_now_on(node: Node, pod: str, sessions: list[Session], tmp_path: Path) -> None:
    script = "echo before; while read line; do echo -n out $line; echo err $line >&2; done"
    config = wishes.container(["sh", "-c", script], stdin=True, log=tmp_path / "log")
    container = wishes.run(node, pod, config)
    wait.until(lambda: "before" in (tmp_path / "log").read_text(), SECONDS)
    first, second = attach(node, container, stdin=True), attach(node, container, stderr=False)
    sessions.extend((first, second))
    say(first.stdin, b"1\n")
    assert hear(first.stdout, b"out 1") == hear(second.stdout, b"out 1") == b"out 1"
    assert hear(first.stderr, b"err 1\n") == b"err 1\n"
    assert second.stderr is None and second.stdin is None
    first.close()  # its stdin is not the container's
    third = attach(node, container, stdin=True)
    sessions.append(third)
    say(third.stdin, b"2\n")
    assert hear(third.stdout, b"out 2") == hear(second.stdout, b"out 2") == b"out 2"
    node.stop_container(container, 0)
    assert hear(second.stdout) == hear(third.stdout) == b""
    assert second.wait(SECONDS) == third.wait(SECONDS) == 137
    assert wishes.lines(tmp_path / "log", "stderr") == ["err 1", "err 2"]
    assert "".join(wishes.lines(tmp_path / "log", "stdout")) == "beforeout 1out 2"


@pytest.mark.parametrize("monitor_dies", [False, True])
def test_a_stdin_that_ends_once_ends_for_good(
    node: Node, pod: str, sessions: list[Session], tmp_path: Path, *, monitor_dies: bool
) -> None:
    config = wishes.container(["sh", "-c", "wc -c; sleep 0.1; exit 3"], stdin=True, stdin_once=True, log=tmp_path / "log")
    container = wishes.run(node, pod, config)
    if monitor_dies:  # the reaper has kept it
        os.kill(node.monitor_pid, 9)
    session = attach(node, container, stdin=True)
    sessions.append(session)
    say(session.stdin, b"x" * 70_000)
    assert session.stdin is not None
    session.stdin.close()
    assert hear(session.stdout) == b"70000\n"
    assert session.wait(SECONDS) == 3
    assert wishes.finish(node, container) == 3


def test_a_stdin_that_has_ended_does_not_keep_the_next_monitor_from_the_container(
    node: Node, pod: str, tmp_path: Path
) -> None:
    script = "cat >/dev/null; echo over; sleep 1000"
    config = wishes.container(["sh", "-c", script], stdin=True, stdin_once=True, log=tmp_path / "log")
    container = wishes.run(node, pod, config)
    attach(node, container, stdin=True).close()  # who leaves has said all
    wait.until(lambda: "over" in (tmp_path / "log").read_text(), SECONDS)
    before = node.monitor_pid
    os.kill(before, 9)
    wait.until(lambda: node._context.monitor.is_settled and node.monitor_pid != before, SECONDS)
    session = attach(node, container)
    assert node.find_container(container).state == "running"
    session.close()


def test_who_attaches_when_stdin_has_ended_for_good_hears_all_the_same(
    node: Node, pod: str, sessions: list[Session], tmp_path: Path
) -> None:
    script = "cat > /dev/null; echo over; trap 'echo bye; exit 6' TERM; while :; do sleep 0.02; done"
    config = wishes.container(["sh", "-c", script], stdin=True, stdin_once=True, log=tmp_path / "log")
    container = wishes.run(node, pod, config)
    attach(node, container, stdin=True).close()
    wait.until(lambda: "over" in (tmp_path / "log").read_text(), SECONDS)
    session = attach(node, container, stdin=True)
    sessions.append(session)
    assert session.stdin is None
    node.stop_container(container, SECONDS)
    assert hear(session.stdout) == b"bye\n"
    assert session.wait(SECONDS) == 6


def test_attached_to_a_terminal(node: Node, pod: str, sessions: list[Session], tmp_path: Path) -> None:
    script = "read _; stty size; read line; echo got $line"
    config = wishes.container(["sh", "-c", script], stdin=True, tty=True, log=tmp_path / "log")
    container = wishes.run(node, pod, config)
    session = attach(node, container, stdin=True)
    sessions.append(session)
    assert session.stderr is None
    session.resize(width=90, height=31)
    say(session.stdin, b"\n")
    hear(session.stdout, b"31 90\r\n")
    say(session.stdin, b"it\n")
    assert hear(session.stdout).endswith(b"got it\r\n")
    assert session.wait(SECONDS) == 0
    assert wishes.lines(tmp_path / "log")[-1].rstrip("\r") == "got it"


def test_who_reads_slowly_gets_all_and_who_does_not_read_stops_nobody_else(
    node: Node, pod: str, sessions: list[Session], tmp_path: Path
) -> None:
    size = 6_000_000
    script = f"read _; head -c {size} /dev/zero; echo; echo other >&2; sleep 1000"
    container = wishes.run(node, pod, wishes.container(["sh", "-c", script], stdin=True, log=tmp_path / "log"))
    other = wishes.run(node, pod, wishes.container(["sh", "-c", "read _; echo here"], stdin=True, log=tmp_path / "other"))
    slow = attach(node, container, stdin=True)
    sessions.append(slow)
    say(slow.stdin, b"\n")
    wait.until(lambda: (tmp_path / "log").stat().st_size > 1_000_000, SECONDS)
    beside = attach(node, other, stdin=True)
    sessions.append(beside)
    say(beside.stdin, b"\n")
    assert hear(beside.stdout) == b"here\n"
    assert (tmp_path / "log").stat().st_size < 3_000_000  # the pipe is full, and it waits
    assert hear(slow.stdout, b"\n") == bytes(size) + b"\n"
    assert hear(slow.stderr, b"other\n") == b"other\n"


def test_who_goes_while_it_is_waited_for_lets_the_container_go_on(node: Node, pod: str, tmp_path: Path) -> None:
    script = "read _; head -c 6000000 /dev/zero; exit 4"
    container = wishes.run(node, pod, wishes.container(["sh", "-c", script], stdin=True, log=tmp_path / "log"))
    session = attach(node, container, stdin=True)
    say(session.stdin, b"\n")
    wait.until(lambda: (tmp_path / "log").stat().st_size > 1_000_000, SECONDS)
    session.close()
    assert wishes.finish(node, container) == 4
    assert sum(map(len, wishes.lines(tmp_path / "log"))) == 6_000_000


def test_attaching_is_refused_where_there_is_nothing_to_attach_to(node: Node, container: str) -> None:
    with pytest.raises(InvalidArgument, match=r"attach: stdin: .* created without one"):
        attach(node, container, stdin=True)
    only_end = attach(node, container, stdout=False, stderr=False)
    node.stop_container(container, 0)
    assert only_end.wait(SECONDS) == 137
    only_end.close()
    with pytest.raises(ContainerNotRunning, match="attach: "):
        attach(node, container)


# Ports.


def test_a_port_of_a_pod_is_reached(node: Node, pod: str) -> None:
    config = wishes.container(["sh", "-c", "while nc -l -p 8080 -e sh -c 'read line; echo got $line'; do :; done"])
    container = wishes.run(node, pod, config)

    def ask() -> bytes:
        with node.port_forward(pod, 8080) as connection:
            connection.sendall(b"it\n")
            return connection.recv(100)

    def is_there() -> bool:
        try:
            return ask() == b"got it\n"
        except PortUnreachable:
            return False

    wait.until(is_there, SECONDS, "an answer")
    node.stop_container(container, 0)
    with pytest.raises(PortUnreachable, match=r"port 8080 of pod pod\d+: connection refused"):
        node.port_forward(pod, 8080)
    with pytest.raises(InvalidArgument, match="0 is not a port"):
        node.port_forward(pod, 0)
    node.stop_sandbox(pod)
    with pytest.raises(SandboxNotReady):
        node.port_forward(pod, 8080)


@requires("ipv6")
def test_a_pod_on_the_nodes_network_has_the_nodes_ports_also_of_ipv6(node: Node) -> None:
    pod = node.run_sandbox(wishes.sandbox(network="node"))
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as server:
            server.bind((address, 0))
            server.listen()
            with node.port_forward(pod, server.getsockname()[1]) as connection:
                assert connection.family == family


def test_no_cgroup_of_an_exec_is_left(node: Node, container: str) -> None:
    for _ in range(3):
        session = exec_in(node, container, "true")
        assert session.wait(SECONDS) == 0
        session.close()
    assert Cgroup(node._context.cgroup(node.find_container(container).cgroup).path).descendants() == []


def test_a_terminal_in_a_user_namespace_is_its_users(node: Node, sessions: list[Session]) -> None:
    users = {
        "uid_mappings": [IdMapping(container_id=0, host_id=600000, size=65536)],
        "gid_mappings": [IdMapping(container_id=0, host_id=600000, size=65536)],
    }
    pod = node.run_sandbox(wishes.sandbox(**users))  # type: ignore[arg-type]
    for user in (0, 1000):
        container = wishes.run(node, pod, wishes.container(["sleep", "100"], run_as_user=user))
        session = exec_in(node, container, "sh", "-c", "stat -c '%u %g %a' $(tty); echo hi > $(tty)", terminal=True)
        sessions.append(session)
        assert hear(session.stdout) == b"%d 5 620\r\nhi\r\n" % user
