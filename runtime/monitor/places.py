"""Where the output of each process goes, as the main thread sees it: to a disk of logs, or to itself (``disk``)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from kernel.fd import Fd
from runtime.container.descriptors import Descriptor
from runtime.monitor import streams
from runtime.monitor.disk import HANG_SECONDS, Disk, Here
from runtime.monitor.ledger import Ledger
from runtime.monitor.log_file import Gap
from runtime.monitor.loop import Loop
from runtime.monitor.outputs import Ends, Output, Outputs
from runtime.monitor.watch import Watch

HANGS = f"the disk of its log has not answered for {HANG_SECONDS:.0f} s"


class Answer(Protocol):
    def __call__(self, file: Fd | None = None, **content: Any) -> None: ...


class Places:
    """All of them; *tell* tells the daemons."""

    def __init__(self, run_dir: Path, loop: Loop, tell: Callable[..., None]) -> None:
        self._run_dir = run_dir
        self._loop = loop
        self._tell = tell
        self._ledger = Ledger(run_dir / "monitor.streams")
        self._here = Here(loop, self._on_gap)
        self._disks: dict[int, Disk] = {}

    def attach(self, watch: Watch, request: dict[str, Any]) -> None:
        """Have the streams of *watch* moved to its sinks.  Raises OSError when there are too many."""
        if request["output"] != "log":
            self._capture(watch, request["limit"])
        elif watch.sinks:
            self._write_log(watch, self._disk(request["device"]))
        elif request.get("awaited"):
            watch.is_awaiting_log = True
        else:
            self._write_log(watch, self._here)

    def reopen(self, watch: Watch, device: int, files: list[Fd], answer: Answer) -> None:
        """Go on in another log, on the file system *device*: on the same disk, on another, or for the first time."""
        place = self._disk(device)
        if watch.place is None:  # it was awaited
            watch.sinks = files
            self._write_log(watch, place)
            answer()
        elif watch.place is place:
            self._switch(watch, place, files[0], answer)
        else:
            self._move(watch, place, files, answer)

    def view(self, watch: Watch, sinks: dict[int, Fd], answer: Answer) -> None:
        """Show the output in *sinks* as well; the answer has the process's stdin, or its terminal."""
        output, place = watch.output, watch.place
        if output is None or place is None:
            raise OSError(errno.ETIMEDOUT, HANGS)
        _require_answering(place)

        def done(outcome: object) -> None:
            for file in sinks.values():
                file.close()
            if not _is_refused(outcome, answer):
                answer(watch.ends.get(Descriptor.OUTPUT) if watch.is_terminal else watch.input)

        def late() -> None:
            watch.sinks.extend(sinks.values())  # whose numbers may be looked at still
            answer(error=HANGS, errno=errno.ETIMEDOUT)

        place.ask(lambda outputs, is_wanted: outputs.view(output, sinks, is_wanted), done, late)

    def drain(self, watch: Watch, then: Callable[[bool], None]) -> None:
        """Write out all that is there; then say whether that has to wait for the disk."""
        output = watch.output
        if output is None or watch.place is None:
            then(watch.is_awaiting_log)
        else:
            watch.place.ask(lambda outputs, _: outputs.drain(output), lambda _: then(False), lambda: then(True))

    def drop(self, watch: Watch) -> None:
        """Let go of its output, when that is written."""
        output = watch.output
        if output is None or watch.place is None:
            self._on_dropped(watch)
        else:
            watch.place.ask(lambda outputs, _: outputs.drop(output), lambda _: self._on_dropped(watch))

    def forget(self, watch_id: str) -> None:
        """Of a process that nobody watches, give back what it had in the ledger."""
        self._ledger.free(watch_id)

    def do_what_is_due(self, watches: Iterable[Watch]) -> None:
        """Go on without disks that hang, and tell of them; and what there is to do here."""
        self._here.outputs.do_what_is_due()
        for disk in self._disks.values():
            if disk.is_hanging() and not disk.is_told:
                disk.told = [watch.id for watch in watches if watch.place is disk]
                self._tell("disk", ids=disk.told, seconds=0)
            elif disk.told is not None and disk.since is None:  # it came back in the moment when that was told
                self._on_return(disk.told, round(HANG_SECONDS))
                disk.told = None
            disk.give_up_late()

    def patience(self) -> float | None:
        """Seconds until something is due."""
        waits = [self._here.outputs.patience(), *(disk.patience() for disk in self._disks.values())]
        return min((wait for wait in waits if wait is not None), default=None)

    def _disk(self, device: int) -> Disk:
        """The thread for logs on the file system that st_dev says."""
        disk = self._disks.get(device)
        if disk is None:
            disk = self._disks[device] = Disk(self._run_dir, device, self._loop, self._on_gap, self._on_return)
        return disk

    def _capture(self, watch: Watch, limit: int) -> None:
        """Give up to *limit* bytes of each stream to who waits for them."""
        watch.place, watch.output = self._here, Output(watch.id)
        for descriptor, file in watch.ends.items():
            sink = watch.sinks[min(_number(descriptor), len(watch.sinks)) - 1]
            stream = streams.capture(file, sink, limit)
            watch.output.streams.append(stream)
            self._here.outputs.resume(watch.output, stream)

    def _write_log(self, watch: Watch, place: Disk | Here) -> None:
        """Write the streams to the log of the sinks; a second sink is the directory where it may have another name by now."""
        output = Output(watch.id)
        slots = {} if watch.is_terminal else {number: self._ledger.slot(watch.id, number) for number in map(_number, watch.ends)}
        log, directory = (*watch.sinks, None, None)[:2]
        ends = Ends(watch.ends, slots, log, watch.is_terminal, directory)
        watch.place, watch.output = place, output

        def done(outcome: object) -> None:
            if isinstance(outcome, OSError):
                self._on_gap(watch.id, Gap((outcome.strerror or str(outcome)).lower()))

        place.ask(lambda outputs, _: outputs.add(output, ends), done)

    def _switch(self, watch: Watch, place: Disk, log: Fd, answer: Answer) -> None:
        """Go on in *log*, on the same disk."""
        output, before = watch.output, watch.sinks
        assert output is not None
        _require_answering(place)
        watch.sinks = [*before, log]  # while their numbers may be looked at

        def done(outcome: object) -> None:
            if not _is_refused(outcome, answer):
                for file in before:
                    file.close()
                answer()

        def late() -> None:
            answer(error=HANGS, errno=errno.ETIMEDOUT)

        place.ask(lambda outputs, is_wanted: outputs.reopen(output, log, is_wanted), done, late)

    def _move(self, watch: Watch, place: Disk, files: list[Fd], answer: Answer) -> None:
        """Go on in another file, on another disk."""
        before, output = watch.place, watch.output
        assert before is not None and output is not None
        _require_answering(before)

        def let_go(outputs: Outputs, is_wanted: Callable[[], bool]) -> None:
            if is_wanted():
                outputs.drop(output)

        def done(_outcome: object) -> None:
            for file in watch.sinks:
                file.close()
            watch.sinks = files
            self._write_log(watch, place)
            answer()

        before.ask(let_go, done, lambda: answer(error=HANGS, errno=errno.ETIMEDOUT))

    def _on_dropped(self, watch: Watch) -> None:
        """Nobody moves its output any more, or looks at our numbers of it."""
        watch.close_ends()
        self._ledger.free(watch.id)

    def _on_gap(self, watch_id: str, gap: Gap) -> None:
        self._tell("log", id=watch_id, error=gap.error, lines=gap.lines, bytes=gap.bytes)

    def _on_return(self, ids: list[str], seconds: int) -> None:
        self._tell("disk", ids=ids, seconds=seconds)


def _require_answering(place: Disk | Here) -> None:
    if place.is_told:
        raise OSError(errno.ETIMEDOUT, HANGS)


def _is_refused(outcome: object, answer: Answer) -> bool:
    if isinstance(outcome, OSError):
        answer(error=outcome.strerror or str(outcome), errno=outcome.errno)
    return isinstance(outcome, OSError)


def _number(descriptor: int) -> int:
    """1 for stdout and for a terminal, 2 for stderr."""
    return 1 if descriptor == Descriptor.OUTPUT else 2
