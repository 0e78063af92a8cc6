"""From a container's pipe or terminal to its log: never blocking the writer, never losing or repeating a line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from kernel.fd import Fd, tee
from runtime.monitor import log
from runtime.monitor.ledger import IDLE, WRITING, Slot, Unfinished
from runtime.monitor.log_file import LogFile, find_by_inode

BATCH = 65536
BATCHES = 16
HOLD_SECONDS = 0.25
#: What a pipe holds at most (fs.pipe-max-size): what a process had written when it ended is no more than this.
DRAIN_LIMIT = 1 << 20
NAMES = {1: b"stdout", 2: b"stderr"}


class Viewer(Protocol):
    """Somebody who looks on at a stream (``runtime.monitor.viewers``)."""

    @property
    def behind_since(self) -> float | None: ...
    def show(self, batch: bytes) -> None: ...


class Stream:
    """One source of output."""

    #: Told of by the kernel at each write, rather than for as long as there is something.
    edge_triggered = False
    #: Since when the start of a line waits for its rest, by CLOCK_MONOTONIC; None when none does.
    holding_since: float | None = None
    #: 1 for stdout and for a terminal, 2 for stderr.
    number = 1
    is_terminal = False

    def __init__(self, source: Fd) -> None:
        self.source = source
        self.viewers: list[Viewer] = []
        os.set_blocking(source.fileno(), False)

    @property
    def is_held(self) -> bool:
        """Whether a viewer has yet to take what was moved before."""
        return any(viewer.behind_since is not None for viewer in self.viewers)

    def pump(self, *, flush: bool = False) -> bool:
        """Move what is there, a bounded number of batches; True while the source is open, False once it has ended.

        With *flush*, the start of a line does not wait for its rest.  What is held moves nothing.
        """
        moved = -1
        for _ in range(BATCHES + 1):
            if self.is_held:
                return True
            moved = self._move(flush=flush)
            if moved <= 0:
                break
        return moved != 0

    def drain(self) -> None:
        """Move all that is there now, without waiting; what somebody goes on writing meanwhile is not waited out."""
        left = DRAIN_LIMIT
        while left > 0 and (moved := self._move(flush=True)) > 0:
            left -= moved

    def close(self) -> None:
        self.source.close()

    def _show(self, batch: bytes) -> None:
        for viewer in self.viewers:
            viewer.show(batch)

    def _move(self, *, flush: bool) -> int:
        """Move one batch: how many bytes, 0 at the end of the source, -1 when there is nothing to move now."""
        raise NotImplementedError


class PipeToLog(Stream):
    """A pipe whose lines go to a log, exactly once even over a kill of this process (``ledger``).

    The pipe itself keeps the start of a line until the rest is written, for ``HOLD_SECONDS`` at most: a
    program that writes a line in pieces gets one entry, and a prompt is still seen.  Who looks on sees it at once.
    """

    edge_triggered = True

    def __init__(self, source: Fd, number: int, file: LogFile, slot: Slot, scratch: tuple[Fd, Fd]) -> None:
        super().__init__(source)
        self.number = number
        self._name = NAMES[number]
        self._file = file
        self._slot = slot
        self._scratch = scratch

    def recover(self, directory: Fd | None = None) -> None:
        """Finish what a killed monitor had begun; its log may have been renamed since, in *directory*."""
        left = self._slot.unfinished()
        if left.phase == IDLE:
            return
        if left.phase == WRITING and not self._is_whole(left, directory):
            self._slot.done()
            return
        if not left.was_taken:
            self._slot.take(self.source.fileno(), left.batch)
        self._slot.done()

    def _is_whole(self, left: Unfinished, directory: Fd | None) -> bool:
        """Whether all entries are in the log that they were for; of others what is there is taken back."""
        if left.inode == self._file.inode:
            return _is_or_cut(self._file, left)
        renamed = None if directory is None else find_by_inode(directory, left.inode)
        if renamed is None:
            return False
        try:
            return _is_or_cut(renamed, left)
        finally:
            renamed.close()

    def _move(self, *, flush: bool) -> int:
        reader, writer = self._scratch
        count = tee(self.source, writer, BATCH)
        if count <= 0:
            return count
        batch = _whole_lines(_read_all(reader, count), flush=flush or bool(self.viewers))
        if not batch:
            self.holding_since = self.holding_since or time.monotonic()
            return -1
        self.holding_since = None
        text = log.entries(batch, self._name, time.time_ns())
        self._slot.begin(batch, len(text), self._file.size, self._file.inode)
        self._file.append(text)
        self._slot.wrote()
        self._slot.take(self.source.fileno(), len(batch))
        self._slot.done()
        self._show(batch)
        return len(batch)


def _is_or_cut(file: LogFile, left: Unfinished) -> bool:
    is_whole = file.size == left.log_size + left.length
    if not is_whole:
        file.cut(left.log_size)
    return is_whole


def _read_all(reader: Fd, count: int) -> bytes:
    """The *count* bytes that are in the scratch pipe, to the last one.

    A container can make its end a pipe of packets (O_DIRECT), of which a read(2) gives one at a time; what stayed
    behind would be in the next stream's log, which is another container's.
    """
    batch = os.read(reader.fileno(), count)
    while len(batch) < count:
        batch += os.read(reader.fileno(), count - len(batch))
    return batch


def _whole_lines(batch: bytes, *, flush: bool) -> bytes:
    """What of *batch* is to be written now: up to its last newline, or all when a line is too long to wait for."""
    if flush:
        return batch
    end = batch.rfind(b"\n") + 1
    return batch[:end] if end or len(batch) < log.MAX_LINE else batch


class Read(Stream):
    """A source that is read plainly: a terminal, or output that somebody waits for."""

    def __init__(self, source: Fd, sink: Callable[[bytes], None]) -> None:
        super().__init__(source)
        self._sink = sink

    def _move(self, *, flush: bool) -> int:
        del flush  # nothing is held back here
        try:
            batch = os.read(self.source.fileno(), BATCH)
        except BlockingIOError:
            return -1
        except OSError:  # EIO: the last process has closed its terminal
            return 0
        if batch:
            self._sink(batch)
            self._show(batch)
        return len(batch)


class TerminalToLog(Read):
    """A terminal's output, all of it "stdout"; a terminal cannot be looked at without reading, so a kill may lose one batch."""

    is_terminal = True

    def __init__(self, source: Fd, file: LogFile) -> None:
        super().__init__(source, lambda batch: file.append(log.entries(batch, NAMES[1], time.time_ns())))


def capture(source: Fd, target: Fd, limit: int) -> Read:
    """Up to *limit* bytes into *target*; what is beyond is discarded and the writer goes on (CVE-2022-1708)."""
    left = [limit]

    def sink(batch: bytes) -> None:
        piece = batch[: left[0]]
        left[0] -= len(piece)
        while piece:
            piece = piece[os.write(target.fileno(), piece) :]

    return Read(source, sink)
