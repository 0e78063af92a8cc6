"""The monitor's main thread: one epoll, and a function for each request (``protocol`` draws them).

It waits for nobody: what may wait for a disk is done by a thread for each file system of logs (``disk``).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kernel.fd import Fd
from kernel.report import read_progress
from runtime.container.descriptors import Descriptor
from runtime.monitor import adopt, protocol
from runtime.monitor.daemons import Daemons
from runtime.monitor.launch import Launcher
from runtime.monitor.loop import Loop
from runtime.monitor.places import Places
from runtime.monitor.watch import Exit, Kind, State, Watch

Reply = tuple[socket.socket, int]


class Monitor:
    def __init__(self, run_dir: Path, listener: socket.socket) -> None:
        self._run_dir = run_dir
        self._loop = Loop()
        self._listen, self._unlisten = self._loop.listen, self._loop.unlisten
        self._launcher = Launcher()
        self._daemons = Daemons(self._listen, self._unlisten, self._serve, self._disconnect)
        self._places = Places(run_dir, self._loop, self._daemons.tell)
        self._watches: dict[str, Watch] = {}
        self._waiting: dict[str, Reply] = {}
        self._forgetting: dict[str, list[Reply]] = {}
        self._ending: dict[str, list[Reply]] = {}
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
            self._places.do_what_is_due(self._watches.values())
            self._loop.handle(self._wait())

    def _wait(self) -> list[tuple[int, int]]:
        """What has happened.  While nothing has, and no start is under way, there is time to prepare the next."""
        if not self._launcher.is_prepared and not self._waiting:
            if happened := self._loop.poll(0):
                return happened
            self._launcher.prepare()
        return self._loop.poll(self._places.patience())

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
        for waiting in (self._forgetting, self._ending):
            for key, replies in waiting.items():
                waiting[key] = [reply for reply in replies if reply[0] is not connection]

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
        self._places.reopen(watch, request["device"], files, partial(self._answer, reply))

    def _attach_viewers(self, request: dict[str, Any], files: list[Fd], reply: Reply) -> None:
        """Show the process's output in pipes of the daemon's from now on; the answer has its stdin, or its terminal."""
        watch = self._watches[request["id"]]
        if watch.state is not State.RUNNING:
            raise KeyError(watch.id)
        self._places.view(watch, dict(zip(request["streams"], files, strict=True)), partial(self._answer, reply))

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
            self._listen(known.ready.fileno(), lambda: self._on_ready(known))
            if known.has_exit():
                self._on_done(known)
            else:
                self._read_ready(known)
        if known.id in self._ending:
            self._ending[known.id].append(reply)
        else:
            self._say_standing(known, reply)

    def _say_standing(self, watch: Watch, reply: Reply) -> None:
        ended = watch.exit or Exit(None, 0)
        self._answer(
            reply, state=watch.state, pid=watch.pid(), code=ended.code, at_ns=ended.at_ns, log_is_behind=ended.log_is_behind
        )

    def _forget(self, request: dict[str, Any], _files: list[Fd], reply: Reply) -> None:
        """End the reaper; of a process that still runs, end that first."""
        watch = self._watches.get(request["id"])
        if watch is None:
            self._places.forget(request["id"])  # of one whose reaper ended while there was no monitor
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
        watch.ends, watch.sinks, watch.is_terminal = ends, sinks, request["terminal"]
        self._places.attach(watch, request)
        self._listen(watch.done.fileno(), lambda: self._on_done(watch))
        self._listen(watch.reaper.fileno(), lambda: self._on_reaper_gone(watch))

    def _read_ready(self, watch: Watch) -> None:
        """Take all that the ready pipe says now: one byte, and its end."""
        for _ in range(2):
            if self._loop.hears(watch.ready.fileno()):
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
        self._ending.setdefault(watch.id, [])
        self._places.drain(watch, lambda is_behind: self._say_end(watch, replace(ended, log_is_behind=is_behind)))

    def _say_end(self, watch: Watch, ended: Exit) -> None:
        watch.state, watch.exit = State.ENDED, ended
        for reply in self._ending.pop(watch.id, ()):
            self._say_standing(watch, reply)
        if watch.forgetting:
            self._drop(watch)
            return
        self._daemons.broadcast(
            "exited", id=watch.id, code=ended.code, at_ns=ended.at_ns, log_is_behind=ended.log_is_behind
        )

    def _drop(self, watch: Watch) -> None:
        """Let go of it.  Its reaper holds nothing of the container's, so nobody waits for its end (0.1 ms)."""
        for file in (watch.ready, watch.done, watch.reaper):
            self._unlisten(file.fileno())
        watch.end_reaper()
        watch.close()
        del self._watches[watch.id]
        self._places.drop(watch)
        for reply in self._forgetting.pop(watch.id, ()):
            self._answer(reply)
        self._listen(watch.reaper.fileno(), partial(self._bury, watch))

    def _bury(self, watch: Watch) -> None:
        self._unlisten(watch.reaper.fileno())
        watch.bury_reaper()
