"""kernelet exec and attach as a person uses them: on a terminal, in a pipe, from a script; against a real daemon."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest

from cri.command import session
from runtime.errors import KerneletError
from runtime.paths import Paths
from tests.cri.serving import serving, store_busybox
from tests.support.daemon import Daemon
from tests.support.isolation import Run
from tests.support.requires import TREE, requires

SECONDS = 20


class Node:
    """A daemon with a pod, in which containers are started."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._call = daemon.client()
        self.pod = self._call(pod_request(daemon.paths)).pod_sandbox_id

    def start(self, name: str, script: str, **fields: Any) -> str:
        from cri.api import api_pb2 as api

        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image="busybox"),
            command=["sh", "-c", script],
            log_path=f"{name}.log",
            linux=api.LinuxContainerConfig(),
            **fields,
        )
        made = self._call(
            api.CreateContainerRequest(
                pod_sandbox_id=self.pod, config=config, sandbox_config=pod_request(self.daemon.paths).config
            )
        ).container_id
        self._call(api.StartContainerRequest(container_id=made))
        return made

    def command(self, *words: str) -> list[str]:
        name, *rest = words
        return [sys.executable, "-m", "cri", name, "--socket", str(self.daemon.paths.socket), *rest]

    def run(self, *words: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.command(*words), cwd=TREE, input=said, capture_output=True, timeout=SECONDS, check=False)

    def close(self) -> None:
        from cri.api import api_pb2 as api

        self._call(api.RemovePodSandboxRequest(pod_sandbox_id=self.pod))
        self._call.close()


def pod_request(paths: Paths) -> Any:
    from cri.api import api_pb2 as api

    metadata = api.PodSandboxMetadata(name="web", namespace="default", uid="u")
    options = api.LinuxPodSandboxConfig(
        security_context=api.LinuxSandboxSecurityContext(namespace_options=api.NamespaceOption(network=api.NODE))
    )
    return api.RunPodSandboxRequest(
        config=api.PodSandboxConfig(metadata=metadata, log_directory=str(paths.run_dir.parent / "logs"), linux=options)
    )


@pytest.fixture
def node(paths: Paths, run: Run) -> Iterator[Node]:
    store_busybox(paths)
    with serving(paths, run) as daemon:
        node = Node(daemon)
        yield node
        node.close()


class Terminal:
    """A person at a terminal, who runs one command."""

    def __init__(self, command: list[str]) -> None:
        self._master, slave = pty.openpty()
        self.resize(80, 24)
        self.process = subprocess.Popen(command, cwd=TREE, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self._seen = b""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def read_until(self, wanted: bytes) -> None:
        """Return when *wanted* is on the screen, after what was waited for before."""
        deadline = time.monotonic() + SECONDS
        while wanted not in self._seen:
            assert select.select([self._master], [], [], deadline - time.monotonic())[0], self._seen
            try:
                self._seen += os.read(self._master, 4096)
            except OSError:
                raise AssertionError(f"the end came before {wanted!r}: {self._seen!r}") from None
        self._seen = self._seen.partition(wanted)[2]

    def wait(self) -> int:
        return self.process.wait(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        os.close(self._master)


@requires("root", "cgroup2", "busybox")
def test_exec_in_a_script(node: Node) -> None:
    node.start("idle", "exec sleep 1000")
    done = node.run("exec", "idle", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    text = b"".join(b"%d\n" % number for number in range(200_000))
    done = node.run("exec", "-i", "idle", "cat", said=text)
    assert (done.returncode, done.stderr, done.stdout == text) == (0, b"", True)
    # What is not asked for is not passed on: the command sees the end at once.
    assert node.run("exec", "idle", "cat", said=b"lost").stdout == b""
    done = node.run("exec", "idle", "/no/such/program")
    assert done.returncode == 1 and b"/no/such/program" in done.stderr and b"Traceback" not in done.stderr
    done = node.run("exec", "-t", "idle", "sh")
    assert (done.returncode, done.stderr) == (
        1, b"kernelet: -t: standard input is no terminal; leave -t away, as in a script\n"
    )  # fmt: skip
    done = node.run("attach", "idle", "--json")
    assert b"is no JSON" in done.stderr


@requires("root", "cgroup2", "busybox")
def test_exec_on_a_terminal(node: Node) -> None:
    node.start("idle", "exec sleep 1000")
    with Terminal(node.command("exec", "-it", "idle", "sh")) as terminal:
        terminal.read_until(b"# ")
        terminal.type(b"stty size; tty\r")
        terminal.read_until(b"24 80")
        terminal.read_until(b"/dev/pts/0")
        terminal.resize(132, 50)
        os.kill(terminal.process.pid, signal.SIGWINCH)  # a real terminal tells its foreground process itself
        terminal.type(b"until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo re'sized'\r")
        terminal.read_until(b"resized")
        # ^C is for the command in the container, not for ours.
        terminal.type(b"sh -c \"echo as''leep; exec sleep 1000\"\r")  # said by whom ^C is for
        terminal.read_until(b"asleep")
        terminal.type(b"\x03")
        terminal.read_until(b"# ")
        terminal.type(b"exit 5\r")
        assert terminal.wait() == 5


@requires("root", "cgroup2", "busybox")
def test_an_exec_whose_client_is_killed_ends(node: Node) -> None:
    container = node.start("idle", "exec sleep 1000")
    client = subprocess.Popen(
        node.command("exec", "-i", "idle", "sh", "-c", "echo begun; exec sleep 999"),
        cwd=TREE, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None and client.stdin is not None
    assert client.stdout.readline() == b"begun\n"
    client.kill()
    client.wait(SECONDS)
    client.stdout.close()
    client.stdin.close()
    deadline = time.monotonic() + SECONDS
    while b"sleep 999" in node.run("exec", container, "ps").stdout:
        assert time.monotonic() < deadline


@requires("root", "cgroup2", "busybox")
def test_attach_shows_what_is_said_and_is_left_again(node: Node) -> None:
    container = node.start("talker", 'while read word; do echo "got $word"; done; exit 3', stdin=True, stdin_once=True)
    done = node.run("attach", "talker", said=b"one\ntwo\n")
    assert done.stdout == b"got one\ngot two\n"
    assert done.returncode == 3, "the end of our input was the end of its"
    node.start("shell", "exec sh", stdin=True, tty=True)
    with Terminal(node.command("attach", "shell")) as terminal:
        terminal.type(b"\r")
        terminal.read_until(b"# ")
        terminal.type(b"echo he'llo'\r")
        terminal.read_until(b"hello")
        terminal.type(b"\x10\x11")
        assert terminal.wait() == 0
    assert node.run("exec", "shell", "true").returncode == 0, "it goes on"
    assert container


def test_how_it_ended() -> None:
    assert session.outcome(b'{"metadata": {}, "status": "Success"}') == 0
    failed = (
        b'{"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "9"}]}}'
    )
    assert session.outcome(failed) == 9
    with pytest.raises(KerneletError, match=r"^it broke$"):
        session.outcome(b'{"status": "Failure", "message": "it broke"}')
    with pytest.raises(KerneletError, match="nobody said how"):
        session.outcome(b"")


def test_nobody_at_the_url_is_said_so() -> None:
    with pytest.raises(KerneletError, match=r"^connect to the daemon's streams at 127.0.0.1:1: "):
        session.hold("http://127.0.0.1:1/exec/x", session.Wish(False, False))
