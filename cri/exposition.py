"""The HTTP endpoint of ``[metrics] address``: GET /metrics, one request a connection.

Nobody is asked who he is, so it is off unless it is configured, and tells nothing about pods.  A client that dawdles is
let go after some seconds, and there are few of them at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from http import HTTPStatus

import h11

from runtime.errors import InvalidArgument

PATH = b"/metrics"
SECONDS = 10.0
CLIENTS = 16
REQUEST_BYTES = 16 << 10

log = logging.getLogger(__name__)


class Exposition:
    """Answers with what *render* returns at the time; ``start`` and ``stop`` on one event loop."""

    def __init__(self, host: str, port: int, render: Callable[[], str], content_type: str) -> None:
        self._host, self._port = host, port
        self._render, self._content_type = render, content_type
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that is listened on, which with port 0 is the kernel's choice."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen.  Raises InvalidArgument when the address cannot be had."""
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self._port, limit=REQUEST_BYTES)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InvalidArgument(f"metrics.address: listen on {self._host}, port {self._port}: {reason}") from None
        log.info("metrics at http://%s:%d%s", f"[{self._host}]" if ":" in self._host else self._host, self.port, PATH.decode())

    async def stop(self) -> None:
        """Listen no more, and end what is under way."""
        if self._server is not None:
            self._server.close()
        for client in tuple(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(SECONDS):
                    await self._serve(reader, writer)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES)
        try:
            request = await _request(http, reader)
            status, body = self._answer(request)
        except h11.RemoteProtocolError as error:
            status, body = HTTPStatus(error.error_status_hint), f"{error}\n"
        if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        content = body.encode()
        kind = self._content_type if status is HTTPStatus.OK else "text/plain; charset=utf-8"
        headers = [("content-type", kind), ("content-length", str(len(content))), ("connection", "close")]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("allow", "GET, HEAD"))
        writer.write(http.send(h11.Response(status_code=status, headers=headers, reason=status.phrase)) or b"")
        writer.write((http.send(h11.Data(data=content)) or b"") + (http.send(h11.EndOfMessage()) or b""))
        await writer.drain()

    def _answer(self, request: h11.Request | None) -> tuple[HTTPStatus, str]:
        if request is None or len(self._clients) > CLIENTS:
            return HTTPStatus.SERVICE_UNAVAILABLE, "too many clients at a time\n"
        if request.target.partition(b"?")[0] != PATH:
            return HTTPStatus.NOT_FOUND, f"there is only {PATH.decode()} here\n"
        if request.method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "it can be read only\n"
        return HTTPStatus.OK, self._render()


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The one request; None when the client went away before it was whole.  Raises h11.RemoteProtocolError."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        http.receive_data(await reader.read(REQUEST_BYTES))
