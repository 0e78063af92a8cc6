from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest

from runtime.errors import Cancelled, RegistryUnavailable
from runtime.image.cancellation import Cancellation
from runtime.image.wire import Wire, is_loopback, proxy_for
from tests.support.registry import faulty_registry, reply


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("127.0.0.1.example", False),
        ("::2", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_proxies_are_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxy_for("https://registry.example/v2/") == "http://proxy.example:3128"
    assert proxy_for("https://inside.example/v2/") is None
    assert proxy_for("https://127.0.0.1:5000/v2/") is None
    assert proxy_for("http://registry.example/v2/") is None


def test_a_request_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def proxy(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.path)
        reply(request, 200, b"by proxy")

    monkeypatch.delenv("no_proxy", raising=False)
    with faulty_registry(proxy) as address, Cancellation() as cancellation:
        monkeypatch.setenv("http_proxy", f"http://{address}")
        wire = Wire(cancellation)
        response = wire.request("GET", "http://registry.example/v2/", {})
        assert wire.read(response, 100, "") == b"by proxy"
        wire.close()
    assert seen == ["http://registry.example/v2/"]


def test_a_name_server_that_does_not_answer_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, cancelled, over = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        asked.set()
        over.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    def give_up() -> None:
        asked.wait(10)
        cancelled.set()

    threading.Thread(target=give_up).start()
    began = time.monotonic()
    with Cancellation(cancelled) as cancellation, pytest.raises(Cancelled):
        Wire(cancellation).request("GET", "http://registry.example/", {})
    assert time.monotonic() - began < 5
    over.set()


def test_a_server_that_accepts_nothing_can_be_given_up() -> None:
    cancelled = threading.Event()
    with socket.socket() as full:  # its queue of one is taken, so that connecting to it takes for ever
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        timer = threading.Timer(0.2, cancelled.set)
        timer.start()
        with Cancellation(cancelled) as cancellation, pytest.raises(Cancelled):
            Wire(cancellation).request("GET", f"http://127.0.0.1:{address[1]}/", {})
        timer.join()
        for filler in fillers:
            filler.close()


def test_the_caller_is_told_whom_it_tried() -> None:
    with (
        Cancellation() as cancellation,
        pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable: \[::1\]:1: connection refused"),
    ):
        Wire(cancellation).request("GET", "http://[::1]:1/", {})


def test_cancelling_ends_a_wait() -> None:
    cancelled = threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    began = time.monotonic()
    with Cancellation(cancelled) as cancellation, pytest.raises(Cancelled):
        cancellation.wait(30)
    assert time.monotonic() - began < 5


def test_a_connection_closed_before_the_answer_is_tried_once_more() -> None:
    asked: list[str] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.command)
        if len(asked) == 1 or request.command == "POST":
            request.close_connection = True
        else:
            reply(request, 200, b"x")

    with faulty_registry(handle) as address, Cancellation() as cancellation:
        wire = Wire(cancellation)
        assert wire.read(wire.request("GET", f"http://{address}/", {}), 10, "") == b"x"
        with pytest.raises(RegistryUnavailable, match="the connection broke"):
            wire.request("POST", f"http://{address}/", {}, b"")
        wire.close()
    assert asked == ["GET", "GET", "POST"]
