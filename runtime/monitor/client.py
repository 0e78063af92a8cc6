"""The daemon's end: find the monitor or start one, ask it, hear of exits.

The only file of the daemon that knows how a monitor is reached.  When the monitor dies ``on_lost`` is
called from the reading thread: it connects again, tells the new monitor what it finds there, and says
``settle``.  Until then requests wait; those that can be asked twice are asked again, a launch under
way fails with ``MonitorLost``.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel import process
from kernel.errors import failure
from kernel.fd import Fd, memory
from kernel.program import Program
from kernel.report import Report
from runtime.errors import MonitorLost
from runtime.monitor import peer, protocol
from runtime.monitor.log_file import Gap, Hang
from runtime.monitor.protocol import Message
from runtime.paths import Paths

START_SECONDS = 20.0
#: Where the reading thread puts the reply, or None when there will be none; 0.03 ms faster than a future.
Answer = queue.SimpleQueue[Message | None]


@dataclass(frozen=True, slots=True)
class Exited:
    """A process ended; its output is where it belongs, or its *log_is_behind*.  *code* None: nobody saw how."""

    id: str
    code: int | None
    at_ns: int
    log_is_behind: bool = False


@dataclass(frozen=True, slots=True)
class Launched:
    """A start's answer.  *failed* is the index of the step that failed, None when all went well."""

    pid: int
    failed: int | None
    errno: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a process stands, as its monitor knows; *state* None: nobody holds it."""

    state: str | None
    pid: int
    code: int | None
    at_ns: int
    log_is_behind: bool = False


class MonitorClient:
    """A connection to the node's monitor.  Safe to use from many threads."""

    def __init__(
        self,
        paths: Paths,
        *,
        on_exit: Callable[[Exited], None],
        on_lost: Callable[[], None],
        on_gap: Callable[[str, Gap], None] = lambda _id, _gap: None,
        on_hang: Callable[[Hang], None] = lambda _: None,
    ) -> None:
        self._paths = paths
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._on_gap = on_gap
        self._on_hang = on_hang
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._settled = threading.Event()
        self.losses = 0
        """How many monitors have died: who makes something that ``on_lost`` cannot know of yet looks before and after."""
        self._pending: dict[int, tuple[socket.socket, Answer]] = {}
        self._sequence = 0
        self._connection: socket.socket | None = None
        self._child: int | None = None
        self._closing = False

    def connect(self) -> bool:
        """Connect, starting a monitor when there is none; True when it was started now."""
        started = False
        connection = self._try_connect()
        if connection is None:
            self._start()
            started = True
            connection = self._wait_for_socket()
        self._connection = connection
        threading.Thread(target=self._read, args=(connection,), name="monitor", daemon=True).start()
        return started

    def settle(self) -> None:
        """Let requests go on: the monitor has been told what its reapers are for."""
        with self._lock:
            if self._connection is not None:  # else it is gone again already
                self._settled.set()

    @property
    def is_settled(self) -> bool:
        return self._settled.is_set()

    def close(self, *, end_monitor: bool = False) -> None:
        """Disconnect; with *end_monitor*, end the monitor too (only when it has nothing to watch)."""
        self._closing = True
        self._settled.set()  # who waits finds no connection
        if end_monitor and self._child is None:
            self._end_stranger()
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        if end_monitor and self._child is not None:
            peer.end(self._child)

    @property
    def pid(self) -> int:
        """The monitor's pid."""
        connection = self._connection
        if connection is None:
            raise MonitorLost("there is no monitor")
        return peer.pid_of(connection)

    def launch(
        self,
        process_id: str,
        kind: str,
        program: Program,
        *,
        run_dir: Path,
        name: str,
        descriptors: Mapping[int, Fd],
        sinks: Sequence[Fd] = (),
        output: str = "log",
        terminal: bool = False,
        input_pipe: bool = False,
        limit: int = 0,
        device: int = 0,
    ) -> tuple[Launched, Report]:
        """Run *program*; returns when the process is created (or, for an exec, running), with its report.

        *descriptors* are the program's, by number; *sinks* the log file, on the file system *device*, or the files for captured
        stdout and stderr; with *output* "given", its streams are among the descriptors and the null device
        stands for those that are not.  Nothing of them is closed here.
        """
        report = Report(len(program.all_steps))
        request = {
            "op": "launch",
            "id": process_id,
            "kind": kind,
            "run_dir": os.fspath(run_dir),
            "name": name,
            "descriptors": list(map(int, descriptors)),
            "sinks": len(sinks),
            "output": output,
            "terminal": terminal,
            "input": input_pipe,
            "limit": limit,
            "device": device,
        }
        try:
            with memory("kernelet-program", program.pack()) as code:
                files = [code, report.memory, *descriptors.values(), *sinks]
                message = self._ask_settled(request, files, again=False)
        except BaseException:  # whose traceback would keep it open
            report.memory.close()
            raise
        return _launched(message), report

    def start(self, process_id: str) -> Launched:
        """Let a created process go on; returns when it has executed its program, or could not."""
        return _launched(self._ask_settled({"op": "start", "id": process_id}))

    def signal(self, process_id: str, number: int) -> bool:
        """Signal the process; False when it has ended."""
        return bool(self._ask_settled({"op": "signal", "id": process_id, "signal": number}).get("delivered", False))

    def reopen_log(self, process_id: str, files: Sequence[Fd], device: int) -> None:
        """Go on in the first of *files*; when this returns, nothing more goes to the old one.

        The second is as in ``adopt``.  Raises TimeoutError when the disk hangs; then it stays as it was.
        """
        self._ask_settled({"op": "reopen", "id": process_id, "device": device}, files)

    def attach(self, process_id: str, sinks: Mapping[int, Fd]) -> Fd | None:
        """Have the output of a running process copied to *sinks*, pipes by the number of the stream, from now on.

        Each ends with its stream; all together, when one is not read for too long (``runtime.monitor.viewers``).  Returns
        the terminal's master, or the other end of stdin, or None where there is neither.  Raises ProcessLookupError when
        it does not run.
        """
        answer = self._ask_settled({"op": "attach", "id": process_id, "streams": list(sinks)}, [*sinks.values()])
        return next(iter(answer["files"]), None)

    def close_input(self, process_id: str) -> None:
        """Let the process's stdin end when all who have a copy of its other end have closed it."""
        self._ask_settled({"op": "close_input", "id": process_id})

    def forget(self, process_id: str, run_dir: Path) -> None:
        """End the process if it still runs, and its reaper."""
        self._ask_settled({"op": "forget", "id": process_id, "run_dir": os.fspath(run_dir)})

    def adopt(
        self,
        process_id: str,
        kind: str,
        *,
        run_dir: Path,
        sinks: Sequence[Fd] = (),
        terminal: bool = False,
        output: str = "log",
        settled: bool = False,
        device: int = 0,
        awaited: bool = False,
    ) -> Standing:
        """Ask how a process stands, telling a monitor that has just found it what it is for.

        *sinks* are its log, on the file system *device*, and the directory where that may have another name by now; when
        they are *awaited*, its output waits for ``reopen_log`` to bring them.
        With *settled* it is one that ``on_lost`` does not know of, and waits for it.
        """
        ask = self._ask_settled if settled else self._ask
        message = ask(
            {
                "op": "adopt",
                "id": process_id,
                "kind": kind,
                "run_dir": os.fspath(run_dir),
                "output": output,
                "terminal": terminal,
                "limit": 0,
                "device": device,
                "awaited": awaited,
            },
            sinks,
        )
        return Standing(message["state"], *(message.get(key, 0) for key in ("pid", "code", "at_ns", "log_is_behind")))

    def ping(self, timeout_seconds: float) -> None:
        """Raises MonitorLost unless there is a monitor that answers in time."""
        deadline = time.monotonic() + timeout_seconds
        while self._settled.wait(max(0.0, deadline - time.monotonic())):
            try:
                self._ask({"op": "hello"}, timeout_seconds=max(0.1, deadline - time.monotonic()))
                return
            except MonitorLost:
                if self._closing or time.monotonic() >= deadline:
                    raise
        raise MonitorLost(f"there has been none for {timeout_seconds:.0f} s")

    def known(self) -> tuple[list[str], list[Path]]:
        """The ids that the monitor watches, and the run directories of reapers that nobody has claimed."""
        message = self._ask_settled({"op": "list"})
        return list(message["watched"]), [Path(path) for path in message["found"]]

    def _ask_settled(self, message: Message, files: Sequence[Fd] = (), *, again: bool = True) -> Message:
        """Ask once there is a monitor that knows its reapers; *again* when that one goes away too."""
        deadline = time.monotonic() + START_SECONDS
        while self._settled.wait(max(0.0, deadline - time.monotonic())):
            try:
                return self._ask(message, files)
            except MonitorLost:
                if not again or self._closing:
                    raise
        raise MonitorLost(f"the node has had no monitor for {START_SECONDS:.0f} s; the daemon's log says why")

    def _ask(self, message: Message, files: Sequence[Fd] = (), *, timeout_seconds: float | None = None) -> Message:
        answer: Answer = queue.SimpleQueue()
        with self._lock:
            connection = self._connection
            if connection is None:
                raise MonitorLost("the monitor is being replaced; try again")
            self._sequence += 1
            sequence = self._sequence
            self._pending[sequence] = connection, answer
        try:
            # Not under the lock that the reader takes: with both sockets full, nobody would read any more.
            with self._sending:
                protocol.send(connection, {**message, "seq": sequence}, [file.fileno() for file in files])
        except OSError as error:
            with self._lock:
                self._pending.pop(sequence, None)
                if self._connection is connection:
                    self._unsettle()
            raise MonitorLost(f"the monitor went away: {error.strerror}") from error
        try:
            reply = answer.get(timeout=timeout_seconds)
        except queue.Empty:
            with self._lock:
                self._pending.pop(sequence, None)
            raise MonitorLost(f"the monitor has not answered for {timeout_seconds:.0f} s") from None
        if reply is None:
            raise MonitorLost("the monitor went away in the middle of a request")
        if reply.get("unknown"):
            raise ProcessLookupError(reply["error"])
        if "error" in reply:
            refused = failure(reply["errno"], message["op"])
            refused.add_note(reply["error"])
            raise refused
        return reply

    def _read(self, connection: socket.socket) -> None:
        while (received := self._receive(connection)) is not None:
            message, files = received
            if message.get("event") == "exited":
                self._on_exit(Exited(message["id"], message["code"], message["at_ns"], message["log_is_behind"]))
                continue
            if message.get("event") == "disk":
                self._on_hang(Hang(message["ids"], message["seconds"]))
                continue
            if message.get("event") == "log":
                self._on_gap(message["id"], Gap(message["error"], message["lines"], message["bytes"]))
                continue
            with self._lock:
                asked = self._pending.pop(message["seq"], None)
            if asked is not None:
                asked[1].put({**message, "files": files})
        self._lost(connection)

    def _receive(self, connection: socket.socket) -> tuple[Message, list[Fd]] | None:
        try:
            return protocol.receive(connection)
        except OSError:
            return None

    def _lost(self, connection: socket.socket) -> None:
        with self._lock:
            lost = [key for key, (asked, _) in self._pending.items() if asked is connection]
            answers = [self._pending.pop(key)[1] for key in lost]
            if self._connection is connection:
                self._connection = None
                self._unsettle()
                self.losses += 1
        for answer in answers:
            answer.put(None)
        if self._closing:
            return
        connection.close()
        self._on_lost()

    def _unsettle(self) -> None:
        if not self._closing:  # then nobody comes to settle again, and who asks is told at once
            self._settled.clear()

    def _try_connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(os.fspath(self._paths.monitor_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        if not peer.is_of_our_version(connection, START_SECONDS):  # the reapers hold everything until ours is there
            peer.kill(connection)
            connection.close()
            return None
        return connection

    def _start(self) -> None:
        if self._child is not None:  # it has ended, or does not come to its socket
            peer.end(self._child)
        command = [sys.executable, "-I", "-m", "runtime.monitor", os.fspath(self._paths.run_dir)]
        self._child = process.start_session(command, self._paths.run_dir / "monitor.log")

    def _wait_for_socket(self) -> socket.socket:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            connection = self._try_connect()
            if connection is not None:
                return connection
            if self._child is not None and process.has_ended(self._child):
                self._child = None
                break
            time.sleep(0.005)
        text = (self._paths.run_dir / "monitor.log").read_text(errors="replace")[-500:]
        raise MonitorLost(f"the monitor did not start: {text.strip() or 'no message'}")

    def _end_stranger(self) -> None:
        if self._connection is not None:
            peer.kill(self._connection)


def _launched(message: Message) -> Launched:
    return Launched(message.get("pid", 0), message.get("failed"), message.get("errno", 0))
