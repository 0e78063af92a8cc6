"""The messages between daemon and monitor.

```
    daemon                                            monitor
      │ ── launch {id, kind, descriptors …} + fds ──────> │  spawn the runner
      │ <──────────────────── {seq, pid} (created) ────── │  "c" on the ready pipe
      │ ── start {id} ─────────────────────────────────> │  start event
      │ <──────────────────── {seq} ─────────────────── │  end of the ready pipe: execve happened
      │ <──────────────────── exited {id, code, at_ns} ── │  done event; every byte of output is written, or log_is_behind
      │ ── forget {id} ────────────────────────────────> │  end the reaper
      │ <──────────────────── {seq} ─────────────────── │
```

News besides *exited*: *log* {id, error}, a log cannot be written and entries are lost; *log* {id, lines, bytes}, it can
again and so many were; *disk* {ids, seconds}, the disk of these logs hangs, or now, after so many seconds, does not any more.

First of all *hello*, which is answered with the version: a daemon ends a monitor of another and starts its own.
A log file is a handle on it (O_PATH) and the *device* that it is on: whoever writes opens it.
Also *signal*, *reopen* (a new log file), *adopt* (after a new monitor took over: here is the log file of
what you found, or it is *awaited* and comes with *reopen*), *list*; *attach* (here are pipes for what it says from now
on; answered with its stdin or its terminal) and *close_input* (there will be no more for its stdin).  A request that
fails is answered with ``error``;
a program's failing step with ``failed`` and ``errno``.  Messages are JSON in packets of a SOCK_SEQPACKET Unix socket,
descriptors ride along (SCM_RIGHTS).
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any

from kernel.fd import Fd

VERSION = 4
MAX_MESSAGE = 65536
MAX_DESCRIPTORS = 250  # the kernel's SCM_MAX_FD is 253

_ANCILLARY_SIZE = socket.CMSG_LEN(MAX_DESCRIPTORS * array.array("i").itemsize)

Message = dict[str, Any]


def send(connection: socket.socket, message: Message, descriptors: list[int] | None = None) -> None:
    """Send one message; raises ValueError when it is too large for a packet."""
    packet = json.dumps(message, separators=(",", ":")).encode()
    if len(packet) > MAX_MESSAGE or len(descriptors or ()) > MAX_DESCRIPTORS:
        raise ValueError(f"message of {len(packet)} bytes and {len(descriptors or ())} descriptors is too large")
    if descriptors:
        socket.send_fds(connection, [packet], descriptors)
    else:
        connection.send(packet)


def receive(connection: socket.socket) -> tuple[Message, list[Fd]] | None:
    """The next message and its descriptors, owned; None when the other side is gone."""
    try:
        # Not recv_fds, which forgets its flags (CPython 3.11): every launch would inherit all others' files.
        packet, ancillary, _, _ = connection.recvmsg(MAX_MESSAGE, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    numbers = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) // numbers.itemsize * numbers.itemsize])
    descriptors = [Fd(number) for number in numbers]
    if not packet:
        return None
    message = json.loads(packet)
    assert isinstance(message, dict)
    return message, descriptors
