"""The second executor: Python makes the steps of a packed program itself, one cffi call each.

It stands in the place of ``runner.c`` and says the same in the report, step by step and errno by errno;
a differential test holds the two equal.  In production the runner runs: here the process that is cloned is
a Python, inside the container before the container's own program is.  What makes that bearable:

    one thread     a clone of it inherits no lock that another thread holds
    no import      ``close_the_doors`` shuts every way to a module before the first step, so that none of the
                   container's root file system can be met; nothing is opened, no traceback is printed
    no descriptor  program and report are memory by then, and pauses are words in the report (futex(2)):
                   the program may close what it likes

What it is for: lessons, tests, and ``kernelet step``, whose pauses no compiled runner could make so slowly.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd, memory
from kernel.program import (
    _ADDRESS,
    _CHAIN,
    _CLONE,
    _HEADER,
    _LAST_CLOCK,
    _MAGIC,
    _NO_SLOT,
    _SLOT,
    _STEP,
    _VERSION,
    PROGRAM_FD,
    REPORT_FD,
)
from kernel.report import SKIPPED, Outcome, read_report, report_size

#: How the runner ends, and so do we.
DONE, FAILED, NO_MEMORY, FOREIGN = 0, 111, 112, 113
BROKEN = 114
"""And as only this one can: an exception of Python's own."""
CHAINED = -1
"""Not an end: the program that is in PROGRAM_FD now is the next."""

#: Behind the report of a start that is made in steps: the index of the first step that may not be made yet, and that
#: of the step before which the executor waits.
_CONTROL = struct.Struct("<ii")
_NOWHERE = -1
#: Above every index: go on to the end.
ALL = 1 << 30
_LOOK_EVERY_NS = 20_000_000

Pause = Callable[[int], None]


class _Doors:
    """What answers an import once the doors are closed (a finder of importlib's)."""

    def find_spec(self, name: str, *_: object) -> None:
        raise ImportError(f"import of {name}: nothing is imported while a program runs", name=name)


def close_the_doors() -> None:
    """Let this process import nothing more, open no source file, and run nothing behind our back.

    A codec is a module too: one that was not used before is unknown from now on.
    """
    sys.meta_path[:] = [_Doors()]
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    gc.disable()
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # Python's own wishes; being ignored survives execve
        signal.signal(number, signal.SIG_DFL)


def execute(program: bytes, report: int, pause: Pause | None = None) -> NoReturn:
    """Make the steps of *program*, a packed one, in this process, and end it; *report* is the address of the shared report.

    *pause* is called with the index of each step before it is made, until the process is cloned in the new one too.
    """
    code = BROKEN
    try:
        close_the_doors()
        code = _run(program, report, pause)
        while code == CHAINED:
            code = _run(*_load(), None)
    finally:
        os._exit(code)  # no traceback: printing one opens the source, by a path that may be the container's by now


def _run(program: bytes, report: int, pause: Pause | None) -> int:
    magic, version, count, _, _, steps_at, relocations_at, relocation_count, pid_word = _HEADER.unpack_from(program)
    if (magic, version) != (_MAGIC, _VERSION):
        return FOREIGN
    image = ffi.new("char[]", program)
    base = int(ffi.cast("intptr_t", image))
    for (offset,) in struct.iter_unpack("<I", program[relocations_at : relocations_at + 4 * relocation_count]):
        _words(base + offset)[0] += base
    if pid_word:
        _words(base + pid_word)[0] = report
    steps = [_STEP.unpack_from(program, steps_at + index * _STEP.size) for index in range(count)]
    slots = _words(base + _HEADER.size)
    return _walk(steps, base, slots, report, pause)


def _walk(steps: Sequence[tuple[int, ...]], base: int, slots: Any, report: int, pause: Pause | None) -> int:
    """What ``run`` of runner.c does, line by line."""
    head, entries = ffi.cast("int32_t *", report), _words(report + report_size(0))
    now = time.monotonic_ns()
    _words(report)[2] = now
    index, is_parent, has_clock = 0, False, True
    while index < len(steps):
        number, operation, store, kinds, target, *rest = steps[index]
        this = index
        if not is_parent:
            head[2] = this
            if pause is not None:
                pause(this)
        if operation == _CHAIN:
            return CHAINED
        result = _perform(number, kinds, rest[4:], base, slots)
        if operation == _CLONE and result == 0 and pause is not None:
            die_with_parent()
        if operation == _CLONE and result > 0:
            is_parent = True
            index = target - 1
        if store != _NO_SLOT:
            slots[store] = result
        if operation != _CLONE or result != 0:  # the child of a clone leaves the result to its parent, which knows the pid
            entries[2 * this] = result
        has_clock = has_clock and operation != _LAST_CLOCK
        now = time.monotonic_ns() if has_clock else now + 1
        entries[2 * this + 1] = now
        if -4095 <= result < 0 and not _is_tolerated(rest[:4], result):
            head[3 if is_parent else 1] = this + 1
            return FAILED
        index += 1
    return DONE


def _perform(number: int, kinds: int, given: Sequence[int], base: int, slots: Any) -> int:
    """Make one step; SKIPPED when it needs a slot that an earlier, tolerated failure left empty."""
    arguments = []
    for position, value in enumerate(given):
        kind = kinds >> 2 * position & 3
        if kind == _ADDRESS:
            value += base  # noqa: PLW2901
        elif kind == _SLOT:
            value = slots[value]  # noqa: PLW2901
            if value < 0:
                return SKIPPED
        arguments.append(value)
    result = int(lib.linux_syscall(number, *arguments))
    return -int(ffi.errno) if result == -1 else result


