"""Giving up a pull at once: also while it waits for a name server, a connection or a byte.

The caller has a ``threading.Event``; nothing in the kernel waits for one.  So a watcher looks at it
every TICK and then shuts down every socket of the operation, which ends a blocked recv(2) in any thread.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from runtime.errors import Cancelled

TICK_SECONDS = 0.03


class Cancellation:
    """One operation, possibly of several threads.  Use it in ``with``.  Without an *event* only ``cancel`` ends it."""

    def __init__(self, event: threading.Event | None = None) -> None:
        self._asked = event
        self._given_up = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()

    def check(self) -> None:
        """Raise Cancelled if the operation was given up."""
        if self._given_up.is_set() or (self._asked is not None and self._asked.is_set()):
            raise Cancelled("cancelled by the caller")

    def wait(self, seconds: float) -> None:
        """Let *seconds* pass; raises Cancelled as soon as the operation is given up."""
        self._given_up.wait(seconds)
        self.check()

    def cancel(self) -> None:
        """Give up: every wait of this operation ends now."""
        self._given_up.set()
        with self._lock:
            for held in self._sockets:
                with contextlib.suppress(OSError):  # it may not be connected any more
                    held.shutdown(socket.SHUT_RDWR)

    def add(self, connection: socket.socket) -> None:
        """*connection*, a duplicate that stays ours, is shut down if the operation is given up."""
        with self._lock:
            self._sockets.add(connection)
        if self._given_up.is_set():
            self.cancel()

    def drop(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(connection)
        connection.close()

    def __enter__(self) -> Self:
        if self._asked is not None:
            self.check()
            threading.Thread(target=self._watch, args=(self._asked,), name="pull-cancel", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()  # the watcher ends at its next look; nobody waits for that
        for connection in list(self._sockets):
            self.drop(connection)

    def _watch(self, asked: threading.Event) -> None:
        while not self._over.is_set():
            if asked.wait(TICK_SECONDS):
                self.cancel()
                return
