"""WebSocket messages as Kubernetes uses them: channels of one session, or a tunnel for SPDY.  Bytes in, events out.

In the channel protocols (v4 and v5.channel.k8s.io) the first byte of each binary message is the number of a channel;
v5 adds how to end one: a message 255, n ends channel n.  In a tunnel (SPDY/3.1+portforward.k8s.io) a message is a piece
of the bytes, and where it begins means nothing.  Messages are passed on as they arrive, whatever their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

NORMAL, UNSUPPORTED = 1000, 1003


class Channel(IntEnum):
    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4
    CLOSE = 255


class ProtocolError(Exception):
    """What came is no WebSocket message of these protocols."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a message; whether it begins with them."""

    content: bytes
    begins: bool


@dataclass(frozen=True, slots=True)
class Data:
    channel: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The client will send no more on the channel."""

    channel: int


class Messages:
    """The messages of a socket after its handshake, our side's and theirs."""

    def __init__(self) -> None:
        self._connection = Connection(ConnectionType.SERVER)
        self._begins = True
        self._answers = bytearray()
        self.is_closed = False
        """The client has said that it goes."""

    def receive(self, content: bytes) -> list[Piece]:
        """What has come of messages with *content*, the next bytes of the client.  Raises ProtocolError."""
        if self.is_closed:
            return []
        pieces: list[Piece] = []
        try:
            self._connection.receive_data(content)
            for event in self._connection.events():
                match event:
                    case BytesMessage(data=data, message_finished=is_finished):
                        pieces.append(Piece(bytes(data), self._begins))
                        self._begins = is_finished or (self._begins and not data)
                    case TextMessage():
                        raise ProtocolError("a message of text")
                    case Ping():
                        self._answers += self._connection.send(event.response())
                    case CloseConnection():
                        self.is_closed = True
                        if self._connection.state is ConnectionState.REMOTE_CLOSING:
                            self._answers += self._connection.send(event.response())
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise ProtocolError(str(error)) from None
        return pieces

    def answers(self) -> bytes:
        """What is to be sent because of what was received."""
        said, self._answers = bytes(self._answers), bytearray()
        return said

    def message(self, content: bytes) -> bytes:
        """One message; nothing once either side has gone."""
        return self._connection.send(BytesMessage(data=content)) if self._connection.state is ConnectionState.OPEN else b""

    def pong(self) -> bytes:
        """A sign of life; who waits for the answer to a ping, which is not read yet, takes it for that (RFC 6455, 5.5.3)."""
        return self._connection.send(Pong()) if self._connection.state is ConnectionState.OPEN else b""

    def close(self, code: int = NORMAL) -> bytes:
        """The last that we say; nothing when that has been said."""
        return self._connection.send(CloseConnection(code)) if self._connection.state is ConnectionState.OPEN else b""


class Channels:
    """A session's channels in the messages of a socket."""

    def __init__(self, *, can_end: bool) -> None:
        self.messages = Messages()
        self._can_end = can_end
        self._channel = 0

    def receive(self, content: bytes) -> list[Data | Ended]:
        """What has come on channels with *content*.  Raises ProtocolError."""
        events: list[Data | Ended] = []
        for piece in self.messages.receive(content):
            data = piece.content
            if piece.begins:
                if not data:
                    continue
                self._channel, data = data[0], data[1:]
            if self._can_end and self._channel == Channel.CLOSE:
                events.extend(map(Ended, data))
            elif data:
                events.append(Data(self._channel, data))
        return events

    def data(self, channel: int, content: bytes) -> bytes:
        """*content* on the channel."""
        return self.messages.message(bytes((channel,)) + content)