def _is_tolerated(errnos: Sequence[int], result: int) -> bool:
    return any(errno and result == -errno for errno in errnos)


def _words(address: int) -> Any:
    return ffi.cast("int64_t *", address)


def map_shared(file: Fd | int, size: int) -> int:
    """The address of *size* bytes of *file*, shared with whoever maps it too, until this process ends or is replaced.

    Not by the standard library's mmap, which keeps a descriptor of its own.
    """
    number = file if isinstance(file, int) else file.fileno()
    address = lib.linux_syscall(lib.SYS_mmap, 0, size, lib.PROT_READ | lib.PROT_WRITE, lib.MAP_SHARED, number, 0)
    return int(check(address, "mmap"))


# Pauses.


def die_with_parent() -> None:
    """Be killed when the parent ends: nobody would ever let a process go on that waits for it (prctl(2))."""
    check(lib.prctl(lib.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


class _Pauses:
    """In the executor: wait before a step until it may be made."""

    def __init__(self, control: int, filter_number: int, numbers: Sequence[int]) -> None:
        self._words = ffi.cast("int32_t *", control)
        self._address = control
        #: From this step on a system call filter may be in force, which need not know futex(2).
        self._filtered_from = 1 + numbers.index(filter_number) if filter_number in numbers else ALL

    def __call__(self, index: int) -> None:
        words = self._words
        if words[0] > index:
            return
        words[1] = index
        if index >= self._filtered_from:
            while words[0] <= index:  # without a system call; the controller stops us meanwhile
                pass
        else:
            _futex(self._address + 4, lib.FUTEX_WAKE, ALL)
            while (limit := words[0]) <= index:
                _futex(self._address, lib.FUTEX_WAIT, limit)
        words[1] = _NOWHERE


class SteppedReport:
    """The controlling side of a start that is made in steps: its report, how far it may go, where it waits."""

    def __init__(self, step_count: int) -> None:
        self._count = step_count
        size = report_size(step_count) + _CONTROL.size
        self.memory = memory("kernelet-report", bytes(report_size(step_count)) + _CONTROL.pack(0, _NOWHERE), seal=False)
        self._report = map_shared(self.memory, size)
        self._size = size
        self._control = self._report + report_size(step_count)
        self._words = ffi.cast("int32_t *", self._control)

    def read(self) -> Outcome:
        """The state of the start right now."""
        return read_report(self.memory, self._count)

    @property
    def waits_at(self) -> int | None:
        """The index of the step before which it waits; None while it is under way."""
        return int(self._words[1]) if self._words[1] >= self._words[0] else None

    def allow(self, limit: int) -> None:
        """Let all steps be made whose index is below *limit*."""
        self._words[0] = limit
        _futex(self._control, lib.FUTEX_WAKE, ALL)

    def wait(self, is_over: Callable[[], bool]) -> int | None:
        """Wait until it waits, and answer where; None when *is_over* says that there is nothing to wait for any more."""
        while (at := self.waits_at) is None:
            if is_over():
                return self.waits_at
            _futex(self._control + 4, lib.FUTEX_WAIT, int(self._words[1]), _LOOK_EVERY_NS)
        return at

    def close(self) -> None:
        """Forget the memory: the report cannot be read after this."""
        self.memory.close()
        if self._report:
            check(lib.linux_syscall(lib.SYS_munmap, self._report, self._size, 0, 0, 0, 0), "munmap")
            self._report = 0


def _futex(address: int, operation: int, value: int, timeout_ns: int | None = None) -> None:
    """futex(2) on a word that two processes share; why it came back is for the caller to see from the word."""
    timeout = ffi.NULL if timeout_ns is None else ffi.new("int64_t[2]", [timeout_ns // 10**9, timeout_ns % 10**9])
    lib.linux_syscall(lib.SYS_futex, address, operation, value, int(ffi.cast("intptr_t", timeout)), 0, 0)


# Starting it.


def spawn(descriptors: Mapping[int, int]) -> int:
    """Start this executor as the runner is started: *descriptors* (number there -> here), program and report among them."""
    actions = [(os.POSIX_SPAWN_DUP2, here, there) for there, here in descriptors.items()]
    every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    command = [sys.executable, "-I", "-m", "kernel.stepper"]
    return os.posix_spawn(sys.executable, command, {}, file_actions=actions, setsigdef=every, setsigmask=())


def main() -> NoReturn:
    """The program is in PROGRAM_FD, the report in REPORT_FD; one that is longer than it need be is followed by its control."""
    try:
        program, report = _load()
    except (OSError, struct.error):
        os._exit(NO_MEMORY)
    count, steps_at = _HEADER.unpack_from(program)[2], _HEADER.unpack_from(program)[5]
    pause = None
    if os.fstat(REPORT_FD).st_size >= report_size(count) + _CONTROL.size:
        numbers = [_STEP.unpack_from(program, steps_at + index * _STEP.size)[0] for index in range(count)]
        die_with_parent()
        pause = _Pauses(report + report_size(count), lib.SYS_seccomp, numbers)
    with contextlib.suppress(BaseException):
        execute(program, report, pause)
    os._exit(BROKEN)


def _load() -> tuple[bytes, int]:
    """The program, and the address of its report."""
    program = os.pread(PROGRAM_FD, os.fstat(PROGRAM_FD).st_size, 0)
    _HEADER.unpack_from(program)  # struct.error: it is none
    return program, map_shared(REPORT_FD, os.fstat(REPORT_FD).st_size)


if __name__ == "__main__":
    main()
