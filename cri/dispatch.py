"""How the body of an RPC is run: on the event loop, in a thread, or once for all who ask.

What is answered from memory runs on the loop and takes microseconds; everything else blocks and
gets a thread.  Work on the node and waiting for somebody else's process or network have pools of
their own: sixty-four slow probes must not keep a pod from starting.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from runtime.errors import Unsupported, WrongState

Request = TypeVar("Request")
Response = TypeVar("Response")
#: Returns the answer, or for an RPC that answers with a stream the messages of it: an asynchronous iterator.
Handler = Callable[[Any], Awaitable[Any]]

WORK_THREADS = 64
WAIT_THREADS = 192
#: Of a streamed list, what one message has at most, unless one element alone has more.
PART_BYTES = 256 << 10

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Flight:
    """An act that is under way, and how many callers still wait for it."""

    request: object
    future: asyncio.Future[Any]
    waiting: int = 0


class Dispatch:
    """Makes handlers of bodies.  Use it from one event loop; ``close`` it when no RPC is left."""

    def __init__(self) -> None:
        self._work = ThreadPoolExecutor(WORK_THREADS, "work")
        self._wait = ThreadPoolExecutor(WAIT_THREADS, "wait")
        self._flights: dict[Hashable, _Flight] = {}

    def inline(self, body: Callable[[Request], Response]) -> Handler:
        """Run *body* on the loop: it answers from memory."""

        async def handler(request: Request) -> Response:
            return body(request)

        return handler

    def threaded(self, body: Callable[[Request], Response]) -> Handler:
        """Run *body* in a thread: it works on the node."""
        return _in_pool(self._work, body)

    def waiting(self, body: Callable[[Request], Response]) -> Handler:
        """Run *body* in a thread: it waits for somebody else."""
        return _in_pool(self._wait, body)

    def cancellable(self, body: Callable[[Request, threading.Event], Response]) -> Handler:
        """Run *body* in a thread with an event that is set when the caller goes away."""

        async def handler(request: Request) -> Response:
            cancelled = threading.Event()
            future = asyncio.get_running_loop().run_in_executor(self._wait, _in_context(body), request, cancelled)
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                cancelled.set()
                future.add_done_callback(_retrieve)
                raise

        return handler

    def once(self, key: Callable[[Request], Hashable], body: Callable[[Request], Response], *, waits: bool = False) -> Handler:
        """Run *body* in a thread, once for all callers with the same *key* at a time; *waits*: for somebody else, it may be.

        It goes on when they all have gone away: a kubelet whose deadline passed asks again, and finds
        the act done or joins it.  Raises WrongState for another request with the same key.
        """

        async def handler(request: Request) -> Response:
            name = key(request)
            flight = self._flights.get(name)
            if flight is None:
                flight = self._flights[name] = self._take_off(name, request, body, self._wait if waits else self._work)
            elif flight.request != request:
                raise WrongState(
                    f"{_told(name)}: another request for the same attempt is being worked on, and says something else; "
                    "wait for it, or use another attempt number"
                )
            flight.waiting += 1
            try:
                response: Response = await asyncio.shield(flight.future)
                return response
            finally:
                flight.waiting -= 1

        return handler

    def close(self) -> None:
        """Let the threads go; what still runs in them is not waited for."""
        self._work.shutdown(wait=False, cancel_futures=True)
        self._wait.shutdown(wait=False, cancel_futures=True)

    def _take_off(
        self, name: Hashable, request: Request, body: Callable[[Request], Response], pool: ThreadPoolExecutor
    ) -> _Flight:
        flight = _Flight(request, asyncio.get_running_loop().run_in_executor(pool, _in_context(body), request))

        def landed(future: asyncio.Future[Any]) -> None:
            del self._flights[name]
            error = None if future.cancelled() else future.exception()
            if error is not None and flight.waiting == 0:
                log.warning("%s failed after its callers went away: %s", name, error)

        flight.future.add_done_callback(landed)
        return flight


def whole(handler: Handler) -> Handler:
    """Answer with the elements that *handler* returns, put together: a list's encoding is its elements' one after the other."""

    async def joined(request: object) -> bytes:
        return b"".join(await handler(request))

    return joined


def parts(handler: Handler) -> Handler:
    """Answer with a stream of the elements that *handler* returns, some in each message; with none for none."""

    async def streamed(request: object) -> AsyncIterator[bytes]:
        return _messages(await handler(request))

    return streamed


async def _messages(elements: Sequence[bytes]) -> AsyncIterator[bytes]:
    message = bytearray()
    for element in elements:
        if message and len(message) + len(element) > PART_BYTES:
            yield bytes(message)
            message.clear()
        message += element
    if message:
        yield bytes(message)


def not_yet(what: str) -> Handler:
    """A handler that says that *what* is not there yet; a client then does without."""

    async def handler(_request: object) -> None:
        raise Unsupported(f"{what} is not implemented by this version of kernelet")

    return handler


def _told(key: Hashable) -> str:
    """A key for people: its kind and its parts."""
    kind, *parts = key if isinstance(key, tuple) else (key,)
    return f"{kind} {'/'.join(map(str, parts))}"


def _in_pool(pool: ThreadPoolExecutor, body: Callable[[Request], Response]) -> Handler:
    async def handler(request: Request) -> Response:
        return await asyncio.get_running_loop().run_in_executor(pool, _in_context(body), request)

    return handler


def _in_context(body: Callable[..., Response]) -> Callable[..., Response]:
    """*body* as a thread is to run it: with the caller's context variables, which say what its log lines are about."""
    return partial(contextvars.copy_context().run, body)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Look at the outcome nobody waits for, so that asyncio does not complain about it."""
    if not future.cancelled():
        future.exception()
