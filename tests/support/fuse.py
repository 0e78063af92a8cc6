"""A file system that hangs when it is told to: a FUSE server of our own, a thread that keeps files in memory.

What hangs is real: who writes, opens, closes or asks for a size then is in the kernel, uninterruptibly (D state), as
with an NFS server that has gone.  Sources: linux/fuse.h; fs/fuse/dev.c.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kernel import mount
from kernel.fd import Fd, open_path, pipe

ROOT = 1
FATTR_SIZE = 8
(LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RENAME, OPEN, READ, WRITE) = (1, 2, 3, 4, 9, 10, 12, 14, 15, 16)
(STATFS, RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, CREATE) = (17, 18, 20, 25, 26, 27, 28, 29, 35)
(INTERRUPT, DESTROY, BATCH_FORGET, RENAME2) = (36, 38, 42, 45)
UNANSWERED = {FORGET, BATCH_FORGET, INTERRUPT}
LARGEST = 1 << 20


@dataclass
class Node:
    mode: int
    content: bytearray = field(default_factory=bytearray)
    names: dict[bytes, int] = field(default_factory=dict)


class Server(threading.Thread):
    """Serves *device*; while ``hang`` is set requests are taken, and answered when it is not any more."""

    def __init__(self, device: Fd, *only: int) -> None:
        super().__init__(name="fuse", daemon=True)
        self._device = device
        self._nodes = {ROOT: Node(stat.S_IFDIR | 0o755)}
        self._waiting: list[bytes] = []
        self._wake, self._waker = pipe()
        self._is_hanging = self._is_ending = False
        self._only: frozenset[int] = frozenset(only)
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            INIT: lambda _node, _body: struct.pack("<4I2H2I2H2I24x", 7, 31, 65536, 0, 12, 9, LARGEST - 4096, 1, 32, 0, 0, 0),
            LOOKUP: self._lookup,
            GETATTR: lambda node, _body: struct.pack("<QII", 0, 0, 0) + self._attributes(node),
            SETATTR: self._set_attributes,
            MKDIR: lambda node, body: self._make(node, body[8:], stat.S_IFDIR | 0o755),
            CREATE: lambda node, body: self._make(node, body[16:], stat.S_IFREG | 0o640) + bytes(16),
            RENAME: lambda node, body: self._rename(node, body, body[8:]),
            RENAME2: lambda node, body: self._rename(node, body, body[16:]),
            READ: self._read,
            WRITE: self._write,
            READDIR: self._list,
            STATFS: lambda _node, _body: struct.pack("<5Q10I", 1 << 20, 1 << 20, 1 << 20, 1000, 1000, 4096, 255, 4096, *[0] * 7),
            **{code: lambda _node, _body: bytes(16) for code in (OPEN, OPENDIR)},
            **{code: lambda _node, _body: b"" for code in (RELEASE, RELEASEDIR, FLUSH, FSYNC, DESTROY)},
        }

    # The test's side.

    def hang(self, *only: int) -> None:
        """From now on answer nothing, or nothing of *only* these."""
        self._only, self._is_hanging = frozenset(only), True

    def go_on(self) -> None:
        """Answer what waits, and all that comes."""
        self._is_hanging = False
        os.write(self._waker.fileno(), b"x")

    @property
    def waits(self) -> int:
        """How many have not been answered."""
        return len(self._waiting)

    def end(self) -> None:
        self._is_ending = True
        self.go_on()
        self.join()
        for file in (self._wake, self._waker):
            file.close()

    # The server's.

    def run(self) -> None:
        numbers = [self._device.fileno(), self._wake.fileno()]
        while not self._is_ending:
            ready, _, _ = select.select(numbers, [], [])
            if self._wake.fileno() in ready:
                os.read(self._wake.fileno(), 1)
                waiting, self._waiting = self._waiting, []
                for request in waiting:
                    self._serve(request)
            if self._device.fileno() in ready:
                try:
                    self._serve(os.read(self._device.fileno(), LARGEST))
                except OSError:  # unmounted
                    return

    def _serve(self, request: bytes) -> None:
        _, code, unique, node = struct.unpack_from("<IIQQ", request)
        if code in UNANSWERED:
            return
        if self._is_hanging and (not self._only or code in self._only):
            self._waiting.append(request)
            return
        try:
            known = self._answers.get(code)
            answer, failed = (b"", errno.ENOSYS) if known is None else (known(node, request[40:]), 0)
        except OSError as error:
            answer, failed = b"", error.errno or errno.EIO
        try:
            os.write(self._device.fileno(), struct.pack("<IiQ", 16 + len(answer), -failed, unique) + answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # who asked was killed meanwhile
                raise

    def _attributes(self, number: int) -> bytes:
        node = self._nodes[number]
        size = len(node.content)
        return struct.pack("<6Q10I", number, size, 0, 0, 0, 0, 0, 0, 0, node.mode, 1, 0, 0, 0, 4096, 0)

    def _entry(self, number: int) -> bytes:
        return struct.pack("<4QII", number, 0, 0, 0, 0, 0) + self._attributes(number)

    def _lookup(self, node: int, body: bytes) -> bytes:
        number = self._nodes[node].names.get(body.split(b"\0")[0])
        if number is None:
            raise OSError(errno.ENOENT, "no such name")
        return self._entry(number)

    def _make(self, node: int, body: bytes, mode: int) -> bytes:
        number = max(self._nodes) + 1
        self._nodes[number] = Node(mode)
        self._nodes[node].names[body.split(b"\0")[0]] = number
        return self._entry(number)

    def _set_attributes(self, node: int, body: bytes) -> bytes:
        (valid,), (size,) = struct.unpack_from("<I", body), struct.unpack_from("<Q", body, 16)
        if valid & FATTR_SIZE:
            del self._nodes[node].content[size:]
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _rename(self, node: int, body: bytes, names: bytes) -> bytes:
        old, new = names.split(b"\0")[:2]
        self._nodes[struct.unpack_from("<Q", body)[0]].names[new] = self._nodes[node].names.pop(old)
        return b""

    def _read(self, node: int, body: bytes) -> bytes:
        _, at, size = struct.unpack_from("<QQI", body)
        return bytes(self._nodes[node].content[at : at + size])

    def _write(self, node: int, body: bytes) -> bytes:
        _, at, size = struct.unpack_from("<QQI", body)
        self._nodes[node].content[at : at + size] = body[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def _list(self, node: int, body: bytes) -> bytes:
        _, at = struct.unpack_from("<QQ", body)
        entries = b""
        for index, (name, number) in enumerate(list(self._nodes[node].names.items())[at:], at + 1):
            entries += struct.pack("<QQII", number, index, len(name), 0) + name + bytes(-len(name) % 8)
        return entries


@contextmanager
def mounted(directory: Path) -> Iterator[Server]:
    """Such a file system at *directory*."""
    directory.mkdir()
    with open_path("/dev/fuse", os.O_RDWR) as device:
        who = [("rootmode", "40000"), ("user_id", "0"), ("group_id", "0"), ("allow_other", None)]
        options = [("fd", str(device.fileno())), *who]
        with mount.new_filesystem("fuse", options) as made:
            server = Server(device)
            server.start()
            mount.attach(made, directory)
        try:
            yield server
        finally:
            server.go_on()
            mount.unmount(directory)
            server.end()
