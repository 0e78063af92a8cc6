"""Who is using what right now: leases against removal, and one worker at a time for one thing.

Keys are ``image:NAME``, ``layer:CHAIN`` and ``blob:DIGEST``.  Joining a key keeps what it names from
being collected; leading it makes the others wait.  A leader that fails or is cancelled leaves no
outcome, and the next in line takes over; one that succeeds leaves its outcome to those who waited.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.image.records import LayerRow

#: How long a follower waits before it looks whether it was cancelled.
TICK_SECONDS = 0.05


class Flight:
    def __init__(self) -> None:
        self.users = 0
        self.outcome: LayerRow | None = None
        self._turn = threading.Lock()

    @contextmanager
    def lead(self, stop: Callable[[], None]) -> Iterator[None]:
        """Wait for the turn, and hold it; *stop* is called meanwhile and may raise."""
        while not self._turn.acquire(timeout=TICK_SECONDS):
            stop()
        try:
            yield
        finally:
            self._turn.release()


class Flights:
    """All flights of a node.  *lock* is the image store's: joining and collecting exclude each other."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._flights: dict[str, Flight] = {}

    @contextmanager
    def join(self, key: str) -> Iterator[Flight]:
        with self._lock:
            flight = self._flights.setdefault(key, Flight())
            flight.users += 1
        try:
            yield flight
        finally:
            with self._lock:
                flight.users -= 1
                if not flight.users:
                    del self._flights[key]

    def holds(self, key: str) -> bool:
        """Whether somebody has joined *key*; ask under the lock."""
        return key in self._flights
