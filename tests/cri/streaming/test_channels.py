"""Exec and attach over WebSockets (v5.channel.k8s.io), with a client of wsproto's."""

from __future__ import annotations

import json
import select
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request

from cri.streaming.remote import Wanted
from tests.cri.streaming.client import SECONDS
from tests.cri.streaming.conftest import ALL, Serving

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


@dataclass
class WebSocket:
    connection: socket.socket
    messages: WSConnection = field(default_factory=lambda: WSConnection(ConnectionType.CLIENT))
    channels: dict[int, bytes] = field(default_factory=dict)
    closed: int | None = None
    pongs: int = 0
    protocol: str | None = None
    _message: bytes = b""

    def open(self, url: str, offered: list[str]) -> None:
        self.connection.sendall(self.messages.send(Request(host="here", target=urlsplit(url).path, subprotocols=offered)))
        while self.protocol is None:
            assert self.listen()

    def say(self, channel: int, content: bytes) -> None:
        self.connection.sendall(self.messages.send(BytesMessage(data=bytes((channel,)) + content)))

    def hear(self, channel: int, until: bytes) -> bytes:
        while until not in self.channels.get(channel, b""):
            assert self.listen(), self.channels
        return self.channels[channel]

    def hear_all(self) -> dict[int, bytes]:
        while self.closed is None:
            assert self.listen(), self.channels
        return self.channels

    def listen(self) -> bool:
        piece = self.connection.recv(1 << 16)
        if not piece:
            return False
        self.messages.receive_data(piece)
        for event in self.messages.events():
            match event:
                case AcceptConnection(subprotocol=protocol):
                    self.protocol = protocol
                case BytesMessage(data=data, message_finished=is_finished):
                    self._message += bytes(data)
                    if is_finished:
                        channel, content = self._message[0], self._message[1:]
                        self.channels[channel] = self.channels.get(channel, b"") + content
                        self._message = b""
                case CloseConnection(code=code):
                    self.closed = code
                    self.connection.sendall(self.messages.send(event.response()))
                case Pong():
                    self.pongs += 1
        return True


def client(serving: Serving, url: str, *offered: str) -> WebSocket:
    found = WebSocket(serving.connect(url))
    found.open(url, list(offered) or ["v5.channel.k8s.io"])
    return found


def test_all_passes_and_the_code_comes_last(serving: Serving) -> None:
    process = serving.play()
    there = client(serving, serving.url(process=process))
    assert there.protocol == "v5.channel.k8s.io"
    there.say(STDIN, b"hello")
    assert process.hear() == b"hello"
    there.say(CLOSE, bytes((STDIN,)))
    assert process.hear() == b""
    process.say(b"out")
    there.hear(STDOUT, b"out")
    there.connection.sendall(there.messages.send(Ping()))
    while not there.pongs:
        assert there.listen()
    process.end(9)
    said = there.hear_all()
    assert said[STDOUT] == b"out"
    assert json.loads(said[ERROR])["details"] == {"causes": [{"reason": "ExitCode", "message": "9"}]}
    assert there.closed == 1000
    assert process.was_closed.wait(SECONDS)
    serving.until_idle()


def test_v4_has_no_word_for_an_end_of_stdin(serving: Serving) -> None:
    process = serving.play()
    there = client(serving, serving.url(process=process), "v4.channel.k8s.io")
    there.say(CLOSE, bytes((STDIN,)))
    there.say(STDIN, b"x")
    assert process.hear() == b"x"
    process.end(0)
    assert json.loads(there.hear_all()[ERROR])["status"] == "Success"


def test_channels_that_were_not_asked_for_are_nobodys(serving: Serving) -> None:
    wanted = Wanted(stdin=False, stdout=True, stderr=False, terminal=False)
    process = serving.play(wanted)
    there = client(serving, serving.url(wanted, process))
    for channel in (STDIN, RESIZE, ERROR, 77):
        there.say(channel, b"x")
    process.say(b"out")
    process.end(0)
    assert sorted(there.hear_all()) == [STDOUT, ERROR]


def test_who_waits_for_a_process_that_does_not_read_sees_signs_of_life(serving: Serving) -> None:
    process = serving.play()
    there = client(serving, serving.url(process=process))
    message = there.messages.send(BytesMessage(data=bytes(65536)))
    there.connection.setblocking(False)
    rest = b""
    while select.select([], [there.connection], [], 0.3)[1]:
        rest = (rest or message)[there.connection.send(rest or message) :]
    there.connection.settimeout(SECONDS)
    while not there.pongs:
        assert there.listen()
    there.connection.close()
    assert process.was_closed.wait(SECONDS)


@pytest.mark.parametrize("garbage", [b"\xff" * 100, bytes(100), b"\x81\x80\0\0\0\0"])
def test_garbage_ends_the_session(serving: Serving, garbage: bytes) -> None:
    process = serving.play()
    there = client(serving, serving.url(ALL, process))
    there.connection.sendall(garbage)
    assert process.was_closed.wait(SECONDS)
    serving.until_idle()
