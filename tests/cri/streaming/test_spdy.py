"""SPDY frames: the same from any pieces, and garbage is an error of ours and nothing worse."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming import spdy
from cri.streaming.dictionary import DICTIONARY
from cri.streaming.spdy import Connection, Data, Ended, Event, GoneAway, Opened, ProtocolError, Reset, Status
from tests.cri.streaming.client import GOAWAY, PING, RST_STREAM, SYN_STREAM, Frames, control, data


def joined(events: Iterable[Event]) -> list[Event]:
    """*events* with what came of one stream in pieces in one."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Data) and isinstance(last, Data) and event.stream_id == last.stream_id:
            found[-1] = Data(last.stream_id, last.content + event.content)
        else:
            found.append(event)
    return found


def receive(content: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    connection = Connection()
    places = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    events: list[Event] = []
    for start, end in pairwise(places):
        events += connection.receive(content[start:end])
    return joined(events)


names, values = st.from_regex(r"[a-z-]{1,12}", fullmatch=True), st.text(st.characters(codec="ascii"), max_size=30)
headers = st.dictionaries(names, values, max_size=4)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """What a client sends, and what it means."""
    frames, sent, meant, number = Frames(), b"", [], 1
    for kind in draw(st.lists(st.sampled_from(["open", "data", "reset", "ping", "goaway", "settings"]), max_size=12)):
        ends = draw(st.booleans())
        match kind:
            case "open":
                said = draw(headers)
                sent += frames.open(number, said, ends=ends)
                meant.append(Opened(number, said))
                meant += [Ended(number)] if ends else []
                number += 2
            case "data":
                content = draw(st.binary(max_size=40))
                sent += data(number, content, ends=ends)
                meant += [Data(number, content)] if content else []
                meant += [Ended(number)] if ends else []
            case "reset":
                sent += control(RST_STREAM, struct.pack(">II", number, 5))
                meant.append(Reset(number, Status.CANCEL))
            case "ping":
                sent += control(PING, b"\0\0\0\1")
            case "goaway":
                sent += control(GOAWAY, struct.pack(">II", 0, 0))
                meant.append(GoneAway())
            case "settings":
                sent += control(4, draw(st.binary(max_size=20)))
    return sent, joined(meant)


@given(conversations(), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_pieces_mean_the_same(conversation: tuple[bytes, list[Event]], cuts: list[int]) -> None:
    sent, meant = conversation
    assert receive(sent) == meant
    assert receive(sent, cuts) == meant
    assert receive(sent, range(len(sent))) == meant


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_garbage_is_an_error_and_nothing_worse(garbage: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(ProtocolError):
        receive(garbage, cuts)


@given(conversations(), st.data())
def test_what_was_right_and_then_broken_is_an_error_and_nothing_worse(
    conversation: tuple[bytes, list[Event]], draw: st.DataObject
) -> None:
    sent = bytearray(conversation[0])
    for _ in range(draw.draw(st.integers(0, 4))):
        if sent:
            sent[draw.draw(st.integers(0, len(sent) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        receive(bytes(sent))


@given(st.lists(st.tuples(st.binary(max_size=100_000), st.booleans()), max_size=4))
def test_what_is_said_is_understood(pieces: list[tuple[bytes, bool]]) -> None:
    ours, theirs = Connection(), Connection()
    said = b"".join(ours.data(1, content, ends=ends) for content, ends in pieces)
    heard = theirs.receive(said)
    assert b"".join(event.content for event in heard if isinstance(event, Data)) == b"".join(piece for piece, _ in pieces)
    assert sum(isinstance(event, Ended) for event in heard) == sum(ends for _, ends in pieces)


def test_the_dictionary_is_the_drafts() -> None:
    assert hashlib.sha256(DICTIONARY).hexdigest() == "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02"
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


def test_a_reply_is_what_other_servers_send() -> None:
    """An empty block, compressed: the first of a connection has zlib's header and the dictionary's checksum."""
    assert Connection().reply(1) == bytes.fromhex("80030002 00000014 00000001 78f9e3c6a7c2 02a6230600000000ffff".replace(" ", ""))


def test_a_ping_comes_back() -> None:
    connection = Connection()
    ping = control(PING, b"\0\0\0\7")
    assert connection.receive(ping) == []
    assert (connection.answers(), connection.answers()) == (ping, b"")


def test_data_is_passed_on_before_its_frame_is_complete() -> None:
    connection = Connection()
    assert connection.receive(struct.pack(">II", 1, spdy.FIN << 24 | 0xFFFFFF) + b"abc") == [Data(1, b"abc")]
    for _ in range(3):
        assert connection.receive(bytes(1 << 20)) == [Data(1, bytes(1 << 20))]
    assert len(connection._buffer) == 0


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (Frames().open(2, {}), "stream 2 after stream 0"),
        (Frames().open(0, {}), "stream 0 after"),
        (struct.pack(">HHI", 0x8002, 1, 4) + bytes(4), "version 2, not 3"),
        (b"GET / HTTP/1.1\r\n\r\n" * 2, None),
        (b"\x80\x03\x00\x01\x00\xff\xff\xff", "a control frame of 16777215 bytes"),
        (control(SYN_STREAM, bytes(9)), "too short"),
        (control(RST_STREAM, bytes(7)), "too short"),
        (control(SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + b"no zlib"), "cannot be decompressed"),
    ],
)
def test_what_is_no_spdy(sent: bytes, message: str | None) -> None:
    if message is None:  # an id of a stream that nobody has opened, and a length: it takes some bytes to see
        assert all(isinstance(event, Data) for event in receive(sent))
        return
    with pytest.raises(ProtocolError, match=message):
        receive(sent)


def test_headers_that_are_a_bomb_are_refused() -> None:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    bomb = deflate.compress(bytes(50_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < spdy.MAX_CONTROL
    with pytest.raises(ProtocolError, match="more than 262144 bytes"):
        receive(control(SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + bomb))


def test_headers_that_lie_about_their_number_are_refused() -> None:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    block = struct.pack(">I", 0x7FFFFFFF) + bytes(200_000)
    packed = deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(ProtocolError, match=r"cut off|too short"):
        receive(control(SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + packed))
