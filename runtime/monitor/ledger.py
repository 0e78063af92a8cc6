"""What a monitor was doing to each stream, in memory that outlives it.

Output is first *looked at* (tee(2)), then written to the log, then taken out of the pipe.  A monitor
can be killed between any two of these, and the next must neither lose nor repeat a line.  So each
stream has a slot in one shared file:

```
    IDLE ── begin(batch, log) ──> WRITING ── wrote() ──> WRITTEN ── the pipe is read ── done() ──> IDLE
```

- killed in WRITING: nothing was taken; what reached the log is cut off again, unless it is all there
- killed in WRITTEN: was the pipe read?  The kernel itself answers: the read puts the batch's first
  byte into the slot, where its complement stood.

The phase is one byte, stored last: a kill can fall between any two stores, not into one.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

IDLE, WRITING, WRITTEN = 0, 1, 2
SLOT_SIZE, SLOT_COUNT = 128, 8192
_PHASE, _EVIDENCE, _EXPECTED, _STREAM, _FACTS, _ID = 0, 1, 2, 3, 8, 40
_LAYOUT = struct.Struct("<QQQQ")  # batch bytes, log size before, entry bytes, the log's inode


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a slot says that a killed monitor was about."""

    phase: int
    batch: int
    log_size: int
    length: int
    inode: int
    was_taken: bool


class Slot:
    """One stream's place in the ledger."""

    __slots__ = ("_at", "_memory")

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self._memory = memory
        self._at = number * SLOT_SIZE

    @property
    def number(self) -> int:
        return self._at // SLOT_SIZE

    def begin(self, batch: bytes, length: int, log_size: int, inode: int) -> None:
        """*length* bytes of entries are about to be appended to a log of *log_size* bytes."""
        at, memory = self._at, self._memory
        _LAYOUT.pack_into(memory, at + _FACTS, len(batch), log_size, length, inode)
        memory[at + _EXPECTED] = batch[0]
        memory[at + _EVIDENCE] = batch[0] ^ 0xFF
        memory[at + _PHASE] = WRITING

    def wrote(self) -> None:
        """The entries are in the log."""
        self._memory[self._at + _PHASE] = WRITTEN

    def done(self) -> None:
        """The batch is out of the pipe."""
        self._memory[self._at + _PHASE] = IDLE

    def take(self, pipe: int, count: int) -> None:
        """Read *count* bytes out of *pipe*, the first of them into the slot as evidence.

        There may be fewer by now: the container can open its own end for reading.  What it takes is its own loss.
        """
        with memoryview(self._memory)[self._at + _EVIDENCE : self._at + _EVIDENCE + 1] as evidence:
            try:
                taken = os.readv(pipe, [evidence, bytearray(count - 1)] if count > 1 else [evidence])
                while 0 < taken < count:  # a pipe of packets gives one at a time
                    piece = len(os.read(pipe, count - taken))
                    taken = taken + piece if piece else count
            except BlockingIOError:
                return

    def unfinished(self) -> Unfinished:
        """What the last user of this slot left undone."""
        at, memory = self._at, self._memory
        batch, log_size, length, inode = _LAYOUT.unpack_from(memory, at + _FACTS)
        taken = memory[at + _EVIDENCE] == memory[at + _EXPECTED]
        return Unfinished(memory[at + _PHASE], batch, log_size, length, inode, taken)

    def free(self) -> None:
        """Give the slot back."""
        self._memory[self._at : self._at + SLOT_SIZE] = bytes(SLOT_SIZE)


class Ledger:
    """The file of slots.  Raises OSError when there is no room for it."""

    def __init__(self, path: Path) -> None:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # A store into a page for which a full file system has no room would end us by SIGBUS: have them all now (1 MiB).
            os.posix_fallocate(number, 0, SLOT_SIZE * SLOT_COUNT)
            self._memory = mmap.mmap(number, SLOT_SIZE * SLOT_COUNT)
        finally:
            os.close(number)
        self._used = {self._key(number): number for number in range(SLOT_COUNT) if self._memory[number * SLOT_SIZE + _ID]}

    def slot(self, owner: str, stream: int) -> Slot:
        """The slot of *owner*'s *stream* (1 stdout, 2 stderr), the one it has or a new one."""
        key = (owner.encode()[:64], stream)
        number = self._used.get(key)
        if number is None:
            free = (number for number in range(SLOT_COUNT) if not self._memory[number * SLOT_SIZE + _ID])
            number = next(free, None)
            if number is None:
                raise OSError(errno.ENOSPC, f"a monitor watches {SLOT_COUNT} streams at most")
            at = number * SLOT_SIZE
            self._memory[at + _STREAM] = stream
            self._memory[at + _ID : at + _ID + len(key[0])] = key[0]
            self._used[key] = number
        return Slot(self._memory, number)

    def free(self, owner: str) -> None:
        """Give back all of *owner*'s slots."""
        for stream in (1, 2):
            number = self._used.pop((owner.encode()[:64], stream), None)
            if number is not None:
                Slot(self._memory, number).free()

    def _key(self, number: int) -> tuple[bytes, int]:
        at = number * SLOT_SIZE
        return bytes(self._memory[at + _ID : at + _ID + 64]).rstrip(b"\0"), self._memory[at + _STREAM]
