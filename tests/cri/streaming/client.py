"""A client of the streams, of our own, from the other side: written from the draft of SPDY/3.1, not from cri.streaming."""

from __future__ import annotations

import socket
import struct
import zlib
from dataclasses import dataclass, field

from cri.streaming.dictionary import DICTIONARY

SECONDS = 20.0
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7


class Frames:
    """What a client sends, in bytes."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def open(self, number: int, headers: dict[str, str], *, ends: bool = False) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            block += struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(value)) + value.encode()
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return control(SYN_STREAM, struct.pack(">IIH", number, 0, 0) + packed, int(ends))


def control(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(body)) + body


def data(number: int, content: bytes, *, ends: bool = False) -> bytes:
    return struct.pack(">II", number, int(ends) << 24 | len(content)) + content


@dataclass
class Heard:
    """What came on one stream."""

    content: bytes = b""
    has_ended: bool = False
    is_open: bool = False
    status: int | None = None


@dataclass
class Client:
    """A connection that has been upgraded to SPDY."""

    connection: socket.socket
    frames: Frames = field(default_factory=Frames)
    streams: dict[int, Heard] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    pings: list[bytes] = field(default_factory=list)
    has_gone_away: bool = False
    is_over: bool = False
    _buffer: bytes = b""
    _next: int = 1

    def open(self, headers: dict[str, str], *, ends: bool = False) -> int:
        """Open a stream; its number, once the server has welcomed or reset it."""
        number, self._next = self._next, self._next + 2
        self.streams[number] = heard = Heard()
        self.connection.sendall(self.frames.open(number, headers, ends=ends))
        while not heard.is_open and heard.status is None and self.listen():
            continue
        return number

    def name(self, kind: str) -> int:
        """Open a stream of exec or attach."""
        self.names[kind] = self.open({"streamtype": kind})
        return self.names[kind]

    def heard(self, kind: str) -> Heard:
        return self.streams[self.names[kind]]

    def say(self, kind: str, content: bytes, *, ends: bool = False) -> None:
        self.connection.sendall(data(self.names[kind], content, ends=ends))

    def hear(self, kind: str, until: bytes) -> bytes:
        while until not in self.heard(kind).content:
            assert self.listen(), f"the end came before {until!r}: {self.heard(kind).content[-200:]!r}"
        return self.heard(kind).content

    def hear_all(self, *kinds: str) -> list[bytes]:
        """What came on these streams, to the end of each."""
        while not all(self.heard(kind).has_ended for kind in kinds):
            assert self.listen(), {kind: self.heard(kind) for kind in kinds}
        return [self.heard(kind).content for kind in kinds]

    def listen(self) -> bool:
        """Take what comes next; False at the end of the connection."""
        try:
            piece = self.connection.recv(1 << 16)
        except ConnectionError:
            piece = b""
        if not piece:
            self.is_over = True
            return False
        self._buffer += piece
        while len(self._buffer) >= 8:
            head, rest = struct.unpack_from(">II", self._buffer)
            length, flags = rest & 0xFFFFFF, rest >> 24
            if len(self._buffer) < 8 + length:
                break
            body, self._buffer = self._buffer[8 : 8 + length], self._buffer[8 + length :]
            self._take(head, flags, body)
        return True

    def _take(self, head: int, flags: int, body: bytes) -> None:
        if not head >> 31:
            heard = self.streams[head]
            heard.content += body
            heard.has_ended = heard.has_ended or bool(flags & 1)
            return
        number = int.from_bytes(body[:4], "big")
        match head & 0xFFFF:
            case 2:
                self.streams[number].is_open = True
            case 3:
                self.streams[number].status = int.from_bytes(body[4:8], "big")
            case 6:
                self.pings.append(body)
            case 7:
                self.has_gone_away = True
            case other:
                raise AssertionError(f"a frame of kind {other}")

    def close(self) -> None:
        self.connection.close()
