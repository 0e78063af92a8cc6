"""The real server on a port of its own, over processes that the test plays: it has the other ends of their pipes."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

import pytest

from cri.streaming.remote import Wanted
from cri.streaming.server import Offer, StreamingServer
from kernel.fd import Fd, pipe
from runtime.session import Session, Sink, Source
from tests.cri.streaming.client import SECONDS, Client
from tests.support import wait

Result = TypeVar("Result")
ALL = Wanted(stdin=True, stdout=True, stderr=True, terminal=False)
OFFERED = (*(f"v{number}.channel.k8s.io" for number in (5, 4, 3, 2)), "channel.k8s.io")


class Played:
    """A process: what the server has of it is ``session``, the rest is the test's."""

    def __init__(self, wanted: Wanted, *, terminal: Fd | None = None, outputs_end: bool = False) -> None:
        hears, self.stdin = pipe()
        self.stdout, says = pipe()
        self.stderr, complains = pipe()
        self.hears, self.says, self.complains = hears, says, complains
        self.was_closed = threading.Event()
        self.session = Session(
            stdin=Sink(self.stdin) if wanted.stdin else None,
            stdout=Source(self.stdout) if wanted.stdout else None,
            stderr=Source(self.stderr) if wanted.stderr else None,
            terminal=terminal,
            outputs_end=outputs_end,
        )
        self.session.when_closed(self.was_closed.set)

    def say(self, content: bytes) -> None:
        os.write(self.says.fileno(), content)

    def hear(self, count: int = 1 << 16) -> bytes:
        return os.read(self.hears.fileno(), count)

    def end(self, code: int) -> None:
        """Close all and end, as a process does."""
        self.leave()
        self.session.end(code)

    def leave(self) -> None:
        for file in (self.hears, self.says, self.complains):
            file.close()

    def close(self) -> None:
        self.leave()
        for file in (self.stdin, self.stdout, self.stderr):
            file.close()


@dataclass
class Serving:
    """A server, and what was connected to it."""

    server: StreamingServer
    loop: asyncio.AbstractEventLoop
    played: list[Played] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    def on_loop(self, function: Callable[[], Result]) -> Result:
        async def call() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(SECONDS)

    def offer(self, offer: Offer) -> str:
        return self.on_loop(lambda: self.server.offer(offer))

    def play(self, wanted: Wanted = ALL, *, terminal: Fd | None = None, outputs_end: bool = False) -> Played:
        self.played.append(Played(wanted, terminal=terminal, outputs_end=outputs_end))
        return self.played[-1]

    def url(self, wanted: Wanted = ALL, process: Played | None = None) -> str:
        """Where to talk to *process*."""
        chosen = process or self.play(wanted)
        return self.offer(Offer("exec", wanted, lambda: chosen.session))

    def connect(self, url: str) -> socket.socket:
        where = urlsplit(url)
        assert where.hostname is not None
        connection = socket.create_connection((where.hostname, where.port), SECONDS)
        self.connections.append(connection)
        return connection

    def ask(self, url: str, *lines: str) -> tuple[int, str, socket.socket]:
        """Ask for SPDY: status, the whole answer, and the connection, of which nothing more was read."""
        connection = self.connect(url)
        head = (f"POST {urlsplit(url).path} HTTP/1.1", "Host: here", "Content-Length: 0")
        head = (*head, "Connection: Upgrade", "Upgrade: SPDY/3.1")
        connection.sendall("\r\n".join((*head, *lines, "", "")).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            if not piece:
                break
            answer += piece
        return int(answer.split()[1]), answer.decode(), connection

    def upgraded(self, url: str, offered: tuple[str, ...] = OFFERED) -> Client:
        status, answer, connection = self.ask(url, *(f"X-Stream-Protocol-Version: {each}" for each in offered))
        assert status == 101, answer
        return Client(connection)

    def client(self, wanted: Wanted = ALL, version: str = "v4.channel.k8s.io", process: Played | None = None) -> Client:
        """A client with all its streams open, as a kubelet opens them."""
        client = self.upgraded(self.url(wanted, process), (version,))
        for kind in wanted.names(version):
            client.name(kind)
        return client

    def until_idle(self) -> None:
        """Wait until no connection is served any more."""
        wait.until(lambda: not self.server._tasks, SECONDS, "the server to have nothing to do")


@pytest.fixture
def serving() -> Iterator[Serving]:
    with running(StreamingServer()) as found:
        yield found


class running:  # noqa: N801 -- a context manager, used as a function
    """*server*, on a loop and a thread of its own."""

    def __init__(self, server: StreamingServer) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="streaming loop")
        self.serving = Serving(server, self._loop)

    def __enter__(self) -> Serving:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.serving.server.start(), self._loop).result(SECONDS)
        return self.serving

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.serving.server.stop(), self._loop).result(SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for connection in self.serving.connections:
            connection.close()
        for process in self.serving.played:
            process.close()
