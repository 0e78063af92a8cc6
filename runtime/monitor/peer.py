"""Who is at the other end of a connection to a monitor: its pid, and whether it speaks as we do."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

from kernel import process
from runtime.monitor import protocol

END_SECONDS = 0.5


def pid_of(connection: socket.socket) -> int:
    """0 for a process of another pid namespace, where we cannot reach it."""
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)


def kill(connection: socket.socket) -> None:
    """End the process that listens at the other end, if it can be reached: to kill 0 would be to end ourselves."""
    pid = pid_of(connection)
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def end(child: int) -> None:
    """Kill a monitor that is a child of ours, and reap it.

    Not waited for longer than ``END_SECONDS``: a thread of it that is in a write to a disk that hangs keeps it from ending,
    but all that others want of it, its lock and its sockets, has gone before (``disk``).
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, 9)
    reaping = threading.Thread(target=process.reap, args=(child,), name="monitor ending", daemon=True)
    reaping.start()
    reaping.join(END_SECONDS)


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
