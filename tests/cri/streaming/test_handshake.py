"""The handshake: which requests lead to which protocol, and what all others are told."""

from __future__ import annotations

import contextlib
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, Request
from wsproto.handshake import H11Handshake

from cri.streaming.handshake import MAX_REQUEST, TUNNEL, Accepted, Handshake, Refused

SPDY = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v5.channel.k8s.io\r\n"
V4 = "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n"


def request(path: str, headers: str, method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n{headers}\r\n".encode()


def accept(content: bytes, cuts: int = 1) -> Accepted:
    handshake = Handshake()
    for at in range(0, len(content), cuts):
        understood = handshake.receive(content[at : at + cuts])
        if understood is not None:
            assert understood.token == "tok"
            rest = content[at + cuts :]
            accepted = handshake.accept(understood)
            return Accepted(accepted.answer, accepted.protocol, accepted.early + rest)
    raise AssertionError("it wants more")


@given(st.integers(1, 400))
def test_the_clients_first_protocol_that_we_know_is_taken(cuts: int) -> None:
    accepted = accept(request("/exec/tok", SPDY + V4 + "X-Stream-Protocol-Version: v3.channel.k8s.io\r\n") + b"early", cuts)
    assert accepted.answer == (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    )
    assert accepted.protocol == "v4.channel.k8s.io"
    assert accepted.early == b"early"


def test_protocols_may_be_in_one_line_and_the_method_may_be_get() -> None:
    line = "Connection: keep-alive, upgrade\r\nUpgrade: spdy/3.1\r\nX-Stream-Protocol-Version: a, v2.channel.k8s.io\r\n"
    assert accept(request("/attach/tok?x=y", line, "GET")).protocol == "v2.channel.k8s.io"
    forward = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n"
    assert accept(request("/portforward/tok", forward)).protocol == "portforward.k8s.io"


@pytest.mark.parametrize(
    ("act", "offered", "chosen"),
    [
        ("exec", ["v5.channel.k8s.io"], "v5.channel.k8s.io"),
        ("attach", ["x", "v4.channel.k8s.io", "v5.channel.k8s.io"], "v4.channel.k8s.io"),
        ("portforward", [TUNNEL], TUNNEL),
    ],
)
def test_a_websocket(act: str, offered: list[str], chosen: str) -> None:
    client = H11Handshake(ConnectionType.CLIENT)
    accepted = accept(client.send(Request(host="here", target=f"/{act}/tok", subprotocols=offered)))
    assert accepted.protocol == chosen
    client.receive_data(accepted.answer)
    [answer] = client.events()
    assert isinstance(answer, AcceptConnection) and answer.subprotocol == chosen


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (request("/exec/tok", ""), 400, "Connection: Upgrade"),
        (request("/exec/tok", "Connection: Upgrade\r\nUpgrade: h2c\r\n"), 400, "upgrade to h2c"),
        (request("/exec/tok", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"), 400, "x-stream-protocol-version is missing"),
        (request("/exec/tok", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "GET"), 400, "websocket"),
        (request("/exec/tok", SPDY), 403, "none of v5.channel.k8s.io is spoken here"),
        (request("/exec/tok", SPDY + V4, "PUT"), 405, "only GET and POST"),
        (request("/", SPDY + V4), 404, "no such stream"),
        (request("/exec", SPDY + V4), 404, "no such stream"),
        (request("/exec/", SPDY + V4), 404, "no such stream"),
        (request("/exec/a/b", SPDY + V4), 404, "no such stream"),
        (request("/run/tok", SPDY + V4), 404, "no such stream"),
        (b"POST /exec/tok HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n" + (SPDY + V4).encode() + b"\r\nabc", 400, "no body"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "illegal request line"),
        (b"A" * (MAX_REQUEST + 1), 400, "receive buffer too long"),
        (b"", 400, "no request"),
    ],
)
def test_what_is_refused(sent: bytes, status: int, reason: str) -> None:
    handshake = Handshake()
    with pytest.raises(Refused, match=reason) as caught:
        understood = handshake.receive(sent)
        assert understood is not None, "it wants more"
        handshake.accept(understood)
    assert caught.value.status == HTTPStatus(status)
    answer = handshake.refuse(caught.value)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and answer.endswith(b"\n")
    if status == 403:
        assert answer.count(b"\r\nX-Accepted-Stream-Protocol-Versions: ") == 4


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_wants_more(garbage: bytes) -> None:
    handshake = Handshake()
    with contextlib.suppress(Refused):
        understood = handshake.receive(garbage)
        if understood is not None:
            handshake.accept(understood)
