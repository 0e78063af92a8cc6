"""System call filters as they are installed: every flag, every action, and a listener that answers, for init and exec."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kernel.fd import Fd, memory
from runtime.container import entrance, filter, init, join, notify
from runtime.container.descriptors import Descriptor
from runtime.container.seccomp import compile_filter
from runtime.errors import StartFailed
from runtime.oci.launch import Launch, launch, private_ends
from runtime.spec import schema
from tests.support import inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

ENOMEDIUM = 123
#: ioctls of a listener (linux/seccomp.h): struct seccomp_notif has 80 bytes, struct seccomp_notif_resp 24.
RECEIVE, ANSWER = 0xC0502100, 0xC0182101


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> inside.Node:
    return inside.make_node(tmp_path_factory.mktemp("filter"))


def profile(*rules: schema.SyscallRule, **more: object) -> schema.Seccomp:
    given: dict[str, Any] = {"default_action": "SCMP_ACT_ALLOW", **more}
    return schema.Seccomp(syscalls=list(rules), **given)


def rule(name: str, action: str, errno: int | None = None) -> schema.SyscallRule:
    return schema.SyscallRule(names=[name], action=action, errno_ret=errno)


def test_a_profile_that_speaks_of_no_flags_does_not_slow_a_program_down() -> None:
    assert filter.flags_of(profile()) == ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)
    assert filter.flags_of(profile(flags=[])) == ()


def test_flags_that_the_kernel_would_refuse_are_left_out() -> None:
    """Or that say nothing: TSYNC, and WAIT_KILLABLE_RECV without a listener."""
    every = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV", "LOG")]
    assert filter.flags_of(profile(flags=every)) == tuple(every[:2])
    listening = profile(rule("mkdir", "SCMP_ACT_NOTIFY"), flags=every)
    assert filter.flags_of(listening) == (*every[:2], every[3], "SECCOMP_FILTER_FLAG_NEW_LISTENER")


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["SECCOMP_FILTER_FLAG_LOG"],
        ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        ["SECCOMP_FILTER_FLAG_TSYNC"],
        ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        [f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV")],
    ],
)
def test_a_filter_holds_with_every_flag(node: inside.Node, flags: list[str], no_new_privileges: bool) -> None:
    wanted = inside.spec("mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status", no_new_privileges=no_new_privileges)
    wanted.linux.seccomp = profile(rule("mkdir", "SCMP_ACT_ERRNO", ENOMEDIUM), flags=flags)
    said = node.run(wanted)
    assert "No medium found" in said
    assert said.split()[-1] == "2"


def test_the_flags_reach_the_kernel(node: inside.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that it refuses makes the step fail, as a flag that is newer than the kernel would."""
    monkeypatch.setattr(filter, "flags_of", lambda _: (filter.KILLABLE,))  # without a listener
    wanted = inside.spec("true")
    wanted.linux.seccomp = profile()
    with pytest.raises(StartFailed, match=r"WAIT_KILLABLE_RECV.*invalid argument.*does not know an action or a flag"):
        node.run(wanted)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("SCMP_ACT_KILL", 128 + 31),
        ("SCMP_ACT_KILL_THREAD", 128 + 31),
        ("SCMP_ACT_KILL_PROCESS", 128 + 31),
        ("SCMP_ACT_TRAP", 128 + 31),
        ("SCMP_ACT_LOG", 0),
        ("SCMP_ACT_ALLOW", 0),
        ("SCMP_ACT_TRACE", 1),  # nobody traces: ENOSYS
        ("SCMP_ACT_ERRNO", 1),
    ],
)
def test_every_action_is_done(node: inside.Node, action: str, code: int) -> None:
    wanted = inside.spec("(busybox mkdir /dev/made; true) 2>/dev/null; busybox mkdir /dev/made2 2>/dev/null; echo $?")
    wanted.linux.seccomp = profile(rule("mkdir", action))
    assert node.run(wanted).split()[-1] == str(code)


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_ERRNO"])
def test_a_profile_need_not_allow_what_the_program_does_not_call(node: inside.Node, action: str) -> None:
    """Made by watching a program: what it calls, and what every runtime does between the filter and execve."""
    between = "write read execve close".split()
    of_busybox = (
        "brk arch_prctl set_tid_address set_robust_list rseq prlimit64 readlink readlinkat getrandom mprotect getuid prctl "
        "newfstatat fstat exit_group rt_sigaction getpid getppid getcwd stat ioctl uname fcntl geteuid getegid getgid"
    ).split()
    wanted = inside.spec("echo hello", no_new_privileges=True)
    wanted.linux.seccomp = profile(
        schema.SyscallRule(names=[*between, *of_busybox], action="SCMP_ACT_ALLOW"), default_action=action, default_errno_ret=None
    )
    assert node.run(wanted) == "hello\n"
    assert filter.of(wanted.linux.seccomp, b"") == filter.SystemCallFilter(b"", (filter.SPEC_ALLOW,), allows_clock=False)


