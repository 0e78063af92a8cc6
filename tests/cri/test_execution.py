"""ExecSync: an exit code is an answer, a time-out has a code of its own, output fits a message.

Exec, Attach, PortForward: a URL is answered, once what it is for is seen to be possible.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.api import api_pb2 as api
from cri.execution import OUTPUT_LIMIT_BYTES, fit
from runtime.errors import ExecTimedOut
from runtime.execution import ExecResult
from tests.cri.conftest import Daemon
from tests.cri.streaming.client import SECONDS, Client
from tests.support import wait


def exec_sync(daemon: Daemon, container_id: str, *command: str, timeout: int = 0) -> api.ExecSyncResponse:
    request = api.ExecSyncRequest(container_id=container_id, cmd=command, timeout=timeout)
    return daemon.client.call(request, api.ExecSyncResponse)


def test_a_command_that_fails_is_an_answer(daemon: Daemon) -> None:
    container_id = daemon.running()
    answer = exec_sync(daemon, container_id, "sh", "-c", "exit 3", timeout=2)
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out", b"err", 3)
    assert daemon.node.calls[-1] == ("exec_sync", container_id, "sh", "-c", "exit 3", 2.0)


def test_a_time_out_has_its_own_code(daemon: Daemon) -> None:
    container_id = daemon.running()

    def late(name: str) -> None:
        raise ExecTimedOut("exec sleep in c: not done after 1 s; killed")

    daemon.node.gate = late
    assert daemon.refused(lambda: exec_sync(daemon, container_id, "sleep", timeout=1)) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "exec sleep in c: not done after 1 s; killed",
    )


def test_a_container_that_does_not_run_takes_no_command(daemon: Daemon) -> None:
    container_id = daemon.container(daemon.pod())
    code, message = daemon.refused(lambda: exec_sync(daemon, container_id, "true"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "not running" in message


@pytest.mark.parametrize(("command", "timeout"), [((), 0), (("true",), -1)])
def test_a_wrong_request_is_refused(daemon: Daemon, command: tuple[str, ...], timeout: int) -> None:
    container_id = daemon.running()
    code, _ = daemon.refused(lambda: exec_sync(daemon, container_id, *command, timeout=timeout))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_output_fits_one_message_of_a_kubelet(daemon: Daemon) -> None:
    container_id = daemon.running()
    daemon.node.result = ExecResult(b"o" * (16 << 20), b"e" * (16 << 20), 0)
    answer = exec_sync(daemon, container_id, "yes")
    assert len(answer.stdout) + len(answer.stderr) == OUTPUT_LIMIT_BYTES
    assert len(answer.stdout) == len(answer.stderr)


@given(st.binary(max_size=30), st.binary(max_size=30), st.integers(0, 40))
def test_output_is_cut_only_as_far_as_it_must(stdout: bytes, stderr: bytes, limit: int) -> None:
    kept_stdout, kept_stderr = fit(stdout, stderr, limit)
    assert stdout.startswith(kept_stdout) and stderr.startswith(kept_stderr)
    assert len(kept_stdout) + len(kept_stderr) == min(limit, len(stdout) + len(stderr))


ACTS = {"exec": (api.ExecRequest, api.ExecResponse), "attach": (api.AttachRequest, api.AttachResponse)}


def url(daemon: Daemon, act: str, container_id: str, **fields: object) -> str:
    request, response = ACTS[act]
    command = {"cmd": ["sh"]} if act == "exec" else {}
    return str(daemon.client.call(request(container_id=container_id, **command, **fields), response).url)


@pytest.mark.parametrize("act", ACTS)
def test_a_session_is_answered_with_a_url_and_begun_by_who_comes(daemon: Daemon, act: str) -> None:
    container_id = daemon.running()
    found = url(daemon, act, container_id[:20], stdin=True, stdout=True, tty=True)
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/{act}/[\w-]{{22}}", found)
    assert daemon.node.calls[-1][0] != act
    with _streams(found, "v4.channel.k8s.io") as client:
        for kind in ("error", "stdin", "stdout", "resize"):
            client.name(kind)
        assert b'"message": "3"' in client.hear_all("stdout", "error")[1]
    name, whose, *_, streams = daemon.node.calls[-1]
    terminal = {"terminal": True} if act == "exec" else {}
    assert (name, whose, streams) == (act, container_id, {"stdin": True, "stdout": True, "stderr": False} | terminal)


@pytest.mark.parametrize("act", ACTS)
def test_a_session_that_cannot_be_is_refused(daemon: Daemon, act: str) -> None:
    created, running = daemon.container(daemon.pod()), daemon.running()
    assert daemon.refused(lambda: url(daemon, act, created, stdout=True))[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert daemon.refused(lambda: url(daemon, act, "none", stdout=True))[0] == grpc.StatusCode.NOT_FOUND
    for streams, message in (({}, "one of them must"), ({"tty": True, "stderr": True, "stdout": True}, "no stderr of its own")):
        code, said = daemon.refused(lambda: url(daemon, act, running, **streams))  # noqa: B023
        assert code == grpc.StatusCode.INVALID_ARGUMENT and message in said
    if act == "exec":
        request = api.ExecRequest(container_id=running, stdout=True)
        code, said = daemon.refused(lambda: daemon.client.call(request, api.ExecResponse))
        assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, "cmd is empty")


def test_a_session_has_a_line_in_the_log_when_it_ends(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    container_id = daemon.running("main")
    with caplog.at_level("INFO", "cri.streaming"):
        for act in ACTS:
            with _streams(url(daemon, act, container_id, stdout=True), "v4.channel.k8s.io") as client:
                client.name("error")
                client.name("stdout")
                client.hear_all("stdout", "error")
        with _streams(url(daemon, "exec", container_id, stdout=True), "v4.channel.k8s.io"):
            pass
        wait.until(lambda: len(caplog.records) == 3)
    said = [re.sub(r" s=\d+\.\d", "", record.getMessage()) for record in caplog.records]
    assert sorted(said) == [
        'session=attach over=spdy end="exit code 3"',
        'session=exec over=spdy end="exit code 3"',
        'session=exec over=spdy end="the client went away"',
    ]


def test_a_port_forward_is_answered_with_a_url(daemon: Daemon) -> None:
    pod = daemon.pod()
    request = api.PortForwardRequest(pod_sandbox_id=pod)
    found = daemon.client.call(request, api.PortForwardResponse).url
    with _streams(found, "portforward.k8s.io") as client:
        headers = {"port": "80", "requestid": "1"}
        error = client.open({"streamtype": "error", **headers}, ends=True)
        client.open({"streamtype": "data", **headers})
        while not client.streams[error].has_ended:
            assert client.listen()
        assert client.streams[error].content == b"port-forward: port 80: connection refused"
    assert daemon.node.calls[-1] == ("port_forward", pod, 80)
    daemon.client.call(api.StopPodSandboxRequest(pod_sandbox_id=pod), api.StopPodSandboxResponse)
    code, _ = daemon.refused(lambda: daemon.client.call(request, api.PortForwardResponse))
    assert code == grpc.StatusCode.FAILED_PRECONDITION


def test_sessions_that_nobody_begins_are_refused_some_time(daemon: Daemon) -> None:
    container_id = daemon.running()
    for _ in range(1000):
        url(daemon, "exec", container_id, stdout=True)
    code, message = daemon.refused(lambda: url(daemon, "exec", container_id, stdout=True))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "1000 sessions" in message


@contextlib.contextmanager
def _streams(found: str, version: str) -> Iterator[Client]:
    """A client of the streams at *found*."""
    where = urlsplit(found)
    with socket.create_connection((where.hostname, where.port), SECONDS) as connection:
        lines = (f"POST {where.path} HTTP/1.1", "Host: here", "Connection: Upgrade", "Upgrade: SPDY/3.1")
        connection.sendall("\r\n".join((*lines, f"X-Stream-Protocol-Version: {version}", "", "")).encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
        yield Client(connection)
