"""Those who look on at a container's output besides its log: an attached client's pipe each.

The one thing to know is who waits for whom.  A client gets all bytes, so a stream goes on only when each of its viewers
has taken what was there before: their pipes, of a megabyte, are the buffer, and a container that writes faster than its
client reads is slowed down, as by every other terminal.  But a client that has gone to sleep must not stop a container,
or its log: who takes nothing for ``PATIENCE_SECONDS`` is cut off, and sees the end of all its pipes.  Streams that it
does not look at, and other containers, never wait for it.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kernel.fd import Fd
from runtime.monitor.streams import Stream

if TYPE_CHECKING:
    from runtime.monitor.outputs import Output

PATIENCE_SECONDS = 5.0


class Viewer:
    """One pipe; what does not fit is kept, at most one batch more than the pipe holds, and what is there at the end."""

    def __init__(self, stream: Stream, sink: Fd, group: list[Viewer]) -> None:
        os.set_blocking(sink.fileno(), False)
        self.sink = sink
        #: The pipes of the same client.
        self.group = group
        self.stream: Stream | None = stream
        #: Its stream has ended: it goes as well when it has taken all.
        self.is_ending = False
        self.is_gone = False
        self.behind_since: float | None = None
        self._rest = b""

    def show(self, batch: bytes) -> None:
        """Send *batch*, or keep it; never blocks and never fails."""
        if not self.is_gone:
            self._rest += batch
            self.go_on()

    def go_on(self) -> None:
        """Send of what is kept as much as it takes."""
        before = len(self._rest)
        try:
            while self._rest:
                self._rest = self._rest[os.write(self.sink.fileno(), self._rest) :]
        except BlockingIOError:
            if self.behind_since is None or len(self._rest) < before:
                self.behind_since = time.monotonic()
            return
        except OSError:  # it has gone
            self.is_gone, self._rest = True, b""
        self.behind_since = None


class Viewers:
    """All of them, in one thread's loop: *listen* and *unlisten* are its own, *resume* has a stream go on."""

    def __init__(
        self,
        listen: Callable[[int, Callable[[], None], int], None],
        unlisten: Callable[[int], None],
        resume: Callable[[Output, Stream], None],
    ) -> None:
        self._listen = listen
        self._unlisten = unlisten
        self._resume = resume
        self._all: dict[Viewer, Output] = {}
        self._late: set[Viewer] = set()

    def add(self, output: Output, sinks: Iterable[tuple[Stream, Fd]]) -> None:
        """Show one client what comes from each stream from now on, until its end or that of *output*."""
        group: list[Viewer] = []
        for stream, sink in sinks:
            viewer = Viewer(stream, sink, group)
            group.append(viewer)
            stream.viewers.append(viewer)
            self._all[viewer] = output
            self._wait_for(viewer)

    def hold(self, stream: Stream) -> bool:
        """See to the viewers of a stream that has moved; whether it has to wait for one."""
        for viewer in [each for each in self._all if each.stream is stream]:
            self._settle(viewer)
        return stream.is_held

    def end(self, output: Output, stream: Stream | None = None) -> None:
        """There will be no more from *stream*, or from any of *output*: let the viewers go when they have taken all."""
        for viewer, owner in tuple(self._all.items()):
            if owner is output and (stream is None or viewer.stream is stream):
                viewer.is_ending = True
                self._leave(viewer)
                self._settle(viewer)

    def patience(self) -> float | None:
        """Seconds until one of them has been waited for long enough."""
        oldest = min((viewer.behind_since for viewer in self._late if viewer.behind_since is not None), default=None)
        return None if oldest is None else max(0.001, oldest + PATIENCE_SECONDS - time.monotonic())

    def cut_off(self) -> None:
        """Do without those who take nothing."""
        due = time.monotonic() - PATIENCE_SECONDS
        for viewer in tuple(self._late):
            if viewer.behind_since is not None and viewer.behind_since <= due:
                for each in [each for each in viewer.group if each in self._all]:
                    self._drop(each)

    def _settle(self, viewer: Viewer) -> None:
        if viewer.is_gone or (viewer.is_ending and viewer.behind_since is None):
            self._drop(viewer)
        elif (viewer.behind_since is not None) != (viewer in self._late):
            self._unlisten(viewer.sink.fileno())
            self._wait_for(viewer)

    def _wait_for(self, viewer: Viewer) -> None:
        """Hear when it takes more, if it is behind, and in any case when it goes: of that the kernel tells unasked."""
        if viewer.behind_since is None:
            self._late.discard(viewer)
            self._listen(viewer.sink.fileno(), lambda: self._drop(viewer), 0)
        else:
            self._late.add(viewer)
            self._listen(viewer.sink.fileno(), lambda: self._on_room(viewer), select.EPOLLOUT)

    def _on_room(self, viewer: Viewer) -> None:
        viewer.go_on()
        if viewer.behind_since is None and not viewer.is_gone:
            self._let_go_on(self._all[viewer], viewer.stream)
        self._settle(viewer)

    def _drop(self, viewer: Viewer) -> None:
        self._late.discard(viewer)
        self._unlisten(viewer.sink.fileno())
        viewer.sink.close()
        self._leave(viewer)
        del self._all[viewer]

    def _leave(self, viewer: Viewer) -> None:
        """Look on no more, which may be all that the stream has waited for."""
        stream, viewer.stream = viewer.stream, None
        if stream is not None:
            stream.viewers.remove(viewer)
            self._let_go_on(self._all[viewer], stream)

    def _let_go_on(self, output: Output, stream: Stream | None) -> None:
        if stream is not None and not stream.is_held and stream in output.streams:
            self._resume(output, stream)
