"""urllib3 connections that can be given up while they look a name up, connect, shake hands or read."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from typing import Any, ClassVar

from urllib3 import connectionpool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from runtime.errors import KerneletError
from runtime.image.cancellation import TICK_SECONDS, Cancellation

CONNECT_SECONDS = 10.0


class _Cancellable(HTTPConnection):
    """A connection whose every wait ends with the operation that it belongs to."""

    operation: ClassVar[Cancellation]
    _duplicate: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        timeout = self.timeout if isinstance(self.timeout, int | float) else CONNECT_SECONDS
        deadline = time.monotonic() + timeout
        try:
            addresses = _look_up(self._dns_host, self.port, deadline, self.operation)
        except OSError as error:
            raise NameResolutionError(self.host, self, _as_gaierror(error)) from error
        failure: OSError = OSError("no address")
        for found in addresses:
            try:
                made = _connect(found, deadline, self.operation)
            except OSError as error:
                failure = error
                continue
            made.settimeout(timeout)
            self._duplicate = made.dup()
            self.operation.add(self._duplicate)
            return made
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"connection to {self.host} timed out") from failure
        raise NewConnectionError(self, str(failure)) from failure

    def close(self) -> None:
        if self._duplicate is not None:
            self.operation.drop(self._duplicate)
            self._duplicate = None
        super().close()


def pool_classes(operation: Cancellation) -> dict[str, type[connectionpool.HTTPConnectionPool]]:
    """urllib3's own pools, with connections that know *operation*."""
    plain = type("PlainConnection", (_Cancellable,), {"operation": operation})
    secure = type("SecureConnection", (_Cancellable, HTTPSConnection), {"operation": operation})
    return {
        "http": type("PlainPool", (connectionpool.HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (connectionpool.HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


def _look_up(host: str, port: int, deadline: float, operation: Cancellation) -> list[Any]:
    """getaddrinfo(3), which cannot be interrupted, in a thread that may be left behind."""
    outcome: list[list[Any]] = []
    failure: list[OSError] = []

    def work() -> None:
        try:
            outcome.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failure.append(error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, "no such host"))

    thread = threading.Thread(target=work, name="look-up", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(TICK_SECONDS)
        operation.check()
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "no name server answers")
    if failure:
        raise failure[0]
    return outcome[0]


def _connect(found: Any, deadline: float, operation: Cancellation) -> socket.socket:
    """A connection to one answer of getaddrinfo(3)."""
    family, kind, protocol, _, address = found
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = made.connect_ex(address)
        poll = select.poll()
        poll.register(made, select.POLLOUT)
        while code == errno.EINPROGRESS and not poll.poll(TICK_SECONDS * 1000):
            operation.check()
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if code == errno.EINPROGRESS else code
        if code:
            raise OSError(code, os.strerror(code))
        return made
    except (OSError, KerneletError):
        made.close()
        raise


def _as_gaierror(error: OSError) -> socket.gaierror:
    return error if isinstance(error, socket.gaierror) else socket.gaierror(socket.EAI_AGAIN, str(error))
