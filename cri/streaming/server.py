"""The server of the URLs: one HTTP request a connection, then one session.

It listens on the loopback, since the token is all that is asked for: a kubelet is on the same node, and passes a client's
streams on.  A session ends with its connection; that the other side closes first, when it has all it waits for, is
waited for, because a close over what has not been read would destroy what is under way (RST).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from cri import subject
from cri.config import StreamingConfig
from cri.lines import pairs
from cri.streaming import handshake, remote
from cri.streaming.handshake import Accepted, Act, Handshake, Refused
from cri.streaming.portforward import Forwarder
from cri.streaming.remote import Wanted
from cri.streaming.streams import ChannelPeer, Peer, SpdyPeer, Stream, Tunnel, Wire
from cri.streaming.tokens import Tokens
from cri.subject import Subject
from runtime.errors import InvalidArgument
from runtime.session import Session

REQUEST_SECONDS = 30.0
STREAMS_SECONDS = 30.0
IDLE_SECONDS = 4 * 3600.0
LINGER_SECONDS = 5.0
THREADS = 64
#: How a session ended that did not end by itself.
GONE = "the client went away"
#: Connections that have shown no token yet: anybody on the node can make them, pods on its network too.
MOST_ASKING = 128

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a token stands for: a session to be opened when its streams are there, or connections to ports."""

    act: Act
    wanted: Wanted | None = None
    open: Callable[[], Session] | None = None
    connect: Callable[[int], Any] | None = None


