"""Port-forward: a client opens two streams for each connection, an error and a data stream with the same request id.

```
    client                                                            pod
      │ ── error {port, requestid}, and its end ──>
      │ ── data {port, requestid} ────────────────>  connect to port, in the pod's network
      │ <────────────── data both ways, each with an end of its own ──────────────> │
      │ <── what went wrong, on error ──────────────  of which a client makes the end of all its connections
```
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from cri.errors import message_of
from cri.streaming.remote import InThread, opened
from cri.streaming.streams import CHUNK, SpdyPeer, Stream
from runtime.errors import KerneletError

PAIR_SECONDS = 30.0
#: How long a client may go on when the pod has said all.
GRACE_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pair:
    port: int
    streams: dict[str, Stream] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class Forwarder:
    """The connections of one client; *connect* opens one to a port, and blocks."""

    def __init__(self, connect: Callable[[int], socket.socket], in_thread: InThread) -> None:
        self._connect = connect
        self._in_thread = in_thread
        self._pairs: dict[str, _Pair] = {}
        self.peer: SpdyPeer | None = None

    def opened(self, stream: Stream) -> None:
        """Take a stream of the client's, and begin when it is the second of a pair."""
        assert self.peer is not None
        kind, port = stream.headers.get("streamtype", "").lower(), _port(stream.headers.get("port", ""))
        if kind not in ("error", "data") or port is None:
            self.peer.refuse(stream)
            return
        # The first clients had no ids: there, data comes right after its error stream.
        key = stream.headers.get("requestid") or str(stream.number - (2 if kind == "data" else 0))
        pair = self._pairs.setdefault(key, _Pair(port))
        if kind in pair.streams or pair.port != port:
            self.peer.refuse(stream)
            return
        pair.streams[kind] = stream
        if kind == "error":
            stream.discard()
        if pair.task is None:
            pair.task = asyncio.ensure_future(self._give_up_later(key, pair))
        else:
            pair.task.cancel()
            pair.task = asyncio.ensure_future(self._forward(key, pair))

    async def close(self) -> None:
        """End all connections."""
        tasks = [pair.task for pair in self._pairs.values() if pair.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _give_up_later(self, key: str, pair: _Pair) -> None:
        """The half of a pair is none."""
        await asyncio.sleep(PAIR_SECONDS)
        self._forget(key, pair)
        for stream in pair.streams.values():
            if self.peer is not None:
                self.peer.refuse(stream)

    async def _forward(self, key: str, pair: _Pair) -> None:
        error, data = pair.streams["error"], pair.streams["data"]
        try:
            with contextlib.suppress(ConnectionError):
                await self._copy(pair.port, error, data)
        except Exception:
            log.exception("port-forward to port %d", pair.port)
        finally:
            data.end()
            error.end()
            self._forget(key, pair)

    async def _copy(self, port: int, error: Stream, data: Stream) -> None:
        try:
            connection = await opened(partial(self._connect, port), self._in_thread)
        except (KerneletError, OSError) as reason:
            await error.write(message_of(reason).encode())
            return
        with connection:
            connection.setblocking(False)
            out, back = asyncio.ensure_future(_send(data, connection)), asyncio.ensure_future(_receive(connection, data))
            try:
                await asyncio.wait({back})
                data.end()
                error.end()  # at once: a client keeps its own connection open until it sees that nothing went wrong
                await asyncio.wait({out}, timeout=GRACE_SECONDS)
            finally:
                out.cancel()
                back.cancel()
                await asyncio.gather(out, back, return_exceptions=True)

    def _forget(self, key: str, pair: _Pair) -> None:
        if self._pairs.get(key) is pair:
            del self._pairs[key]
        if self.peer is not None:
            for stream in pair.streams.values():
                self.peer.forget(stream)


def _port(text: str) -> int | None:
    is_number = text.isascii() and text.isdecimal() and len(text) <= 5
    return int(text) if is_number and 0 < int(text) <= 0xFFFF else None


async def _send(data: Stream, connection: socket.socket) -> None:
    """What the client says, to the pod, and its end; when it wants to hear no more either, that is the end of all."""
    loop = asyncio.get_running_loop()
    try:
        while said := await data.read():
            await loop.sock_sendall(connection, said)
        connection.shutdown(socket.SHUT_RDWR if data.is_reset else socket.SHUT_WR)
    except OSError:  # the pod has closed it, which is no error: what it said before is on its way
        data.discard()


async def _receive(connection: socket.socket, data: Stream) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):  # reset by the pod, or by the client
        while said := await loop.sock_recv(connection, CHUNK):
            await data.write(said)
