"""The streams of one client, over SPDY or a WebSocket: what it says waits in them, and what is said waits for it.

The one thing to know is who waits for whom.  Neither protocol has flow control of its own, so a client is told to wait
by not reading its connection: as soon as one stream holds ``MOST_HELD`` bytes that nobody has taken.  Then nothing else of
the client's is read either, not even its end, which may be stuck behind what it has sent.  So it is looked for now and
then, with a sign of life (a ping of SPDY's, a pong of a WebSocket's, whose clients give up after a minute without one):
the kernel of one that has gone answers at once (RST).  A client that vanished behind a process that does not read would
else be served for ever.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from cri.streaming import spdy, websocket

MOST_HELD = 256 << 10
MOST_STREAMS = 1000
CHUNK = 64 << 10
LOOK_SECONDS, LOOK_SECONDS_AT_MOST = 0.5, 20.0
#: linux/tcp_states.h: the peer has closed its side, or the whole.
_GONE_STATES = frozenset({7, 8, 9})


class Wire:
    """A connection's bytes; *early* ones have come with its request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes = b"") -> None:
        self._reader = reader
        self._writer = writer
        self._early = early
        self.used_at = asyncio.get_running_loop().time()
        """When something came or went."""

    async def read(self) -> bytes:
        """The next bytes; empty at the end, whatever that was."""
        if self._early:
            said, self._early = self._early, b""
            return said
        try:
            said = await self._reader.read(CHUNK)
        except OSError:
            return b""
        self._touch()
        return said

    def write(self, content: bytes) -> None:
        """Send *content*, at some time."""
        if content:
            self._writer.write(content)

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written.  Raises ConnectionError."""
        await self._writer.drain()
        self._touch()

    def has_gone(self) -> bool:
        """Whether the client's end of the connection is closed, though there may be bytes of it to be read."""
        raw = self._writer.get_extra_info("socket")
        try:
            state = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return True
        return self._writer.is_closing() or struct.unpack("B", state[:1])[0] in _GONE_STATES

    def _touch(self) -> None:
        self.used_at = asyncio.get_running_loop().time()


class Stream:
    """Both directions of a stream; *headers* say what it is for."""

    def __init__(self, peer: Peer, number: int, headers: dict[str, str]) -> None:
        self.number = number
        self.headers = headers
        self.is_reset = False
        self._peer = peer
        self._held = bytearray()
        self._has_ended = False
        self._has_said_all = False
        self._is_discarding = False
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._held) >= MOST_HELD

    async def read(self) -> bytes:
        """What the client has said, some of it; empty at the end."""
        while not self._held and not self._has_ended:
            self._changed.clear()
            await self._changed.wait()
        said, self._held = bytes(self._held[:CHUNK]), self._held[CHUNK:]
        self._peer.has_room()
        return said

    async def write(self, content: bytes) -> None:
        """Say *content*; returns when the client has taken most of it.  Raises ConnectionError when it has gone."""
        if not self.is_reset:
            await self._peer.send(self, content)

    def end(self) -> None:
        """Say that there is no more; once."""
        if not self.is_reset and not self._has_said_all:
            self._has_said_all = True
            self._peer.end(self)

    def discard(self) -> None:
        """Have what the client says from now on thrown away, so that it can go on to what matters."""
        self._is_discarding = True
        self._held.clear()
        self._peer.has_room()

    def feed(self, content: bytes) -> None:
        """The client has said *content*."""
        if not self._is_discarding and not self._has_ended:
            self._held += content
            self._changed.set()

    def feed_end(self, *, is_reset: bool = False) -> None:
        """The client has said all, and with *is_reset* wants to hear no more."""
        self._has_ended = True
        self.is_reset = self.is_reset or is_reset
        self._changed.set()


class Peer(Protocol):
    """A client with its streams."""

    async def run(self) -> None:
        """Take what the client says until it has gone; all its streams have ended then."""
        ...

    async def send(self, stream: Stream, content: bytes) -> None: ...
    def end(self, stream: Stream) -> None: ...
    def has_room(self) -> None: ...
    def close(self) -> None:
        """Say that this was all."""
        ...


