"""SPDY/3.1 frames, as far as Kubernetes' clients speak it: bytes in, events out, and bytes for what we say.

```
    control   1 | version 15 | type 16 | flags 8 | length 24 | ...
    data      0 | stream id 31         | flags 8 | length 24 | bytes
```

The one thing to know: headers are compressed with one zlib stream for each direction of a connection, so every block
must be read, in order, even one that nobody cares for.  Flow control (WINDOW_UPDATE) is neither sent nor honoured, for
the clients do neither: who is not read stops reading, and TCP does the rest.  Data is passed on as it arrives, so a frame
of 16 MiB takes no memory.

Source: SPDY Protocol, draft 3.1, chromium.org/spdy/spdy-protocol; moby/spdystream is what talks to us.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from cri.streaming.dictionary import DICTIONARY

VERSION = 3
FIN = 0x01
#: Of a compressed block, and of what it says: a client's has a few hundred bytes.
MAX_CONTROL = 1 << 16
MAX_HEADERS = 1 << 18
#: The length of a frame has 24 bits; smaller ones let streams take turns.
MAX_DATA = 1 << 15
LAST_ID = (1 << 31) - 1


class Kind(IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Status(IntEnum):
    """Of RST_STREAM."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    CANCEL = 5
    INTERNAL_ERROR = 6


class ProtocolError(Exception):
    """What came is not SPDY/3.1; nothing more can be read on this connection."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A new stream of the client's; header names are in lower case."""

    stream_id: int
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Data:
    stream_id: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The client will send no more on the stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The client is done with the stream, in both directions."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The client opens no more streams."""


Event = Opened | Data | Ended | Reset | GoneAway


class Connection:
    """One side of a connection, which does not open streams itself."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
        self._last_id, self._pings = 0, 0
        self._answers = bytearray()
        #: Of the data frame that is being received: its stream, whether that ends with it, how much is to come.
        self._stream_id, self._is_last, self._left = 0, False, 0

    def receive(self, content: bytes) -> list[Event]:
        """What *content*, the next bytes of the client, completes.  Raises ProtocolError."""
        self._buffer += content
        events: list[Event] = []
        while self._take(events):
            continue
        return events

    def answers(self) -> bytes:
        """What is to be sent because of what was received: pings, back as they came."""
        said, self._answers = bytes(self._answers), bytearray()
        return said

    # What we say.

    def reply(self, stream_id: int) -> bytes:
        """The stream is welcome; a client waits for this before it opens the next."""
        return _control(Kind.SYN_REPLY, struct.pack(">I", stream_id) + self._compress({}))

    def data(self, stream_id: int, content: bytes, *, ends: bool = False) -> bytes:
        """*content* on the stream, in as many frames as it takes."""
        frames = bytearray()
        pieces = [content[at : at + MAX_DATA] for at in range(0, len(content), MAX_DATA)] or [b""]
        for index, piece in enumerate(pieces):
            flags = FIN if ends and index == len(pieces) - 1 else 0
            frames += struct.pack(">II", stream_id, flags << 24 | len(piece)) + piece
        return bytes(frames)

    def reset(self, stream_id: int, status: Status) -> bytes:
        """We are done with the stream, in both directions."""
        return _control(Kind.RST_STREAM, struct.pack(">II", stream_id, status))

    def ping(self) -> bytes:
        """Something that is to come back; our numbers are even."""
        self._pings += 2
        return _control(Kind.PING, struct.pack(">I", self._pings & LAST_ID))

    def go_away(self) -> bytes:
        """We take no more streams."""
        return _control(Kind.GOAWAY, struct.pack(">II", self._last_id, 0))

    # What we hear.

    def _take(self, events: list[Event]) -> bool:
        """Take one frame, or what there is of a data frame; False when there is not enough for anything."""
        if self._left:
            return self._take_data(events)
        if len(self._buffer) < 8:
            return False
        head, rest = struct.unpack_from(">II", self._buffer)
        flags, length = rest >> 24, rest & 0xFFFFFF
        if not head >> 31:
            del self._buffer[:8]
            self._stream_id, self._is_last, self._left = head, bool(flags & FIN), length
            if not length:
                self._finish_data(events)
            return True
        if head >> 16 != 0x8000 | VERSION:
            raise ProtocolError(f"a control frame of version {head >> 16 & 0x7FFF}, not {VERSION}")
        if length > MAX_CONTROL:
            raise ProtocolError(f"a control frame of {length} bytes")
        if len(self._buffer) < 8 + length:
            return False
        body = bytes(self._buffer[8 : 8 + length])
        del self._buffer[: 8 + length]
        self._take_control(head & 0xFFFF, flags, body, events)
        return True

    def _take_data(self, events: list[Event]) -> bool:
        if not self._buffer:
            return False
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        self._left -= len(piece)
        events.append(Data(self._stream_id, piece))
        if not self._left:
            self._finish_data(events)
        return True

    def _finish_data(self, events: list[Event]) -> None:
        if self._is_last:
            events.append(Ended(self._stream_id))

    def _take_control(self, kind: int, flags: int, body: bytes, events: list[Event]) -> None:
        match kind:
            case Kind.SYN_STREAM:
                stream_id = _number(body, 10)
                if not stream_id % 2 or stream_id <= self._last_id:
                    raise ProtocolError(f"stream {stream_id} after stream {self._last_id}")
                self._last_id = stream_id
                events.append(Opened(stream_id, self._decompress(body[10:])))
                if flags & FIN:
                    events.append(Ended(stream_id))
            case Kind.SYN_REPLY | Kind.HEADERS:
                stream_id = _number(body, 4)
                self._decompress(body[4:])
                if flags & FIN:
                    events.append(Ended(stream_id))
            case Kind.RST_STREAM:
                events.append(Reset(_number(body, 8), struct.unpack_from(">I", body, 4)[0]))
            case Kind.PING:
                if _number(body, 4) % 2:  # the others are answers to our own
                    self._answers += _control(Kind.PING, body[:4])
            case Kind.GOAWAY:
                events.append(GoneAway())
            case _:  # SETTINGS and WINDOW_UPDATE are nothing to us; what is not known is to be passed over
                pass

    def _compress(self, headers: dict[str, str]) -> bytes:
        block = struct.pack(">I", len(headers))
        for text in (text.encode() for pair in headers.items() for text in pair):
            block += struct.pack(">I", len(text)) + text
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def _decompress(self, block: bytes) -> dict[str, str]:
        try:
            content = self._inflate.decompress(block, MAX_HEADERS)
        except zlib.error as error:
            raise ProtocolError(f"headers that cannot be decompressed: {error}") from None
        if self._inflate.unconsumed_tail or self._inflate.eof:
            raise ProtocolError(f"headers of more than {MAX_HEADERS} bytes, or an end of their compression")
        return _headers(content)


def _headers(content: bytes) -> dict[str, str]:
    """Pairs of a name and a value, each with its length before it, and their number before all."""
    at, texts = 4, []
    for _ in range(2 * _number(content, 4)):
        length = _number(content[at : at + 4], 4)
        at += 4 + length
        if at > len(content):
            raise ProtocolError("headers that are cut off")
        texts.append(content[at - length : at].decode("utf-8", "replace"))
    return {name.lower(): value for name, value in zip(texts[::2], texts[1::2], strict=True)}


def _number(body: bytes, least: int) -> int:
    """The number of 31 bits at the beginning of *body*, which is at least *least* bytes long."""
    if len(body) < least:
        raise ProtocolError("a control frame that is too short")
    return int.from_bytes(body[:4], "big") & LAST_ID


def _control(kind: Kind, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(body)) + body
