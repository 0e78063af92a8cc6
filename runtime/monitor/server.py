"""The monitor's loop: one thread, one epoll, and a function for each request (``protocol`` draws them)."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kernel.fd import Fd, pipe
from kernel.report import read_progress
from runtime.container.descriptors import Descriptor
from runtime.monitor import adopt, protocol, streams
from runtime.monitor.daemons import Daemons
from runtime.monitor.launch import Launcher
from runtime.monitor.ledger import Ledger
from runtime.monitor.log_file import Gap, LogFile
from runtime.monitor.viewers import Viewers
from runtime.monitor.watch import Exit, Kind, State, Watch

Reply = tuple[socket.socket, int]


class Monitor:
    def __init__(self, run_dir: Path, listener: socket.socket) -> None:
        self._run_dir = run_dir
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._launcher = Launcher()
        self._ledger = Ledger(run_dir / "monitor.streams")
        self._viewers = Viewers(self._listen, self._unlisten, self._resume)
        self._daemons = Daemons(self._listen, self._unlisten, self._serve, self._disconnect)
        self._scratch = pipe()
        self._watches: dict[str, Watch] = {}
        self._waiting: dict[str, Reply] = {}
        self._forgetting: dict[str, list[Reply]] = {}
        self._held: dict[streams.Stream, Watch] = {}
        self._found = adopt.find_reapers(run_dir)
        self._requests: dict[str, Callable[[dict[str, Any], list[Fd], Reply], None]] = {
            "hello": self._greet,
            "launch": self._launch,
            "start": self._start,
            "signal": self._signal,
            "reopen": self._reopen,
            "attach": self._attach_viewers,
            "close_input": self._close_input,
            "forget": self._forget,
            "adopt": self._adopt,
            "list": self._list,
        }
        self._listen(listener.fileno(), lambda: self._daemons.accept(listener))

    def run(self) -> None:
        """Serve until this process is killed."""
        while True:
            self._flush_held()
            self._viewers.cut_off()
            ready = [(number, self._handlers.get(number)) for number, _ in self._wait()]
            for number, handler in ready:
                # An earlier one of this batch may have closed the number, or given it to somebody else.
                if handler is not None and self._handlers.get(number) is handler:
                    handler()

    def _wait(self) -> list[tuple[int, int]]:
        """What has happened.  While nothing has, and no start is under way, there is time to prepare the next."""
        if not self._launcher.is_prepared and not self._waiting:
            if happened := self._epoll.poll(0):
                return happened
            self._launcher.prepare()
        return self._epoll.poll(self._patience())

    # The loop's own table.

    def _listen(self, number: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._epoll.register(number, events)
        self._handlers[number] = handler

    def _unlisten(self, number: int) -> None:
        if self._handlers.pop(number, None) is not None:
            self._epoll.unregister(number)

    # The daemon's side.

    def _serve(self, connection: socket.socket, request: protocol.Message, files: list[Fd]) -> None:
        reply: Reply = (connection, request["seq"])
        try:
            self._requests[request["op"]](request, files, reply)
        except ValueError as error:  # descriptors got lost on the way: there are too many open here
            self._answer(reply, error=str(error), errno=errno.EMFILE)
        except OSError as error:
            self._answer(
                reply, error=f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror), errno=error.errno
            )
        except KeyError as error:
            self._answer(reply, error=f"no such process: {error.args[0]}", unknown=True)

    def _disconnect(self, connection: socket.socket) -> None:
        self._waiting = {key: reply for key, reply in self._waiting.items() if reply[0] is not connection}
        for key, replies in self._forgetting.items():
            self._forgetting[key] = [reply for reply in replies if reply[0] is not connection]

    def _answer(self, reply: Reply | None, file: Fd | None = None, **content: Any) -> None:
        if reply is not None:
            self._daemons.send(reply[0], {"seq": reply[1], **content}, file)

    # Requests.

    def _greet(self, _request: dict[str, Any], _files: list[Fd], reply: Reply) -> None:
        self._answer(reply, version=protocol.VERSION)
        self._daemons.catch_up(reply[0])

    def _launch(self, request: dict[str, Any], files: list[Fd], reply: Reply) -> None:
        sinks = [files.pop() for _ in range(request["sinks"])][::-1]
        watch, ends = self._launcher.launch(request, files)
        try:
            self._attach(watch, ends, request, sinks)
        except OSError:
            watch.end_reaper()
            self._listen(watch.reaper.fileno(), partial(self._bury, watch))
            raise
        self._watches[watch.id] = watch
        self._waiting[watch.id] = reply
        self._listen(watch.ready.fileno(), lambda: self._on_ready(watch))

    def _start(self, request: dict[str, Any], _files: list[Fd], reply: Reply) -> None:
        watch = self._watches[request["id"]]
        if watch.forgetting or watch.id in self._waiting:
            raise KeyError(watch.id)
        if watch.state is not State.CREATED:  # asked again, after another monitor had done it
            outcome = read_progress(watch.report)
            self._answer(reply, failed=outcome.failed, errno=outcome.errno, pid=outcome.pid)
            return
        self._waiting[watch.id] = reply
        watch.release()

    def _signal(self, request: dict[str, Any], _files: list[Fd], reply: Reply) -> None:
        delivered = self._watches[request["id"]].send_signal(request["signal"])
        self._answer(reply, delivered=delivered)

    def _reopen(self, request: dict[str, Any], files: list[Fd], reply: Reply) -> None:
        watch = self._watches[request["id"]]
        if watch.log is None:
            watch.log = LogFile(None, partial(self._on_gap, watch.id))
        watch.log.close()
        watch.log.replace(files[0])
        self._answer(reply)

    def _attach_viewers(self, request: dict[str, Any], files: list[Fd], reply: Reply) -> None:
        """Show the process's output in pipes of the daemon's from now on; the answer has its stdin, or its terminal."""
        watch = self._watches[request["id"]]
        if watch.state is not State.RUNNING:
            raise KeyError(watch.id)
        by_number = {stream.number: stream for stream in watch.streams}
        sinks = dict(zip(request["streams"], files, strict=True))
        for number in sinks.keys() - by_number.keys():  # the process has closed it: its end is all there is to see
            sinks.pop(number).close()
        self._viewers.add(watch, [(by_number[number], file) for number, file in sinks.items()])
        terminal = next((stream.source for stream in watch.streams if stream.is_terminal), None)
        self._answer(reply, terminal or watch.input)

    def _close_input(self, request: dict[str, Any], _files: list[Fd], reply: Reply) -> None:
        """Close the process's stdin for good, the reaper's copy too (``reaper.let_go_of_input``)."""
        watch = self._watches[request["id"]]
        if watch.input is not None and watch.state is State.RUNNING:
            watch.input.close()
            watch.input = None
            watch.release()
        self._answer(reply)

    def _list(self, _request: dict[str, Any], _files: list[Fd], reply: Reply) -> None:
        self._answer(reply, watched=list(self._watches), found=[os.fspath(path) for path in self._found])

    def _adopt(self, request: dict[str, Any], files: list[Fd], reply: Reply) -> None:
        """The daemon tells what a found reaper is for; or asks how one stands that this monitor started itself."""
        known = self._watches.get(request["id"])
        if known is None:
            found = self._found.pop(Path(request["run_dir"]), None)
            if found is None:
                self._answer(reply, state=None)
                return
            try:
                known, ends = adopt.take_over(found, request["id"], Kind(request["kind"]))
            except OSError:  # it has just ended
                self._answer(reply, state=None)
                return
            known.state = State.RUNNING if known.kind is Kind.PAUSE else State.CREATED
            self._watches[known.id] = known
            self._attach(known, ends, request, files)
            directory = files[1] if request["output"] == "log" and len(files) > 1 else None
            for stream in known.streams:
                if isinstance(stream, streams.PipeToLog):
                    stream.recover(directory)
            if directory is not None:
                directory.close()
            self._listen(known.ready.fileno(), lambda: self._on_ready(known))
            if known.has_exit():
                self._on_done(known)
            else:
                self._read_ready(known)
        ended = known.exit
        self._answer(
            reply, state=known.state, pid=known.pid(), code=ended.code if ended else None, at_ns=ended.at_ns if ended else 0
        )

    def _forget(self, request: dict[str, Any], _files: list[Fd], reply: Reply) -> None:
        """End the reaper; of a process that still runs, end that first."""
        watch = self._watches.get(request["id"])
        if watch is None:
            self._ledger.free(request["id"])  # of one whose reaper ended while there was no monitor
            found = self._found.pop(Path(request["run_dir"]), None)
            if found is None:
                self._answer(reply)
                return
            try:
                watch, _ = adopt.take_over(found, request["id"], Kind.EXEC)
            except OSError:  # it has just ended
                self._answer(reply)
                return
            self._watches[watch.id] = watch
            self._listen(watch.done.fileno(), lambda: self._on_done(watch))
            self._listen(watch.reaper.fileno(), lambda: self._on_reaper_gone(watch))
        watch.forgetting = True
        self._forgetting.setdefault(watch.id, []).append(reply)
        self._refuse(watch)
        if watch.state is State.ENDED:
            self._drop(watch)
        elif not watch.send_signal(9) and not watch.pid():
            watch.end_reaper()  # there is no process yet, and now there will be none

    def _refuse(self, watch: Watch) -> None:
        """Tell who still waits for the process to get on that it will not."""
        self._answer(self._waiting.pop(watch.id, None), error=f"{watch.id} is being ended", unknown=True)

    # What the watched do.

    def _attach(self, watch: Watch, ends: dict[int, Fd], request: dict[str, Any], sinks: list[Fd]) -> None:
        """Connect the process's streams to where they go, and listen to all of it."""
        watch.input = ends.pop(Descriptor.INPUT, None)
        is_log = request["output"] == "log"
        watch.log = LogFile(sinks[0] if sinks else None, partial(self._on_gap, watch.id)) if is_log else None
        watch.sinks = [] if is_log else sinks
        for descriptor, file in ends.items():
            number = 1 if descriptor == Descriptor.OUTPUT else 2
            stream: streams.Stream
            if watch.log is None:
                stream = streams.capture(file, sinks[min(number, len(sinks)) - 1], request["limit"])
            elif request["terminal"]:
                stream = streams.TerminalToLog(file, watch.log)
            else:
                stream = streams.PipeToLog(file, number, watch.log, self._ledger.slot(watch.id, number), self._scratch)
            watch.streams.append(stream)
            self._resume(watch, stream)
        self._listen(watch.done.fileno(), lambda: self._on_done(watch))
        self._listen(watch.reaper.fileno(), lambda: self._on_reaper_gone(watch))

    def _resume(self, watch: Watch, stream: streams.Stream) -> None:
        """Listen to a stream, if that is not done already."""
        if stream.source.fileno() in self._handlers:
            return
        events = select.EPOLLIN | select.EPOLLET if stream.edge_triggered else select.EPOLLIN
        self._listen(stream.source.fileno(), partial(self._on_output, watch, stream), events)

    def _on_output(self, watch: Watch, stream: streams.Stream, *, flush: bool = False) -> None:
        try:
            is_open = stream.pump(flush=flush)
        except OSError:  # of a source that a container made strange, or a sink without room: nobody else's matter
            is_open = False
        if not is_open:
            self._unlisten(stream.source.fileno())
            watch.streams.remove(stream)
            self._held.pop(stream, None)
            self._viewers.end(watch, stream)
            stream.close()
            return
        if stream.viewers and self._viewers.hold(stream):
            self._unlisten(stream.source.fileno())
            self._held.pop(stream, None)
            return
        if stream.holding_since is not None:
            self._held[stream] = watch
        elif stream.edge_triggered:
            self._held.pop(stream, None)
            # There may be more than one turn's worth: changing the registration makes the kernel tell again.
            self._epoll.modify(stream.source.fileno(), select.EPOLLIN | select.EPOLLET)

    def _on_gap(self, watch_id: str, gap: Gap) -> None:
        self._daemons.tell("log", id=watch_id, error=gap.error, lines=gap.lines, bytes=gap.bytes)

    def _patience(self) -> float | None:
        """Seconds until the start of some line has waited long enough for its rest, or a viewer been waited for."""
        oldest = min((stream.holding_since for stream in self._held if stream.holding_since is not None), default=None)
        held = None if oldest is None else max(0.001, oldest + streams.HOLD_SECONDS - time.monotonic())
        return min((wait for wait in (held, self._viewers.patience()) if wait is not None), default=None)

    def _flush_held(self) -> None:
        due = time.monotonic() - streams.HOLD_SECONDS
        for stream, watch in tuple(self._held.items()):
            if stream.holding_since is not None and stream.holding_since <= due:
                self._on_output(watch, stream, flush=True)

    def _read_ready(self, watch: Watch) -> None:
        """Take all that the ready pipe says now: one byte, and its end."""
        for _ in range(2):
            if watch.ready.fileno() in self._handlers:
                self._on_ready(watch)

    def _on_ready(self, watch: Watch) -> None:
        try:
            said = os.read(watch.ready.fileno(), 1)
        except BlockingIOError:
            return
        if said:
            watch.state = State.RUNNING if watch.kind is Kind.PAUSE else State.CREATED
            self._answer(self._waiting.pop(watch.id, None), pid=watch.pid())
            if watch.forgetting:
                watch.send_signal(9)
            return
        self._unlisten(watch.ready.fileno())
        outcome = read_progress(watch.report)
        reply = self._waiting.pop(watch.id, None)
        if outcome.failed is not None:
            self._answer(reply, failed=outcome.failed, errno=outcome.errno, pid=outcome.pid)
        elif outcome.pid == 0:
            self._answer(reply, failed=outcome.at, errno=outcome.errno or 5, pid=0)
        else:
            if watch.state is not State.ENDED:
                watch.state = State.RUNNING
            self._answer(reply, pid=outcome.pid)

    def _on_done(self, watch: Watch) -> None:
        self._end(watch, watch.read_exit())

    def _on_reaper_gone(self, watch: Watch) -> None:
        """The reaper itself ended: its program failed before the clone, or somebody killed it."""
        self._end(watch, watch.read_exit())

    def _end(self, watch: Watch, ended: Exit) -> None:
        """Write out all output that is there, then say that the process ended."""
        self._unlisten(watch.done.fileno())
        self._unlisten(watch.reaper.fileno())
        self._read_ready(watch)
        self._refuse(watch)
        for stream in watch.streams:
            with contextlib.suppress(OSError):  # as in _on_output
                stream.drain()
            self._held.pop(stream, None)
        self._viewers.end(watch)
        watch.state, watch.exit = State.ENDED, ended
        if watch.forgetting:
            self._drop(watch)
            return
        self._daemons.broadcast("exited", id=watch.id, code=ended.code, at_ns=ended.at_ns)

    def _drop(self, watch: Watch) -> None:
        """Let go of it.  Its reaper holds nothing of the container's, so nobody waits for its end (0.1 ms)."""
        for stream in watch.streams:
            self._unlisten(stream.source.fileno())
            self._held.pop(stream, None)
        for file in (watch.ready, watch.done, watch.reaper):
            self._unlisten(file.fileno())
        watch.end_reaper()
        watch.close()
        self._ledger.free(watch.id)
        del self._watches[watch.id]
        for reply in self._forgetting.pop(watch.id, ()):
            self._answer(reply)
        self._listen(watch.reaper.fileno(), partial(self._bury, watch))

    def _bury(self, watch: Watch) -> None:
        self._unlisten(watch.reaper.fileno())
        watch.bury_reaper()
