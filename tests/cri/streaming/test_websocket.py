"""Channels in WebSocket messages, said by a client of wsproto: the same from any pieces and frames."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from cri.streaming.websocket import Channels, Data, Ended, Messages, ProtocolError


def joined(events: Iterable[Data | Ended]) -> list[Data | Ended]:
    found: list[Data | Ended] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Data) and isinstance(last, Data) and event.channel == last.channel:
            found[-1] = Data(last.channel, last.content + event.content)
        else:
            found.append(event)
    return found


def receive(content: bytes, cuts: Iterable[int] = (), *, can_end: bool = True) -> list[Data | Ended]:
    channels = Channels(can_end=can_end)
    places = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    events = []
    for start, end in pairwise(places):
        events += channels.receive(content[start:end])
    return joined(events)


#: A message: its channel, and its frames.
messages = st.tuples(st.integers(0, 4), st.lists(st.binary(max_size=30), min_size=1, max_size=4))


@given(st.lists(messages, max_size=8), st.lists(st.integers(0, 1000), max_size=20))
def test_any_pieces_and_frames_mean_the_same(said: list[tuple[int, list[bytes]]], cuts: list[int]) -> None:
    client, sent, meant = Connection(ConnectionType.CLIENT), b"", []
    for channel, frames in said:
        pieces = [bytes((channel,)), *frames]
        for index, piece in enumerate(pieces):
            sent += client.send(BytesMessage(data=piece, message_finished=index == len(pieces) - 1))
        content = b"".join(frames)
        meant += [Data(channel, content)] if content else []
    assert receive(sent) == joined(meant)
    assert receive(sent, cuts) == joined(meant)
    assert receive(sent, range(len(sent))) == joined(meant)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_garbage_is_an_error_and_nothing_worse(garbage: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(ProtocolError):
        receive(garbage, cuts)


def test_a_channel_is_ended_in_v5_alone() -> None:
    client = Connection(ConnectionType.CLIENT)
    sent = client.send(BytesMessage(data=b"\0in")) + client.send(BytesMessage(data=b"\xff\0"))
    assert receive(sent) == [Data(0, b"in"), Ended(0)]
    assert receive(sent, can_end=False) == [Data(0, b"in"), Data(255, b"\0")]


def test_an_empty_message_says_nothing_and_its_successor_has_a_channel_of_its_own() -> None:
    client = Connection(ConnectionType.CLIENT)
    sent = client.send(BytesMessage(data=b"")) + client.send(BytesMessage(data=b"\1x"))
    assert receive(sent) == [Data(1, b"x")]


def test_pings_are_answered_and_a_close_is_returned() -> None:
    client, server = Connection(ConnectionType.CLIENT), Messages()
    assert server.receive(client.send(Ping(b"here"))) == []
    client.receive_data(server.answers())
    assert [type(event) for event in client.events()] == [Pong]
    server.receive(client.send(CloseConnection(1000)))
    assert server.is_closed and server.message(b"late") == server.close() == b""
    client.receive_data(server.answers())
    assert [type(event) for event in client.events()] == [CloseConnection]
    assert server.receive(b"whatever") == []


def test_what_we_say_is_understood() -> None:
    client, server = Connection(ConnectionType.CLIENT), Channels(can_end=True)
    client.receive_data(server.data(1, b"out") + server.messages.close())
    said, closed = client.events()
    assert isinstance(said, BytesMessage) and bytes(said.data) == b"\1out"
    assert isinstance(closed, CloseConnection) and closed.code == 1000
    assert server.data(1, b"more") == b""


def test_text_is_not_spoken() -> None:
    with pytest.raises(ProtocolError, match="text"):
        receive(Connection(ConnectionType.CLIENT).send(TextMessage(data="hello")))
