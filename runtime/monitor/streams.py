"""From a container's pipe or terminal to its log: never blocking the writer, never losing or repeating a line."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable

from kernel.fd import Fd, tee
from runtime.monitor import log
from runtime.monitor.ledger import IDLE, WRITING, Slot

BATCH = 65536
NAMES = {1: b"stdout", 2: b"stderr"}


class LogFile:
    """An open log file that only this process appends to."""

    def __init__(self, file: Fd | None) -> None:
        self.lost_bytes = 0
        self.replace(file)

    def replace(self, file: Fd | None) -> None:
        """Go on in *file*; None means that nothing is kept and the container is only drained."""
        self._file = file
        status = None if file is None else os.fstat(file.fileno())
        self.size, self.inode = (status.st_size, status.st_ino) if status else (0, 0)

    def append(self, content: bytes) -> None:
        """Append *content*.  On a full disk it is dropped and counted: the container must be drained all the same."""
        if self._file is None:
            return
        view = memoryview(content)
        while view:
            try:
                written = os.write(self._file.fileno(), view)
            except OSError:
                self.lost_bytes += len(view)
                return
            self.size += written
            view = view[written:]

    def cut(self, size: int) -> None:
        """Take back what was appended beyond *size*."""
        if self._file is not None and self.size > size:
            os.ftruncate(self._file.fileno(), size)
            self.size = size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Stream:
    """One source of output.  ``pump()`` moves what is there now and says whether the source has ended."""

    def __init__(self, source: Fd) -> None:
        self.source = source
        os.set_blocking(source.fileno(), False)

    def pump(self) -> bool:
        """Move one batch; True while the source is open, False once it has ended."""
        raise NotImplementedError

    def drain(self) -> None:
        """Move all that is there now, without waiting."""
        raise NotImplementedError

    def close(self) -> None:
        self.source.close()


class PipeToLog(Stream):
    """A pipe whose lines go to a log, exactly once even over a kill of this process (``ledger``)."""

    def __init__(self, source: Fd, number: int, file: LogFile, slot: Slot, scratch: tuple[Fd, Fd]) -> None:
        super().__init__(source)
        self._name = NAMES[number]
        self._file = file
        self._slot = slot
        self._scratch = scratch

    def pump(self) -> bool:
        return self._move() != 0

    def drain(self) -> None:
        while self._move() > 0:
            pass

    def recover(self) -> None:
        """Finish what a killed monitor had begun."""
        left = self._slot.unfinished()
        if left.phase == IDLE:
            return
        same_file = left.inode == self._file.inode
        if left.phase == WRITING:
            is_whole = same_file and self._file.size == left.log_size + left.length
            if not is_whole:
                if same_file:
                    self._file.cut(left.log_size)
                self._slot.done()
                return
        if not left.was_taken:
            self._slot.take(self.source.fileno(), left.batch)
        self._slot.done()

    def _move(self) -> int:
        """Move one batch: how many bytes, 0 at the end of the source, -1 when there is nothing now."""
        reader, writer = self._scratch
        count = tee(self.source, writer, BATCH)
        if count <= 0:
            return count
        batch = self._whole_lines(os.read(reader.fileno(), count))
        text = log.entries(batch, self._name, time.time_ns())
        self._slot.begin(batch, len(text), self._file.size, self._file.inode)
        self._file.append(text)
        self._slot.wrote()
        self._slot.take(self.source.fileno(), len(batch))
        self._slot.done()
        return len(batch)

    def _whole_lines(self, batch: bytes) -> bytes:
        """*batch* without a last piece of line, when the rest of that line is in the pipe already."""
        end = batch.rfind(b"\n") + 1
        if end in (0, len(batch)):
            return batch
        waiting = struct.unpack("i", fcntl.ioctl(self.source.fileno(), termios.FIONREAD, bytes(4)))[0]
        return batch[:end] if waiting > len(batch) else batch


class Read(Stream):
    """A source that is read plainly: a terminal, or output that somebody waits for."""

    def __init__(self, source: Fd, sink: Callable[[bytes], None]) -> None:
        super().__init__(source)
        self._sink = sink

    def pump(self) -> bool:
        return self._move() != 0

    def drain(self) -> None:
        while self._move() > 0:
            pass

    def _move(self) -> int:
        try:
            batch = os.read(self.source.fileno(), BATCH)
        except BlockingIOError:
            return -1
        except OSError:  # EIO: the last process has closed its terminal
            return 0
        if batch:
            self._sink(batch)
        return len(batch)


def terminal_to_log(source: Fd, file: LogFile) -> Read:
    """A terminal's output, all of it "stdout"; a terminal cannot be looked at without reading, so a kill may lose one batch."""
    return Read(source, lambda batch: file.append(log.entries(batch, NAMES[1], time.time_ns())))


def capture(source: Fd, target: Fd, limit: int) -> Read:
    """Up to *limit* bytes into *target*; what is beyond is discarded and the writer goes on (CVE-2022-1708)."""
    left = [limit]

    def sink(batch: bytes) -> None:
        piece = batch[: left[0]]
        left[0] -= len(piece)
        while piece:
            piece = piece[os.write(target.fileno(), piece) :]

    return Read(source, sink)
