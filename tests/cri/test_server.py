"""The server: every RPC of the API answers, errors are statuses, the socket is closed to strangers."""

from __future__ import annotations

import asyncio
import logging
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from cri.api import api_pb2 as api
from cri.client import Client
from cri.dispatch import Handler
from cri.server import IMAGE, RUNTIME, Server, check_path, generic_handlers
from runtime.errors import InvalidArgument, StartFailed, WrongState
from tests.cri.conftest import Daemon
from tests.support.wait import until

ABSENT = {"CheckpointContainer", "CheckpointPod", "RestorePod"}


def test_every_rpc_answers_and_says_when_it_is_not_there_yet(daemon: Daemon) -> None:
    absent = set()
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        for service in (RUNTIME, IMAGE):
            for method in service.methods:
                request = GetMessageClass(method.input_type)()
                make = channel.unary_stream if method.server_streaming else channel.unary_unary
                call = make(
                    f"/{service.full_name}/{method.name}",
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=GetMessageClass(method.output_type).FromString,
                )
                try:
                    answer = call(request, timeout=5)
                    if method.name == "GetContainerEvents":  # it has no end
                        answer.initial_metadata()
                        answer.cancel()
                    elif method.server_streaming:
                        list(answer)
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                        assert "is not implemented by this version of kernelet" in error.details()
                        absent.add(method.name)
                    else:
                        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, (method.name, error.details())
    assert absent == ABSENT


def test_the_socket_is_for_its_owner_and_group(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


def test_a_bug_is_internal_and_has_its_traceback_in_the_log(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    def break_down(name: str) -> None:
        raise KeyError("oops")

    daemon.node.gate = break_down
    assert daemon.refused(daemon.pod) == (grpc.StatusCode.INTERNAL, "'oops'")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info is not None
    assert "rpc=RunPodSandbox" in record.getMessage() and "namespace=default pod=web" in record.getMessage()
    # the traceback's frames hold the server, whose threads end with it
    record.exc_info = None
    caplog.clear()


def test_an_expected_failure_is_one_line(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.refused(lambda: daemon.pod(log_directory="x"))
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info in (None, False)
    assert "code=INVALID_ARGUMENT" in record.getMessage() and "ms=" in record.getMessage()


@pytest.mark.parametrize("character", ["a", "%", "\n", "\u00fc"])
def test_a_long_message_is_cut_to_fit_a_status(daemon: Daemon, character: str) -> None:
    def break_down(name: str) -> None:
        raise StartFailed(character * 9000)

    daemon.node.gate = break_down
    code, message = daemon.refused(daemon.pod)
    assert code == grpc.StatusCode.UNKNOWN
    assert 1000 <= len(message) < 9000 and set(message) == {character}


def test_a_large_request_is_taken(daemon: Daemon) -> None:
    annotations = {"a": "x" * (5 << 20)}
    assert daemon.pod(annotations=annotations)


def test_a_table_must_be_the_services(daemon: Daemon) -> None:
    async def nothing(request: object) -> None: ...

    table: dict[str, Handler] = {method.name: nothing for method in IMAGE.methods}
    assert len(generic_handlers({IMAGE: table})) == 1
    with pytest.raises(ValueError, match="Extra"):
        generic_handlers({IMAGE: table | {"Extra": nothing}})
    del table["PullImage"]
    with pytest.raises(ValueError, match="PullImage"):
        generic_handlers({IMAGE: table})


def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path_factory: pytest.TempPathFactory, daemon: Daemon) -> None:
    path = daemon.socket.with_name("stale")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def main() -> None:
        server = Server(path, {})
        await server.start()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
        await server.stop(0)

    asyncio.run(main())
    assert not path.exists()


def test_a_path_that_no_server_can_have(daemon: Daemon) -> None:
    for path, message in (
        (Path("/tmp") / ("x" * 120), "more than 107 bytes"),
        (Path("/nonexistent/socket"), "its directory is not there"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            check_path(path)
    with pytest.raises(WrongState, match="somebody answers on it already"):
        check_path(daemon.socket)
    check_path(daemon.socket.with_name("free"))


def test_calls_under_way_are_finished_when_the_server_stops(daemon: Daemon) -> None:
    opened = threading.Event()
    daemon.node.gate = lambda name: opened.wait(10) and None
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(daemon.pod)
        until(lambda: daemon.node.calls)
        daemon.stop()
        until(lambda: not daemon.socket.exists())
        opened.set()
        assert under_way.result(10)
    with Client(daemon.socket) as late:
        with pytest.raises(grpc.RpcError) as caught:
            late.call(api.VersionRequest(), api.VersionResponse, timeout_seconds=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
