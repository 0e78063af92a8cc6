"""What a start really did, step by step, kept in the run dir for whoever asks (``kernelet explain``)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from kernel.decode import decode
from kernel.program import Program
from kernel.report import SKIPPED, Outcome

FILE = "start.json.z"
#: Seconds without a start after which there is time to write those before it down.
QUIET_SECONDS = 0.05
#: How many starts may wait for that; a program takes about 100 KB of memory.
MOST_WAITING = 16


class StepRecord(msgspec.Struct):
    """One step: what was called, why, what the kernel answered, and µs since the start when it was over (None: not reached).

    *is_fine* is for an answer that is an errno, and one that the program goes on with.
    """

    call: str
    why: str
    result: int
    at_us: float | None
    skipped: bool
    heading: str = ""
    is_fine: bool = True


class Failure(msgspec.Struct):
    """A start that failed: of which container in which sandbox, when (ns since the epoch), why, and its steps."""

    sandbox_id: str
    container: str
    at_ns: int
    message: str
    steps: list[StepRecord]


def in_words(program: Program, names: Mapping[int, str] | None = None) -> list[str]:
    """The steps of *program* for people; *names* are those of the descriptors that were opened beforehand."""
    return [decode(step, names) for step in program.steps]


def records(program: Program, outcome: Outcome, words: Sequence[str] | None = None) -> list[StepRecord]:
    """The steps of *program* up to the clone and in the new process, with what became of each; *words* as from ``in_words``."""
    return [
        StepRecord(
            call=call,
            why=step.why,
            result=result,
            at_us=(at_ns - outcome.began_ns) / 1000 if at_ns else None,
            skipped=result == SKIPPED,
            heading=heading,
            is_fine=result >= 0 or result == SKIPPED or -result in step.tolerate,
        )
        for step, call, heading, result, at_ns in zip(
            program.steps, words or in_words(program), program.facilities(), outcome.results, outcome.times_ns, strict=False
        )
    ]


def save(run_dir: Path, program: Program, outcome: Outcome, words: Sequence[str] | None = None) -> None:
    """Write down how far *program* came, about 4 KB; *words* as above."""
    (run_dir / FILE).write_bytes(_packed(records(program, outcome, words)))


def load(run_dir: Path) -> list[StepRecord]:
    """The steps of the last start; empty when nothing was kept."""
    try:
        content = (run_dir / FILE).read_bytes()
    except FileNotFoundError:
        return []
    return msgspec.json.decode(zlib.decompress(content), type=list[StepRecord])


def load_from_outside(run_dir: Path) -> list[StepRecord]:
    """The same for another process than the one that writes, which may not have come to it yet (``Scribe``)."""
    steps = load(run_dir)
    if not steps:
        time.sleep(4 * QUIET_SECONDS)
        steps = load(run_dir)
    return steps


def note_failure(run_dir: Path, errno: int) -> None:
    """Write down that the last step of the start that is kept in *run_dir* failed with *errno*."""
    steps = load(run_dir)
    if steps:
        steps[-1].result, steps[-1].is_fine = -errno, False
        (run_dir / FILE).write_bytes(_packed(steps))


class Scribe:
    """Writes starts down once there is nothing else to do: it would be a tenth of a creation (0.4 ms).

    What waits when this process is killed is lost, and ``explain`` says that nothing is kept.
    """

    def __init__(self) -> None:
        self._waiting: dict[Path, tuple[Program, Outcome, Mapping[int, str]]] = {}
        self._at = 0.0
        self._turn = threading.Lock()
        self._wanted, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, run_dir: Path, program: Program, outcome: Outcome, names: Mapping[int, str]) -> None:
        """Write down in *run_dir* how far *program* came, by and by; *names* are those of the descriptors that it found."""
        self._waiting[run_dir] = program, outcome, names
        self._at = time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="history", daemon=True)
            self._thread.start()
        self._wanted.set()
        for oldest in list(self._waiting)[:-MOST_WAITING]:
            self.settle(oldest)

    def settle(self, run_dir: Path) -> None:
        """Return when what is to be written in *run_dir* is."""
        with self._turn:
            start = self._waiting.pop(run_dir, None)
            if start is not None:
                program, outcome, names = start
                with contextlib.suppress(OSError):  # a run dir that is full or gone: the container is not worse for it
                    save(run_dir, program, outcome, in_words(program, names))

    def forget(self, run_dir: Path) -> None:
        """Write nothing in *run_dir* any more: it is about to be removed."""
        with self._turn:
            self._waiting.pop(run_dir, None)

    def close(self) -> None:
        """Write down all that waits."""
        self._closing.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        for run_dir in list(self._waiting):
            self.settle(run_dir)

    def _write(self) -> None:
        while not self._closing.is_set():
            self._wanted.wait()
            while (left := self._at + QUIET_SECONDS - time.monotonic()) > 0 and not self._closing.wait(left):
                pass
            self._wanted.clear()
            for run_dir in list(self._waiting):
                self.settle(run_dir)


# Starts of which nothing else is left.


def save_failure(directory: Path, sandbox_id: str, container: str, message: str, steps: list[StepRecord]) -> None:
    """Keep a start that failed in *directory*, in the place of the last one of that container."""
    failure = Failure(sandbox_id, container, time.time_ns(), message, steps)
    directory.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(os.fsencode(container)).hexdigest()[:16]
    (directory / f"{sandbox_id}-{name}").write_bytes(_packed(failure))


def failures(directory: Path, container: str) -> list[Failure]:
    """The starts of containers of that name that failed, the last one first."""
    found = []
    for file in directory.iterdir() if directory.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # its sandbox has just been removed
            found.append(msgspec.json.decode(zlib.decompress(file.read_bytes()), type=Failure))
    return sorted((each for each in found if each.container == container), key=lambda each: -each.at_ns)


def forget_failures(directory: Path, sandbox_id: str) -> None:
    """Forget those of a sandbox that is removed."""
    for file in directory.glob(f"{sandbox_id}-*"):
        file.unlink(missing_ok=True)


def _packed(content: object) -> bytes:
    return zlib.compress(msgspec.json.encode(content), 1)
