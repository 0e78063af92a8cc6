"""GetContainerEvents: each change to every caller, with the status of the pod and of all its containers.

A caller has a queue with an end to it.  One that does not read would hold ever more of our memory, and a kubelet that
misses an event is blind to it for five minutes: when the queue is full its stream ends with an error, and the caller
lists and asks again.  Nobody else waits for it: the worker that makes a change only hands it to the loop, where it is
encoded once for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from cri import containers, sandboxes
from cri.api import api_pb2 as api
from cri.node import Node
from runtime.errors import KerneletError, TooMany
from runtime.events import Change, Kind

#: What may wait for one caller.
QUEUE_EVENTS = 1000
QUEUE_BYTES = 8 << 20

KINDS = {
    Kind.CREATED: api.CONTAINER_CREATED_EVENT,
    Kind.STARTED: api.CONTAINER_STARTED_EVENT,
    Kind.STOPPED: api.CONTAINER_STOPPED_EVENT,
    Kind.DELETED: api.CONTAINER_DELETED_EVENT,
}

log = logging.getLogger(__name__)


class Events:
    """Belongs to one event loop; ``close`` it before the server stops, which would wait for the streams."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._subscribers: set[Subscriber] = set()
        self._stop_listening: Callable[[], None] | None = None
        self._is_closed = False

    def subscribe(self, _request: api.GetEventsRequest) -> Subscriber:
        """The events from now on, encoded, until the caller closes it."""
        subscriber = Subscriber(self._leave)
        if self._is_closed:
            subscriber.end()
            return subscriber
        self._subscribers.add(subscriber)
        if self._stop_listening is None:
            loop = asyncio.get_running_loop()
            self._stop_listening = self._node.listen(lambda change: _hand_over(loop, self._publish, change))
        return subscriber

    def close(self) -> None:
        """End all streams, as they end when a daemon goes away."""
        self._is_closed = True
        for subscriber in tuple(self._subscribers):
            subscriber.end()
            self._leave(subscriber)

    def _publish(self, change: Change) -> None:
        if not self._subscribers:
            return
        encoded = message(change).SerializeToString()
        for subscriber in tuple(self._subscribers):
            if not subscriber.put(encoded):
                self._leave(subscriber)

    def _leave(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._subscribers and self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None


class Subscriber:
    """One caller's queue: an asynchronous iterator of encoded events."""

    def __init__(self, leave: Callable[[Subscriber], None]) -> None:
        self._leave = leave
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._has_ended = False
        self._failure: KerneletError | None = None

    def put(self, encoded: bytes) -> bool:
        """Take *encoded*; False when there is no room, which ends the stream."""
        if self._queue and (len(self._queue) >= QUEUE_EVENTS or self._bytes + len(encoded) > QUEUE_BYTES):
            self.end(TooMany(f"this stream is {len(self._queue)} events behind: list what there is, and ask again"))
            return False
        self._queue.append(encoded)
        self._bytes += len(encoded)
        self._filled.set()
        return True

    def end(self, error: KerneletError | None = None) -> None:
        """End the stream, with *error*; what waits is dropped: who has to list again has no use for it."""
        self._has_ended, self._failure = True, error
        self._queue.clear()
        self._bytes = 0
        self._filled.set()

    def __aiter__(self) -> Subscriber:
        return self

    async def __anext__(self) -> bytes:
        while not self._queue:
            if self._has_ended:
                raise self._failure or StopAsyncIteration
            self._filled.clear()
            await self._filled.wait()
        encoded = self._queue.popleft()
        self._bytes -= len(encoded)
        return encoded

    async def aclose(self) -> None:
        """The caller is gone."""
        self._leave(self)


def message(change: Change) -> api.ContainerEventResponse:
    """The event, with all that a kubelet would ask for next."""
    return api.ContainerEventResponse(
        container_id=change.id,
        container_event_type=KINDS[change.kind],
        created_at=change.at_ns,
        pod_sandbox_status=None if change.sandbox is None else sandboxes.status(change.sandbox),
        containers_statuses=[containers.status(container) for container in change.containers],
    )


def _hand_over(loop: asyncio.AbstractEventLoop, publish: Callable[[Change], None], change: Change) -> None:
    try:
        loop.call_soon_threadsafe(publish, change)
    except RuntimeError:  # the loop is closed: the daemon has stopped serving
        log.debug("an event that nobody is left to be told of: %s of %s", change.kind, change.id[:13])
