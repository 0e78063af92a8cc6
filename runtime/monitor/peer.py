"""Who is at the other end of a connection to a monitor: its pid, and whether it speaks as we do."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from runtime.monitor import protocol


def pid_of(connection: socket.socket) -> int:
    """0 for a process of another pid namespace, where we cannot reach it."""
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)


def kill(connection: socket.socket) -> None:
    """End the process that listens at the other end, if it can be reached: to kill 0 would be to end ourselves."""
    pid = pid_of(connection)
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def is_of_our_version(connection: socket.socket, patience_seconds: float) -> bool:
    """Whether the monitor speaks as we do; one that does not answer in time does not."""
    connection.settimeout(patience_seconds)
    try:
        protocol.send(connection, {"op": "hello", "seq": 0})
        while (received := protocol.receive(connection)) is not None:
            if received[0].get("seq") == 0:  # what it tells of ends before that is asked for again, by adopt
                return bool(received[0].get("version") == protocol.VERSION)
    except OSError:
        pass
    finally:
        connection.settimeout(None)
    return False
