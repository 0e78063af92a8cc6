"""The monitor's end of its connections: requests come in, answers and news go out, and nobody is waited for."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable

from kernel.fd import Fd
from runtime.monitor import protocol
from runtime.monitor.protocol import Message

#: What is kept for a daemon that does not read: the ends of more containers than a node has.
MAX_UNSENT = 4096
#: What is kept while there is no daemon.
MAX_NEWS = 1024


class Daemons:
    """Those that are connected, usually one, in the monitor's loop: *listen* and *unlisten* are its own.

    *serve* is called with each request and its descriptors, *gone* when a daemon has disconnected.
    """

    def __init__(
        self,
        listen: Callable[[int, Callable[[], None], int], None],
        unlisten: Callable[[int], None],
        serve: Callable[[socket.socket, Message, list[Fd]], None],
        gone: Callable[[socket.socket], None],
    ) -> None:
        self._listen = listen
        self._unlisten = unlisten
        self._serve = serve
        self._gone = gone
        self._connections: list[socket.socket] = []
        self._unsent: dict[socket.socket, list[tuple[Message, Fd | None]]] = {}
        self._news: deque[Message] = deque(maxlen=MAX_NEWS)

    def accept(self, listener: socket.socket) -> None:
        """Take one that connects."""
        connection, _ = listener.accept()
        connection.setblocking(False)
        self._connections.append(connection)
        self._hear(connection)

    def catch_up(self, connection: socket.socket) -> None:
        """Tell one that has just connected what nobody has heard yet."""
        while self._news:
            self.send(connection, self._news.popleft())

    def tell(self, event: str, **content: object) -> None:
        """Tell all of them, or when there is none the next that connects."""
        if not self._connections:
            self._news.append({"event": event, **content})
        self.broadcast(event, **content)

    def broadcast(self, event: str, **content: object) -> None:
        """Tell all of them; who connects later asks."""
        for connection in tuple(self._connections):
            self.send(connection, {"event": event, **content})

    def send(self, connection: socket.socket, message: Message, file: Fd | None = None) -> None:
        """Send, with a copy of *file*, or keep for later: a daemon that does not read must not stop the logs of all containers.

        Meanwhile it is not listened to either.
        """
        if connection not in self._connections:
            return
        unsent = self._unsent.get(connection)
        if unsent is None:
            if not _try_to_send(connection, message, file):
                self._unsent[connection] = [(message, file and file.duplicate())]
                self._unlisten(connection.fileno())
                self._listen(connection.fileno(), lambda: self._send_rest(connection), select.EPOLLOUT)
        elif len(unsent) < MAX_UNSENT:
            unsent.append((message, file and file.duplicate()))
        else:
            self._disconnect(connection)  # when it reads again it sees the end, comes back and asks how all stands

    def _hear(self, connection: socket.socket) -> None:
        self._listen(connection.fileno(), lambda: self._receive(connection), select.EPOLLIN)

    def _receive(self, connection: socket.socket) -> None:
        received = protocol.receive(connection)
        if received is None:
            self._disconnect(connection)
        else:
            self._serve(connection, *received)

    def _send_rest(self, connection: socket.socket) -> None:
        unsent = self._unsent[connection]
        while unsent:
            if not _try_to_send(connection, *unsent[0]):
                return
            del unsent[0]
        del self._unsent[connection]
        self._unlisten(connection.fileno())
        self._hear(connection)

    def _disconnect(self, connection: socket.socket) -> None:
        self._unlisten(connection.fileno())
        self._connections.remove(connection)
        self._unsent.pop(connection, None)
        self._gone(connection)
        connection.close()


def _try_to_send(connection: socket.socket, message: Message, file: Fd | None) -> bool:
    try:
        with contextlib.suppress(ConnectionError):  # the daemon is gone: the loop will see the end of its socket
            protocol.send(connection, message, None if file is None else [file.fileno()])
    except BlockingIOError:
        return False
    return True
