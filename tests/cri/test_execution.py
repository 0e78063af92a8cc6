"""ExecSync: an exit code is an answer, a time-out has a code of its own, output fits a message."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.api import api_pb2 as api
from cri.execution import OUTPUT_LIMIT_BYTES, fit
from runtime.errors import ExecTimedOut
from runtime.execution import ExecResult
from tests.cri.conftest import Daemon


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
