"""A connection to a systemd manager: its private socket, which speaks D-Bus with nobody in between.

```
    us ── "\\0AUTH EXTERNAL", "DATA", "BEGIN" ──> manager     who we are it asks the kernel (SO_PEERCRED)
       ── method calls ──> ... <── replies, and signals of every job that ends
```

It is what systemctl uses: there also before the bus daemon is, and when that has died.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.cgroups.message import CALL, ERROR, FIXED, RETURN, SIGNAL, Malformed, Message, length, pack, unpack
from runtime.errors import TimedOut

SYSTEM = Path("/run/systemd/private")
PATIENCE_SECONDS = 30.0


class Refused(Exception):
    """The manager's answer was an error: its *name*, without what all names begin with, and what it says."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name.rpartition(".")[2]


class Lost(ConnectionError):
    """The connection ended: the manager executes itself anew (systemctl daemon-reexec), or is gone."""


def private_socket(uid: int = 0) -> Path:
    """Where the manager of the node listens, or that of the user *uid*, who we are."""
    if not uid:
        return SYSTEM
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    return Path(directory, "systemd/private")


class Bus:
    """One connection, for a with statement and one thread.  OSError when nobody listens at *path*."""

    def __init__(self, path: Path, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._path, self._serial, self._received = path, 0, bytearray()
        self._signals: deque[Message] = deque()
        self._deadline = time.monotonic() + patience_seconds
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, path: str, interface: str, member: str, signature: str = "", *values: Any) -> list[Any]:
        """What the method answers.  Raises Refused, Lost, TimedOut."""
        self._serial += 1
        serial = self._serial
        fields = {"path": path, "interface": interface, "member": member, "destination": "org.freedesktop.systemd1"}
        self._send(pack(CALL, serial, signature, values, **fields))
        while True:
            message = self._next()
            if message.kind == SIGNAL:
                self._signals.append(message)
            elif message.fields.get("reply_to") == serial:
                if message.kind == ERROR:
                    said = message.body[0] if message.body and isinstance(message.body[0], str) else ""
                    raise Refused(str(message.fields.get("error", "")), said)
                if message.kind == RETURN:
                    return message.body

    def wait_for(self, member: str, matches: Callable[[list[Any]], bool]) -> list[Any]:
        """The body of the first signal *member* that *matches*, of those that came and will come."""
        while True:
            message = self._signals.popleft() if self._signals else self._next()
            if message.kind == SIGNAL and message.fields.get("member") == member and matches(message.body):
                return message.body

    def _connect(self) -> None:
        self._wait_less()
        try:
            self._socket.connect(os.fspath(self._path))
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self._path)) from None
        # No word about who we are: in a user namespace our number is another than the manager's.
        self._send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        while True:
            line = self._line()
            if line.startswith(b"OK"):
                return
            if not line.startswith(b"DATA"):
                raise PermissionError(f"{self._path}: the manager refuses us: {line.decode(errors='replace')}")

    def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            self._receive()
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        return line

    def _next(self) -> Message:
        fixed = self._take(FIXED.size)
        try:
            return unpack(fixed + self._take(length(fixed)))
        except Malformed as error:
            raise Lost(f"{self._path}: {error}") from None

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _send(self, data: bytes) -> None:
        self._wait_less()
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise self._overdue() from None
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Lost(f"{self._path}: {error}") from None

    def _receive(self) -> None:
        self._wait_less()
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise self._overdue() from None
        except ConnectionResetError as error:
            raise Lost(f"{self._path}: {error}") from None
        if not data:
            raise Lost(f"{self._path}: the manager ended the connection")
        self._received += data

    def _wait_less(self) -> None:
        """What is left of the time for all that is done over this connection."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._overdue()
        self._socket.settimeout(left)

    def _overdue(self) -> TimedOut:
        return TimedOut(f"{self._path}: systemd does not answer; see systemctl list-jobs")
