"""The port: tokens, garbage, TLS, and addresses that cannot be had."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from cri.config import StreamingConfig
from cri.streaming import server
from cri.streaming.server import Offer, StreamingServer
from runtime.errors import InvalidArgument, TooMany
from tests.cri.streaming.client import SECONDS, Client
from tests.cri.streaming.conftest import ALL, Serving, running
from tests.support import wait

PEM = Path(__file__).parents[2] / "support/registry.pem"
VERSION = "X-Stream-Protocol-Version: v4.channel.k8s.io"


def test_a_token_is_good_for_one_use(serving: Serving) -> None:
    url = serving.url()
    serving.upgraded(url)
    assert serving.ask(url, VERSION)[0] == 404
    assert serving.ask(url[:-4] + "none", VERSION)[0] == 404
    other = serving.url().replace("/exec/", "/attach/")
    assert serving.ask(other, VERSION)[0] == 404  # and that was its use
    assert serving.ask(other.replace("/attach/", "/exec/"), VERSION)[0] == 404


def test_a_token_lives_for_a_minute(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    url = serving.url()
    now = serving.server._tokens._now()
    monkeypatch.setattr(serving.server._tokens, "_now", lambda: now + 60)
    assert serving.ask(url, VERSION)[0] == 404


def test_a_thousand_can_be_asked_for_and_not_begun(serving: Serving) -> None:
    for _ in range(1000):
        serving.offer(Offer("portforward"))
    with pytest.raises(TooMany, match="1000 sessions"):
        serving.offer(Offer("portforward"))


GARBAGE = (b"", b"\0", b"\r\n\r\n", b"\xff" * 70_000, b"\x16\x03\x01" * 99)
WRONG = (b"GET / HTTP/1.1\r\n\r\n", b"GET /exec/x HTTP/9.9\r\n\r\n")


@pytest.mark.parametrize("garbage", [*GARBAGE, *WRONG])
def test_garbage_is_answered_or_dropped_and_others_are_served(serving: Serving, garbage: bytes) -> None:
    connection = serving.connect(serving.offer(Offer("portforward")))
    connection.sendall(garbage)
    connection.shutdown(socket.SHUT_WR)
    answer = b""
    try:
        while piece := connection.recv(4096):
            answer += piece
    except ConnectionError:  # there was more of it than was read
        pass
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    serving.until_idle()
    process = serving.play()
    client = serving.client(process=process)
    process.end(0)
    client.hear_all("error")


def test_who_asks_for_nothing_is_let_go(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.1)
    connection = serving.connect(serving.offer(Offer("portforward")))
    connection.sendall(b"POST /exec/")
    assert connection.recv(100) == b""


def test_connections_that_ask_for_nothing_are_few(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_ASKING", 3)
    url = serving.url()
    idle = [serving.connect(url) for _ in range(3)]
    wait.until(lambda: serving.server._asking == 3, SECONDS)
    one_too_many = serving.connect(url)
    assert one_too_many.recv(4096).startswith(b"HTTP/1.1 503 ")
    idle[0].close()
    wait.until(lambda: serving.server._asking == 2, SECONDS)
    assert serving.ask(url, VERSION)[0] == 101


def test_with_tls() -> None:
    streaming = StreamingServer.of(StreamingConfig(tls_cert_file=str(PEM)))
    with running(streaming) as serving:
        process = serving.play()
        url = serving.url(process=process)
        assert url.startswith("https://127.0.0.1:")
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        plain = serving.connect(url)
        with trusting.wrap_socket(plain) as connection:
            serving.connections.append(connection)
            path = url.split("/", 3)[3]
            connection.sendall(
                f"POST /{path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{VERSION}\r\n\r\n".encode()
            )
            assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
            client = Client(connection)
            for kind in ALL.names("v4.channel.k8s.io"):
                client.name(kind)
            client.say("stdin", b"in")
            assert process.hear() == b"in"
            process.say(b"out" * 100_000)
            process.end(0)
            assert client.hear_all("stdout", "error")[0] == b"out" * 100_000
        assert process.was_closed.wait(SECONDS)


def test_what_cannot_be_served_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"tls_cert_file, tls_key_file: /none.pem, /none.pem: "):
        StreamingServer.of(StreamingConfig(tls_cert_file="/none.pem", tls_key_file="/none.pem"))
    with pytest.raises(InvalidArgument, match="tls_key_file: is of no use"):
        StreamingServer.of(StreamingConfig(tls_key_file=str(PEM)))
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(InvalidArgument, match="tls_cert_file"):
        StreamingServer.of(StreamingConfig(tls_cert_file=f"{tmp_path}/x.pem", tls_key_file=f"{tmp_path}/x.pem"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        async def start() -> None:
            await StreamingServer("127.0.0.1", port).start()

        with pytest.raises(InvalidArgument, match=rf"streaming: listen on 127.0.0.1, port {port}: .*address already in use"):
            asyncio.run(start())


def test_an_address_of_ipv6_is_in_brackets() -> None:
    assert StreamingServer("::1", 99).offer(Offer("attach")).startswith("http://[::1]:99/attach/")