class StreamingServer:
    """Serves what ``offer`` is given.  ``start`` it on the event loop on which all else is called."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._port = port
        self._tls = tls
        self._tokens: Tokens[tuple[Offer, Subject]] = Tokens(time.monotonic)
        self._threads = ThreadPoolExecutor(THREADS, "streaming")
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = 0

    @classmethod
    def of(cls, config: StreamingConfig) -> StreamingServer:
        """A server as it is configured.  Raises InvalidArgument for a certificate that is none."""
        if not config.tls_cert_file:
            if config.tls_key_file:
                raise InvalidArgument("streaming.tls_key_file: is of no use without tls_cert_file")
            return cls(config.address, config.port)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            tls.load_cert_chain(config.tls_cert_file, config.tls_key_file or None)
        except OSError as error:  # ssl.SSLError is one, too
            files = ", ".join(filter(None, (config.tls_cert_file, config.tls_key_file)))
            raise InvalidArgument(f"streaming.tls_cert_file, tls_key_file: {files}: {error.strerror or error}") from None
        return cls(config.address, config.port, tls)

    async def start(self) -> None:
        """Listen.  Raises InvalidArgument when the address cannot be had."""
        try:
            self._server = await asyncio.start_server(self._accept, self._address, self._port, ssl=self._tls)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InvalidArgument(f"streaming: listen on {self._address}, port {self._port}: {reason}") from None
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all sessions, and wait for that."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def offer(self, offer: Offer) -> str:
        """The URL at which *offer* can be had, once, within a minute.  Raises TooMany."""
        host = f"[{self._address}]" if ":" in self._address else self._address
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{host}:{self._port}/{offer.act}/{self._tokens.keep((offer, subject.current.get()))}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._serve(reader, writer)
        except Exception:
            log.exception("streaming: a session failed")
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shaking = Handshake()
        try:
            request = await self._hear_request(shaking, reader)
            kept = self._tokens.take(request.token)
            if kept is None or kept[0].act != request.act:
                raise Refused(HTTPStatus.NOT_FOUND, "no such stream: a token is good for one use, within a minute")
            accepted = shaking.accept(request)
        except TimeoutError:
            return
        except Refused as refused:
            log.debug("streaming: %s", refused)
            writer.write(shaking.refuse(refused))
            await writer.drain()
            return
        writer.write(accepted.answer)
        await writer.drain()
        offer, about = kept
        subject.current.set(about)
        begun, outcome = time.monotonic(), GONE
        try:
            outcome = await self._run(offer, accepted, reader, writer, is_websocket=request.is_websocket)
        finally:
            over = "websocket" if request.is_websocket else "spdy"
            values = {"session": offer.act, "over": over, "s": f"{time.monotonic() - begun:.1f}", "end": outcome}
            log.info(pairs(values), extra={"fields": values})

    async def _run(
        self, offer: Offer, accepted: Accepted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_websocket: bool
    ) -> str:
        """Serve one session; how it ended, in words."""
        if offer.act == "portforward":
            return await self._forward(offer, accepted, reader, writer, is_tunnel=is_websocket)
        wire = Wire(reader, writer, accepted.early)
        return await (self._run_channels if is_websocket else self._run_spdy)(offer, accepted, wire)

    async def _hear_request(self, shaking: Handshake, reader: asyncio.StreamReader) -> handshake.Request:
        """The request.  Raises Refused, TimeoutError."""
        if self._asking >= MOST_ASKING:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections that ask for nothing")
        self._asking += 1
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                while (request := shaking.receive(await reader.read(handshake.MAX_REQUEST))) is None:
                    continue
            return request
        finally:
            self._asking -= 1

    async def _run_spdy(self, offer: Offer, accepted: Accepted, wire: Wire) -> str:
        assert offer.wanted is not None
        streams: dict[str, Stream] = {}
        names, complete = offer.wanted.names(accepted.protocol), asyncio.Event()

        def opened(stream: Stream) -> None:
            name = stream.headers.get("streamtype", "").lower()
            if name not in names or name in streams:
                peer.refuse(stream)
                return
            streams[name] = stream
            if len(streams) == len(names):
                complete.set()

        peer = SpdyPeer(wire, opened)

        async def session() -> str:
            async with asyncio.timeout(STREAMS_SECONDS):
                await complete.wait()
            return await self._remote(offer, streams, accepted.protocol)

        return await self._together(peer, wire, session)

    async def _run_channels(self, offer: Offer, accepted: Accepted, wire: Wire) -> str:
        assert offer.wanted is not None
        can_end = accepted.protocol.startswith("v5")
        peer = ChannelPeer(wire, offer.wanted.names(accepted.protocol), can_end=can_end)
        return await self._together(peer, wire, lambda: self._remote(offer, peer.streams, accepted.protocol))

    async def _remote(self, offer: Offer, streams: dict[str, Stream], version: str) -> str:
        assert offer.open is not None
        return await remote.serve(streams, version, offer.open, self._in_thread)

    async def _forward(
        self, offer: Offer, accepted: Accepted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_tunnel: bool
    ) -> str:
        assert offer.connect is not None
        wire = (Tunnel if is_tunnel else Wire)(reader, writer, accepted.early)
        forwarder = Forwarder(offer.connect, self._in_thread)
        peer = forwarder.peer = SpdyPeer(wire, forwarder.opened)
        try:
            return await self._together(peer, wire, asyncio.Event().wait)  # it ends when the client goes
        finally:
            await forwarder.close()
            if isinstance(wire, Tunnel):
                wire.close()

    async def _together(self, peer: Peer, wire: Wire, session: Callable[[], Any]) -> str:
        """Read what the client says while *session* goes on; each ends the other.  How it ended, in words."""
        reading, going_on = asyncio.ensure_future(peer.run()), asyncio.ensure_future(session())
        idle = asyncio.ensure_future(_idle(wire))
        try:
            await asyncio.wait({reading, going_on, idle}, return_when=asyncio.FIRST_COMPLETED)
            if going_on.done() and not going_on.cancelled() and not going_on.exception():
                peer.close()
                await wire.drain()
                await asyncio.wait({reading}, timeout=LINGER_SECONDS)
        finally:
            for task in (reading, going_on, idle):
                task.cancel()
            results = await asyncio.gather(reading, going_on, idle, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, (ConnectionError, TimeoutError)):
                raise result
        return results[1] if isinstance(results[1], str) else GONE

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        run = partial(contextvars.copy_context().run, function, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)


async def _idle(wire: Wire) -> None:
    """Return when nothing has come or gone for ``IDLE_SECONDS``."""
    loop = asyncio.get_running_loop()
    while (left := wire.used_at + IDLE_SECONDS - loop.time()) > 0:
        await asyncio.sleep(left)