class _Reading:
    """What peers have in common: to read the wire, unless a stream is full."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._streams: dict[int, Stream] = {}
        self._room = asyncio.Event()

    async def run(self) -> None:
        try:
            while self.is_open() and (said := await self._wire.read()):
                self.receive(said)
                await self._wait_for_room()
        except (spdy.ProtocolError, websocket.ProtocolError):
            pass  # there is nobody to talk to
        finally:
            for stream in self._streams.values():
                stream.feed_end()

    def has_room(self) -> None:
        self._room.set()

    def is_open(self) -> bool:
        raise NotImplementedError

    def receive(self, said: bytes) -> None:
        raise NotImplementedError

    def show_life(self) -> None:
        """Say something that means nothing."""
        raise NotImplementedError

    async def _wait_for_room(self) -> None:
        patience = LOOK_SECONDS
        while any(stream.is_full for stream in self._streams.values()):
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), patience)
            except TimeoutError:
                if self._wire.has_gone():
                    raise spdy.ProtocolError("the client went away") from None
                self.show_life()
                patience = min(2 * patience, LOOK_SECONDS_AT_MOST)


class SpdyPeer(_Reading):
    """A client that opens streams over SPDY; *opened* is told of each.  ``Tunnel`` is a wire, too."""

    def __init__(self, wire: Wire, opened: Callable[[Stream], None]) -> None:
        super().__init__(wire)
        self._frames = spdy.Connection()
        self._opened = opened

    def is_open(self) -> bool:
        return True

    def receive(self, said: bytes) -> None:
        for event in self._frames.receive(said):
            match event:
                case spdy.Opened(stream_id, headers):
                    self._open(stream_id, headers)
                case spdy.Data(stream_id, content) if stream_id in self._streams:
                    self._streams[stream_id].feed(content)
                case spdy.Ended(stream_id) if stream_id in self._streams:
                    self._streams[stream_id].feed_end()
                case spdy.Reset(stream_id, _) if stream_id in self._streams:
                    self._streams.pop(stream_id).feed_end(is_reset=True)
                case _:
                    pass  # of a stream that is no more; who goes away closes the connection, too
        self._wire.write(self._frames.answers())

    def show_life(self) -> None:
        self._wire.write(self._frames.ping())

    async def send(self, stream: Stream, content: bytes) -> None:
        self._wire.write(self._frames.data(stream.number, content))
        await self._wire.drain()

    def end(self, stream: Stream) -> None:
        self._wire.write(self._frames.data(stream.number, b"", ends=True))

    def forget(self, stream: Stream) -> None:
        """Nothing of *stream* matters any more."""
        self._streams.pop(stream.number, None)
        self.has_room()

    def refuse(self, stream: Stream) -> None:
        """Reset *stream*: it is not what it should be."""
        self._wire.write(self._frames.reset(stream.number, spdy.Status.PROTOCOL_ERROR))
        stream.feed_end(is_reset=True)
        self.forget(stream)

    def close(self) -> None:
        self._wire.write(self._frames.go_away())

    def _open(self, stream_id: int, headers: dict[str, str]) -> None:
        if len(self._streams) >= MOST_STREAMS:
            self._wire.write(self._frames.reset(stream_id, spdy.Status.REFUSED_STREAM))
            return
        self._wire.write(self._frames.reply(stream_id))
        stream = self._streams[stream_id] = Stream(self, stream_id, headers)
        self._opened(stream)


class ChannelPeer(_Reading):
    """A client on a WebSocket, whose channels are all there from the beginning: *names* are those that it will use."""

    def __init__(self, wire: Wire, names: list[str], *, can_end: bool) -> None:
        super().__init__(wire)
        self._channels = websocket.Channels(can_end=can_end)
        numbers = {name: int(websocket.Channel[name.upper()]) for name in names}
        self.streams = {name: Stream(self, number, {"streamtype": name}) for name, number in numbers.items()}
        self._streams = {stream.number: stream for stream in self.streams.values()}

    def is_open(self) -> bool:
        return not self._channels.messages.is_closed

    def receive(self, said: bytes) -> None:
        for event in self._channels.receive(said):
            stream = self._streams.get(event.channel)
            if stream is None:
                continue
            if isinstance(event, websocket.Data):
                stream.feed(event.content)
            else:
                stream.feed_end()
        self._wire.write(self._channels.messages.answers())

    def show_life(self) -> None:
        self._wire.write(self._channels.messages.pong())

    async def send(self, stream: Stream, content: bytes) -> None:
        self._wire.write(self._channels.data(stream.number, content))
        await self._wire.drain()

    def end(self, stream: Stream) -> None:
        """Only the end of the whole is said on a WebSocket."""

    def close(self) -> None:
        self._wire.write(self._channels.messages.close())


class Tunnel(Wire):
    """A wire of the messages of a WebSocket, each a piece of what is said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes = b"") -> None:
        super().__init__(reader, writer, early)
        self._messages = websocket.Messages()

    async def read(self) -> bytes:
        said = b""
        while not said and not self._messages.is_closed and (came := await super().read()):
            said = b"".join(piece.content for piece in self._messages.receive(came))
            super().write(self._messages.answers())
        return said

    def write(self, content: bytes) -> None:
        if content:
            super().write(self._messages.message(content))

    def close(self) -> None:
        """Say that this was all."""
        super().write(self._messages.close())
