"""What comes out of the processes whose streams are moved by one thread: into logs on one disk, or to who waits for it."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from kernel.fd import Fd, open_path, pipe
from runtime.container.descriptors import Descriptor
from runtime.monitor import streams
from runtime.monitor.ledger import Slot
from runtime.monitor.log_file import Gap, LogFile
from runtime.monitor.loop import Loop
from runtime.monitor.viewers import Viewers


@dataclass(slots=True, eq=False)
class Output:
    """The streams of one process, and its log.  Touched by the thread that moves them alone, once it has them."""

    id: str
    streams: list[streams.Stream] = field(default_factory=list)
    log: LogFile | None = None


@dataclass(frozen=True, slots=True)
class Ends:
    """What a log is made of, by the numbers of the monitor's main thread, which keeps all of it until the process is let go.

    *log* is a handle on the file and not open for writing (O_PATH), see ``disk``; None when nothing is kept.
    """

    streams: Mapping[int, Fd]
    slots: Mapping[int, Slot]
    log: Fd | None
    is_terminal: bool
    #: Where the log may have another name by now: for the first time after a monitor's end.
    directory: Fd | None = None


class Outputs:
    """Moves them.  *bring* makes a descriptor of the main thread's one of this thread's; *tell* hears of gaps in logs."""

    def __init__(self, loop: Loop, bring: Callable[[Fd], Fd], tell: Callable[[str, Gap], None]) -> None:
        self._loop = loop
        self._bring = bring
        self._tell = tell
        self._viewers = Viewers(loop.listen, loop.unlisten, self.resume)
        self._scratch = pipe()
        self._held: dict[streams.Stream, Output] = {}

    # What the monitor asks for.

    def add(self, output: Output, ends: Ends) -> None:
        """Move the streams of *ends* to its log from now on; finish first what a killed monitor had begun."""
        output.log = LogFile(None, partial(self._tell, output.id))
        if ends.log is not None:
            try:
                output.log.replace(_open_again(ends.log, os.O_WRONLY | os.O_APPEND))
            except OSError as error:
                self._tell(output.id, Gap((error.strerror or str(error)).lower()))
        with contextlib.ExitStack() as opened:
            directory = None
            if ends.directory is not None:
                directory = opened.enter_context(_open_again(ends.directory, os.O_RDONLY | os.O_DIRECTORY))
            for descriptor, file in ends.streams.items():
                self._add_stream(output, descriptor, self._bring(file), ends, directory)

    def _add_stream(self, output: Output, descriptor: int, source: Fd, ends: Ends, directory: Fd | None) -> None:
        assert output.log is not None
        number = 1 if descriptor == Descriptor.OUTPUT else 2
        stream: streams.Stream
        if ends.is_terminal:
            stream = streams.TerminalToLog(source, output.log)
        else:
            stream = piped = streams.PipeToLog(source, number, output.log, ends.slots[number], self._scratch)
            with contextlib.suppress(OSError):  # a disk that gives an error: what can be had is had
                piped.recover(directory)
        output.streams.append(stream)
        self.resume(output, stream)

    def reopen(self, output: Output, log: Fd, is_wanted: Callable[[], bool]) -> None:
        """Go on in *log*, unless nobody waits for that any more."""
        file = _open_again(log, os.O_WRONLY | os.O_APPEND)
        if not is_wanted():
            file.close()
            return
        assert output.log is not None
        output.log.close()
        output.log.replace(file)

    def view(self, output: Output, sinks: Mapping[int, Fd], is_wanted: Callable[[], bool]) -> None:
        """Show the streams, by number, in *sinks* as well; of one that the process has closed there is the end to see."""
        if is_wanted():
            by_number = {stream.number: stream for stream in output.streams}
            pairs = [(by_number[number], self._bring(file)) for number, file in sinks.items() if number in by_number]
            self._viewers.add(output, pairs)

    def drain(self, output: Output) -> None:
        """Move all that is there: the process has ended."""
        for stream in output.streams:
            with contextlib.suppress(OSError):  # as in _on_output
                stream.drain()
            self._held.pop(stream, None)
        self._viewers.end(output)

    def drop(self, output: Output) -> None:
        """Let go of it."""
        self._viewers.end(output)
        for stream in output.streams:
            self._loop.unlisten(stream.source.fileno())
            self._held.pop(stream, None)
            stream.close()
        output.streams.clear()
        if output.log is not None:
            output.log.close()

    # What happens.

    def resume(self, output: Output, stream: streams.Stream) -> None:
        """Listen to a stream, if that is not done already."""
        if self._loop.hears(stream.source.fileno()):
            return
        events = select.EPOLLIN | select.EPOLLET if stream.edge_triggered else select.EPOLLIN
        self._loop.listen(stream.source.fileno(), partial(self._on_output, output, stream), events)

    def _on_output(self, output: Output, stream: streams.Stream, *, flush: bool = False) -> None:
        try:
            is_open = stream.pump(flush=flush)
        except OSError:  # of a source that a container made strange, or a sink without room: nobody else's matter
            is_open = False
        if not is_open:
            self._loop.unlisten(stream.source.fileno())
            output.streams.remove(stream)
            self._held.pop(stream, None)
            self._viewers.end(output, stream)
            stream.close()
            return
        if stream.viewers and self._viewers.hold(stream):
            self._loop.unlisten(stream.source.fileno())
            self._held.pop(stream, None)
            return
        if stream.holding_since is not None:
            self._held[stream] = output
        elif stream.edge_triggered:
            self._held.pop(stream, None)
            # There may be more than one turn's worth.
            self._loop.tell_again(stream.source.fileno())

    def patience(self) -> float | None:
        """Seconds until the start of some line has waited long enough for its rest, or a viewer been waited for."""
        oldest = min((stream.holding_since for stream in self._held if stream.holding_since is not None), default=None)
        held = None if oldest is None else max(0.001, oldest + streams.HOLD_SECONDS - time.monotonic())
        return min((wait for wait in (held, self._viewers.patience()) if wait is not None), default=None)

    def do_what_is_due(self) -> None:
        """Write the starts of lines that have waited long enough; do without viewers that take nothing."""
        due = time.monotonic() - streams.HOLD_SECONDS
        for stream, output in tuple(self._held.items()):
            if stream.holding_since is not None and stream.holding_since <= due:
                self._on_output(output, stream, flush=True)
        self._viewers.cut_off()


def _open_again(handle: Fd, flags: int) -> Fd:
    """The file of *handle*, which is of the main thread's table: the one that /proc/self shows."""
    return open_path(f"/proc/self/fd/{handle.fileno()}", flags)