class Agent:
    """Listens at *path*, and answers every call that waits with *errno*; *calls* are those it saw."""

    def __init__(self, path: Path, errno: int) -> None:
        self._errno = errno
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self.states: list[dict[str, Any]] = []
        self.calls: list[int] = []
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                message, fds, _, _ = socket.recv_fds(connection, 65536, 4)
                assert connection.recv(1) == b""  # exactly one state for each connection
            if not fds:
                return
            self.states.append(json.loads(message))
            with Fd(fds[0]) as listener:
                self._answer(listener)

    def _answer(self, listener: Fd) -> None:
        events = select.poll()
        events.register(listener.fileno(), select.POLLIN)
        while events.poll()[0][1] & select.POLLIN:  # else nobody has the filter any more, which RECEIVE tells since Linux 6.11
            request = bytearray(80)
            try:
                fcntl.ioctl(listener.fileno(), RECEIVE, request)
            except FileNotFoundError:
                return  # whoever asked is gone
            except OSError:
                return  # no process has the filter any more
            number, _pid, _flags, call = struct.unpack_from("<QIIi", request)
            self.calls.append(call)
            fcntl.ioctl(listener.fileno(), ANSWER, struct.pack("<QqiI", number, 0, -self._errno, 0))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as goodbye:
            goodbye.connect(self._server.getsockname())
        self._thread.join()
        self._server.close()


@contextmanager
def agent(path: Path) -> Iterator[Agent]:
    found = Agent(path, ENOMEDIUM)
    try:
        yield found
    finally:
        found.close()


def finish(launched: Launch, output: Fd) -> str:
    """Let it go on to its program, and wait for the end."""
    launched.go_on()
    assert launched.hear() == ""
    os.waitpid(launched.pid, 0)
    return os.pread(output.fileno(), 1 << 16, 0).decode()


STATE = schema.State(oci_version="1.2.0", id="web", status="creating", bundle="/bundle", annotations={"a": "b"})


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_calls_wait_for_who_listens(node: inside.Node, tmp_path: Path, no_new_privileges: bool) -> None:
    path = tmp_path / "agent"
    wanted = inside.spec("mkdir /tmp/x 2>&1; ls /proc/self/fd | wc -l", no_new_privileges=no_new_privileges)
    flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"]
    wanted.linux.seccomp = profile(
        rule("mkdir", "SCMP_ACT_NOTIFY"), flags=flags, listener_path=str(path), listener_metadata="for you"
    )
    prepared = node.prepare(wanted)
    with agent(path) as found, closing(prepared), memory("output", b"", seal=False) as output:
        program = init.program("test", wanted, prepared.facts, compile_filter(wanted.linux.seccomp))
        files = {**prepared.descriptors, Descriptor.STDOUT: output, Descriptor.STDERR: output}
        with launch(program, files, private_ends(program)) as launched:
            assert launched.hear() == "c"
            notify.hand_over(program, launched.report, wanted.linux.seccomp, STATE)
            said = finish(launched, output)
        pid = launched.pid
    assert "No medium found" in said
    assert said.split()[-1] == "4"  # three streams, the directory that ls reads: no listener
    assert len(found.calls) == 1
    assert found.states == [
        {
            "ociVersion": "1.2.0",
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": "for you",
            "state": {"ociVersion": "1.2.0", "id": "web", "status": "creating", "bundle": "/bundle", "annotations": {"a": "b"}},
        }
    ]


