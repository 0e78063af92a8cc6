"""Exec, attach and port-forward with crictl, which streams as a kubelet's clients do, over SPDY and over WebSockets."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cri.api import api_pb2 as api
from tests.cri.serving import config_of
from tests.cri.streaming.client import Client
from tests.e2e.kubelet import Kubelet
from tests.support import requires as needs
from tests.support import wait
from tests.support.daemon import Daemon
from tests.support.requires import enforce, requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry")

SECONDS = 30
PEM = Path(__file__).parents[1] / "support/registry.pem"
#: What answers each line.
TALKS = "while read line; do echo got $line; done"


class Crictl:
    """Runs crictl on the daemon, with streams of one *transport*."""

    def __init__(self, daemon: Daemon, directory: Path, transport: str) -> None:
        self._config = directory / "crictl.yaml"
        self._config.write_text(f"runtime-endpoint: unix://{daemon.paths.socket}\ntimeout: 30\n")
        self._transport = transport

    def command(self, act: str, *arguments: str) -> list[str]:
        return [needs.program("crictl"), "--config", str(self._config), act, "--transport", self._transport, *arguments]

    def run(self, act: str, *arguments: str, said: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """What came of it; it hears what is *said* and then an end."""
        return subprocess.run(self.command(act, *arguments), input=said, capture_output=True, timeout=SECONDS, check=False)


@pytest.fixture(params=["spdy", "websocket"])
def crictl(daemon: Daemon, tmp_path: Path, request: pytest.FixtureRequest) -> Crictl:
    enforce(("crictl",))
    return Crictl(daemon, tmp_path, request.param)


@pytest.fixture
def container(kubelet: Kubelet) -> str:
    return kubelet.run(kubelet.run_pod(), "exec sleep 1000")


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a program that is ended after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], **how: int) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen(command, **how))  # type: ignore[call-overload]
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        for file in (process.stdin, process.stdout):
            if file is not None:
                file.close()


def test_a_command_with_its_input_its_outputs_and_its_code(crictl: Crictl, container: str) -> None:
    said = os.urandom(3_000_000)
    done = crictl.run("exec", "-i", container, "sh", "-c", "cat; echo bad >&2; exit 7", said=said)
    assert done.stdout == said
    assert done.stderr.startswith(b"bad\n") and b"exit code 7" in done.stderr
    assert done.returncode != 0
    assert crictl.run("exec", container, "true").returncode == 0


def test_what_cannot_be_run_is_told(crictl: Crictl, container: str) -> None:
    done = crictl.run("exec", container, "nonesuch")
    assert done.returncode != 0 and b"nonesuch" in done.stderr


def test_a_command_with_a_terminal(
    crictl: Crictl, container: str, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    ours, theirs = os.openpty()
    command = crictl.command("exec", "-i", "-t", container, "sh")
    process = started(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        os.write(ours, b"echo $TERM $((6 * 7)); tty; exit 3\n")
        heard = b""
        while (piece := _read(ours)) != b"":
            heard += piece
        assert b"xterm 42" in heard and b"/dev/pts/0" in heard
        assert process.wait(SECONDS) != 0 and b"exit code 3" in heard
    finally:
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: nobody has it any more
        return b""


def test_attached_until_its_input_ends(crictl: Crictl, kubelet: Kubelet) -> None:
    container = kubelet.create(kubelet.run_pod(), kubelet.container_config(["sh"], stdin=True, stdin_once=True))
    kubelet.start(container)
    done = crictl.run("attach", "-i", container, said=b"echo -n hello; echo there >&2\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"there\n")
    assert kubelet.finish(container) == 0
    assert kubelet.lines(container, "stdout") == ["hello"]


def test_who_is_killed_takes_the_command_along(
    crictl: Crictl, container: str, kubelet: Kubelet, daemon: Daemon, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = started(crictl.command("exec", container, "sh", "-c", "echo on; sleep 4321"), stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"on\n"
    process.kill()
    wait.until(lambda: b"4321" not in kubelet.execute(container, "ps").stdout, SECONDS, "the command's end")
    name = kubelet.status(container).metadata.name
    line = rf'session=exec over=\w+ s=[\d.]+ end="the client went away" namespace=default pod=pod-\d+ container={name}\n'
    wait.until(lambda: re.search(line, daemon.log.read_text()), SECONDS, line)


def test_with_tls_a_client_can_know_whom_it_talks_to(crictl: Crictl, container: str, kubelet: Kubelet, daemon: Daemon) -> None:
    with config_of(daemon.paths).open("a") as file:
        file.write(f'[streaming]\ntls_cert_file = "{PEM}"\n')
    daemon.stop()
    daemon.start()
    kubelet.reconnect(daemon)
    # crictl insists on a certificate of its own, which nobody asks for.
    own = ("--tls-cert", str(PEM), "--tls-key", str(PEM))
    trusting = ("--tls-ca", str(PEM), *own, "--tls-server-name", "127.0.0.1")
    said = os.urandom(300_000)
    done = crictl.run("exec", *trusting, "-i", container, "cat", said=said)
    assert done.stdout == said, done.stderr
    wrong = crictl.run("exec", *trusting[:-1], "elsewhere", container, "true")
    assert wrong.returncode != 0 and b"certificate" in wrong.stderr


def test_a_port_of_a_pod(crictl: Crictl, kubelet: Kubelet, started: Callable[..., subprocess.Popen[bytes]]) -> None:
    pod = kubelet.run_pod()
    server = "mkdir /www; head -c 5000000 /dev/urandom > /www/big; exec httpd -f -p 127.0.0.1:8080 -h /www"
    container = kubelet.run(pod, server)
    listening = ["grep", "0100007F:1F90", "/proc/net/tcp"]
    wait.until(lambda: kubelet.execute(container, *listening).exit_code == 0, SECONDS, "the server")
    big = kubelet.execute(container, "cat", "/www/big").stdout
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = started(crictl.command("port-forward", pod, f"{port}:8080"), stdout=subprocess.PIPE)
    assert process.stdout is not None and b"Forwarding from" in process.stdout.readline()
    for _ in range(3):
        assert _get(port, "/big").endswith(big)
    assert _get(port, "/none").startswith(b"HTTP/1.1 404")


def _get(port: int, path: str) -> bytes:
    heard = b""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        while piece := connection.recv(65536):
            heard += piece
    return heard


# What no client of people's does: many at once, and daemons and monitors that die under them.


@contextlib.contextmanager
def _upgraded(kubelet: Kubelet, container: str, *command: str, stdin: bool = False) -> Iterator[Client]:
    """A client of an exec, or without a *command* of an attach, that has opened no stream yet."""
    wanted = {"container_id": container, "stdin": stdin, "stdout": True, "stderr": True}
    request = api.ExecRequest(cmd=command, **wanted) if command else api.AttachRequest(**wanted)
    where = urlsplit(kubelet.call(request).url)
    with socket.create_connection((where.hostname, where.port), SECONDS) as connection:
        lines = (f"POST {where.path} HTTP/1.1", "Host: here", "Connection: Upgrade", "Upgrade: SPDY/3.1")
        connection.sendall("\r\n".join((*lines, "X-Stream-Protocol-Version: v4.channel.k8s.io", "", "")).encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
        yield Client(connection)


@contextlib.contextmanager
def streams(kubelet: Kubelet, container: str, *command: str, stdin: bool = False) -> Iterator[Client]:
    """The same with its streams open."""
    with _upgraded(kubelet, container, *command, stdin=stdin) as client:
        for kind in ("error", *(["stdin"] if stdin else []), "stdout", "stderr"):
            client.name(kind)
        yield client


def test_sixty_four_at_once(kubelet: Kubelet, container: str) -> None:
    with contextlib.ExitStack() as opened:
        script = "read line; echo $line; echo $line >&2; exit $line"
        clients = [opened.enter_context(streams(kubelet, container, "sh", "-c", script, stdin=True)) for _ in range(64)]
        for number, client in enumerate(clients):
            client.say("stdin", b"%d\n" % number)
        for number, client in enumerate(clients):
            out, err, error = client.hear_all("stdout", "stderr", "error")
            assert out == err == b"%d\n" % number
            assert number == 0 or f'"message": "{number}"'.encode() in error
    wait.until(lambda: kubelet.execute(container, "ps").stdout.count(b"\n") == 3, SECONDS, "all to have ended")


def test_a_daemon_that_is_killed_takes_commands_along_and_lets_the_attached_alone(
    kubelet: Kubelet, daemon: Daemon, container: str
) -> None:
    talker = kubelet.run(kubelet.run_pod(), TALKS, stdin=True)
    with (
        streams(kubelet, container, "sh", "-c", "echo on; sleep 4321") as command,
        streams(kubelet, talker, stdin=True) as attached,
    ):
        command.hear("stdout", b"on\n")
        attached.say("stdin", b"1\n")
        attached.hear("stdout", b"got 1\n")
        daemon.kill()
        for client in (command, attached):
            while client.listen():
                continue
        daemon.start()
        kubelet.reconnect(daemon)
        assert b"4321" not in kubelet.execute(container, "ps").stdout
    assert kubelet.status(talker).state == api.CONTAINER_RUNNING
    with streams(kubelet, talker, stdin=True) as again:
        again.say("stdin", b"2\n")
        again.hear("stdout", b"got 2\n")
    wait.until(lambda: kubelet.lines(talker, "stdout") == ["got 1", "got 2"], SECONDS)


def test_a_monitor_that_is_killed_ends_what_is_attached_and_no_command(kubelet: Kubelet, daemon: Daemon, container: str) -> None:
    talker = kubelet.run(kubelet.run_pod(), TALKS, stdin=True)
    with (
        streams(kubelet, container, "sh", "-c", "echo on; read l; echo got $l; exit 5", stdin=True) as command,
        streams(kubelet, talker, stdin=True) as attached,
    ):
        command.hear("stdout", b"on\n")
        attached.say("stdin", b"1\n")
        attached.hear("stdout", b"got 1\n")
        os.kill(daemon.monitor_pid(), signal.SIGKILL)
        assert b"the monitor of the process was killed; try again" in attached.hear_all("error")[0]
        command.say("stdin", b"it\n")
        out, error = command.hear_all("stdout", "error")
        assert out == b"on\ngot it\n" and b'"message": "5"' in error


def test_clients_that_vanish_at_any_point_leave_nothing(kubelet: Kubelet, daemon: Daemon, container: str) -> None:
    """After the request, between the streams, in the middle of input or output, with an end or with a reset."""
    talker = kubelet.run(kubelet.run_pod(), f"yes & {TALKS}", stdin=True)
    chance = random.Random(5)
    with streams(kubelet, container, "true") as first:  # threads and modules that come with the first one stay
        first.hear_all("error")
    files = {pid: _open_files(pid) for pid in (daemon.pid, daemon.monitor_pid())}
    for turn in range(60):
        whose, command = chance.choice([(talker, ()), (container, ("sh", "-c", "yes & cat")), (container, ("cat",))])
        with _upgraded(kubelet, whose, *command, stdin=True) as client:
            for kind in ("error", "stdin", "stdout", "stderr")[: chance.choice((0, 2, 3, 4, 4, 4))]:
                client.name(kind)
            if len(client.names) == 4 and chance.random() < 0.7:
                client.say("stdin", b"x\n" * chance.randrange(50_000))
                if command != ("cat",) and chance.random() < 0.7:
                    client.hear("stdout", b"y\ny\n")
            if turn % 2:
                client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
    # A runner that is ready for the next launch comes and goes, with six; a session has two at least.
    wait.until(lambda: all(_open_files(pid) <= count + 8 for pid, count in files.items()), SECONDS, "the sessions to be over")
    alive = kubelet.execute(container, "ps").stdout.decode().splitlines()[1:]
    assert len([line for line in alive if "[" not in line]) == 2, alive  # the orphans are dead; who never reaps is "sleep"
    assert kubelet.status(talker).state == api.CONTAINER_RUNNING


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_what_a_client_reads_slowly_is_not_kept(kubelet: Kubelet, daemon: Daemon, container: str) -> None:
    size = 80_000_000
    with streams(kubelet, container, "head", "-c", str(size), "/dev/zero") as client:
        before = _resident_bytes(daemon.pid)
        wait.until(lambda: b"head" in kubelet.execute(container, "ps").stdout, SECONDS)
        heard = 0
        while heard < size:
            assert client.listen()
            heard += len(client.heard("stdout").content)
            client.heard("stdout").content = b""
            assert _resident_bytes(daemon.pid) < before + 30_000_000
    with streams(kubelet, container, "wc", "-c", stdin=True) as client:
        for _ in range(40):
            client.say("stdin", bytes(1 << 20))
        client.say("stdin", b"", ends=True)
        assert client.hear_all("stdout")[0] == b"%d\n" % (40 << 20)
        assert _resident_bytes(daemon.pid) < before + 30_000_000


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
