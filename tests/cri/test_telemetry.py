"""The daemon's own account, as a client of Prometheus reads it, and the endpoint that must not be in the way."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from cri import exposition
from cri.api import api_pb2 as api
from cri.client import Client
from cri.config import Config, MetricsConfig, parse
from cri.daemon import serving
from cri.exposition import Exposition
from cri.telemetry import CONTENT_TYPE, Telemetry
from runtime import own_use
from runtime.errors import InvalidArgument
from runtime.paths import Paths
from tests.cri.fake import FakeNode, FakePull
from tests.cri.serving import serving as real_daemon
from tests.support import wishes
from tests.support.isolation import Run
from tests.support.requires import requires

LINE = re.compile(r'(?P<name>[a-z_]+)(?:\{(?P<labels>(?:[a-z]+="[^"]*",?)*)\})? (?P<value>\S+)')


def read(text: str) -> dict[str, float]:
    """Samples by name and labels; every one must be of a family that was described before it."""
    found, described = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            described.add(line.split()[2])
        elif not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match is not None, line
            assert {match["name"], re.sub("_(bucket|sum|count)$", "", match["name"])} & described, line
            key = match["name"] + (f"{{{match['labels']}}}" if match["labels"] else "")
            assert key not in found, line
            found[key] = float(match["value"])
    return found


def test_calls_are_counted_with_their_codes_and_times() -> None:
    telemetry = Telemetry(FakeNode())
    for code, seconds in (("OK", 0.001), ("OK", 0.02), ("NOT_FOUND", 1000.0)):
        telemetry.observe("ContainerStatus", code, seconds)
    found = read(telemetry.render())
    assert found['kernelet_rpc_calls_total{rpc="ContainerStatus",code="OK"}'] == 2
    assert found['kernelet_rpc_calls_total{rpc="ContainerStatus",code="NOT_FOUND"}'] == 1
    buckets = {key: value for key, value in found.items() if key.startswith("kernelet_rpc_duration_seconds_bucket")}
    assert list(buckets.values()) == [1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3]
    assert next(iter(buckets)) == 'kernelet_rpc_duration_seconds_bucket{rpc="ContainerStatus",le="0.001"}'
    assert list(buckets)[-1] == 'kernelet_rpc_duration_seconds_bucket{rpc="ContainerStatus",le="+Inf"}'
    assert found['kernelet_rpc_duration_seconds_count{rpc="ContainerStatus"}'] == 3
    assert found['kernelet_rpc_duration_seconds_sum{rpc="ContainerStatus"}'] == pytest.approx(1000.021)


def test_what_there_is_is_told_by_state_and_without_a_name() -> None:
    node = FakeNode()
    pod = node.run_sandbox(wishes.sandbox(name="secret-name"))
    node.stop_sandbox(node.run_sandbox(wishes.sandbox()))
    for name in ("one", "two"):
        node.start_container(node.create_container(pod, wishes.container(["x"], name=name)))
    text = Telemetry(node).render()
    found = read(text)
    assert found['kernelet_sandboxes{state="ready"}'] == found['kernelet_sandboxes{state="not_ready"}'] == 1
    assert (found['kernelet_containers{state="running"}'], found['kernelet_containers{state="exited"}']) == (2, 0)
    assert (found["kernelet_monitor_up"], found["kernelet_monitor_losses_total"]) == (1, 2)
    assert (found["kernelet_images"], found["process_start_time_seconds"]) == (1, 1_700_000_000.25)
    assert "secret-name" not in text
    node.has_monitor = False
    assert read(Telemetry(node).render())["kernelet_monitor_up"] == 0


def test_what_the_daemon_uses_is_what_the_kernel_says() -> None:
    use = own_use.own_use()
    assert abs(use.descriptors - len(os.listdir("/proc/self/fd"))) <= 1
    assert use.resident_bytes > 1 << 20
    assert use.started_at > 0


def finish(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


async def answer(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """What is answered to *request*, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    said = await reader.read()
    writer.close()
    head, _, body = said.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def test_it_answers_one_path_to_those_who_read() -> None:
    async def main() -> None:
        served = Exposition("127.0.0.1", 0, lambda: "a 1\n", CONTENT_TYPE)
        await served.start()
        status, headers, body = await answer(served.port, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, headers["content-type"], headers["content-length"], body) == (200, CONTENT_TYPE, "4", b"a 1\n")
        status, headers, body = await answer(served.port, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, headers["content-length"], body) == (200, "4", b"")
        for request, expected in (
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
            (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
            (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\nA: " + b"x" * (64 << 10), 431),
        ):
            status, _, _ = await answer(served.port, request)
            assert status == expected, request
        await served.stop()

    finish(main())


def test_who_says_nothing_is_let_go_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "SECONDS", 0.3)
    monkeypatch.setattr(exposition, "CLIENTS", 3)
    asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

    async def main() -> None:
        served = Exposition("127.0.0.1", 0, lambda: "", CONTENT_TYPE)
        await served.start()
        silent = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
        assert (await answer(served.port, asked))[0] == 503
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
        assert (await answer(served.port, asked))[0] == 200
        await served.stop()

    finish(main())


def test_an_address_that_is_taken_is_an_error_with_its_key() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            served = Exposition("127.0.0.1", taken.getsockname()[1], lambda: "", CONTENT_TYPE)
            with pytest.raises(InvalidArgument, match=r"metrics\.address: listen on 127\.0\.0\.1, port .*in use"):
                await served.start()
            await served.stop()

    finish(main())


@pytest.mark.parametrize(
    ("address", "parts"), [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:80", ("0.0.0.0", 80))]
)
def test_an_address_has_a_port(address: str, parts: tuple[str, int]) -> None:
    assert parse(f'[metrics]\naddress = "{address}"').metrics.host_and_port == parts


@pytest.mark.parametrize(
    "address", ["localhost:9464", "127.0.0.1", ":9464", "::1:9464", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match=r"metrics\.address"):
        parse(f'[metrics]\naddress = "{address}"')


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def ask(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A socket's path has 107 bytes at most; tmp_path may be longer."""
    with tempfile.TemporaryDirectory(prefix="kl-") as directory:
        yield Path(directory)


def test_off_unless_configured_and_then_every_call_is_in_it(short_directory: Path) -> None:
    node, port = FakeNode(), free_port()

    def call() -> None:
        with Client(short_directory / "s") as client:
            client.call(api.VersionRequest(), api.VersionResponse)

    async def main(address: str) -> None:
        config = Config(
            root_dir=short_directory, run_dir=short_directory, socket=short_directory / "s", metrics=MetricsConfig(address)
        )
        async with serving(config, node, FakePull(node.images)):
            if not address:
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.to_thread(ask, port)
                return
            await asyncio.to_thread(call)
            found = read((await asyncio.to_thread(ask, port)).decode())
            assert found['kernelet_rpc_calls_total{rpc="Version",code="OK"}'] == 1

    finish(main(""))
    finish(main(f"127.0.0.1:{port}"))


@requires("root", "cgroup2")
def test_a_real_daemon_has_a_monitor_and_uses_memory(paths: Paths, run: Run) -> None:
    port = free_port()
    dropins = paths.run_dir.parent / "kernelet.toml.d"
    dropins.mkdir()
    (dropins / "metrics.toml").write_text(f'[metrics]\naddress = "127.0.0.1:{port}"\n')
    with real_daemon(paths, run):
        found = read(ask(port).decode())
    assert (found["kernelet_monitor_up"], found["kernelet_monitor_losses_total"]) == (1, 0)
    assert found["process_resident_memory_bytes"] > 10 << 20
    assert found['kernelet_containers{state="running"}'] == 0