def test_an_exec_has_a_listener_of_its_own(node: inside.Node, tmp_path: Path) -> None:
    path = tmp_path / "agent"
    wanted = inside.spec("sleep 100")
    seccomp = profile(rule("mkdir", "SCMP_ACT_NOTIFY"), listener_path=str(path))
    prepared = node.prepare(wanted)
    with agent(path) as found, closing(prepared), memory("output", b"", seal=False) as output:
        program = init.program("test", wanted, prepared.facts)
        with launch(program, prepared.descriptors, private_ends(program)) as container:
            assert container.hear() == "c"
            assert wanted.process is not None
            process = schema.Process(args=["mkdir", "/tmp/x"], env=wanted.process.env, oom_score_adj=500)
            opened = entrance.prepare(process, container.pid, None, has_reaper=False, waits=True)
            with closing(opened):
                system_calls = filter.of(seccomp, compile_filter(seccomp))
                steps = join.program("exec", process, opened.entrance, system_calls)
                files = {**opened.descriptors, Descriptor.STDOUT: output, Descriptor.STDERR: output}
                with launch(steps, files, private_ends(steps)) as launched:
                    assert launched.hear() == "c"
                    notify.hand_over(steps, launched.report, seccomp, STATE)
                    assert "No medium found" in finish(launched, output)
            container.end()
    assert len(found.calls) == 1


def test_an_agent_may_close_as_soon_as_it_has_read(tmp_path: Path) -> None:
    seccomp = profile(listener_path=str(tmp_path / "agent"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server, memory("x", b"") as file:
        server.bind(seccomp.listener_path)
        server.listen()

        def read() -> None:
            for _ in range(200):
                connection, _ = server.accept()
                with connection:
                    os.close(socket.recv_fds(connection, 65536, 1)[1][0])

        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(200):
            notify.send(file, seccomp, STATE, 1)
        thread.join()


def test_an_agent_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "AGENT_SECONDS", 1)
    seccomp = profile(listener_path=str(tmp_path / "agent"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server, memory("x", b"") as file:
        server.bind(seccomp.listener_path)
        server.listen(0)
        notify.send(file, seccomp, STATE, 1)  # the one that may wait to be accepted
        with pytest.raises(StartFailed, match=r"not heard in 1 s"):
            notify.send(file, seccomp, STATE, 1)


def test_an_agent_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    seccomp = profile(listener_path=str(tmp_path / "nobody"))
    match = r"connect with seccomp agent: no such file.*is it running at .*/nobody"
    with memory("x", b"") as file, pytest.raises(StartFailed, match=match):
        notify.send(file, seccomp, STATE, 1)


def test_an_agent_of_calls_that_do_not_wait_is_told_if_it_is_there(node: inside.Node, tmp_path: Path) -> None:
    wanted = inside.spec("mkdir -p /tmp/x && echo made")
    wanted.linux.seccomp = profile(listener_path=str(tmp_path / "agent"))
    for is_there in (True, False):
        prepared = node.prepare(wanted)
        with closing(prepared), memory("output", b"", seal=False) as output, ExitStack() as agents:
            found = agents.enter_context(agent(tmp_path / "agent")) if is_there else None
            program = init.program("test", wanted, prepared.facts, compile_filter(wanted.linux.seccomp))
            files = {**prepared.descriptors, Descriptor.STDOUT: output, Descriptor.STDERR: output}
            with launch(program, files, private_ends(program)) as launched:
                assert launched.hear() == "c"
                notify.hand_over(program, launched.report, wanted.linux.seccomp, STATE)
                assert finish(launched, output) == "made\n"
        if found is not None:
            assert len(found.states) == 1
            assert found.calls == []
            (tmp_path / "agent").unlink()


def test_nothing_is_sent_without_a_listener(node: inside.Node) -> None:
    wanted = inside.spec("true")
    prepared = node.prepare(wanted)
    with closing(prepared), memory("report", b"") as report:
        notify.hand_over(init.program("test", wanted, prepared.facts), report, profile(), STATE)
