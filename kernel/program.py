"""A process's start as data: a list of system calls that Python composes and ``runner.c`` executes.

```
    Program ── pack() ──> sealed memfd 3 ┐
                                         ├─ posix_spawn(runner) ── steps ── clone3 ──> the cloned process: steps ── execve
    Report  <── read ──── memfd 4 <──────┘                            └── the reaper: the steps after it, in the same process
```

No Python runs in the child, so no import, codec, lock or garbage collection can meet the
container's file system (a fork-unsafe parent is harmless too: 70,000 launches beside a live gRPC
server, no hang; Python in a cloned child of a threaded process hung in 6 to 27 % of tries).

The language is tiny: *call*, *store* the result in a slot, *tolerate* an errno, *clone*, *chain*, end.  A step
that needs a slot which a tolerated failure left empty is skipped.  The same list is printed, compared
and tested without root (``describe``), which is why arguments keep their names until they are packed.
"""

from __future__ import annotations

import errno as errno_module
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kernel._linux import ffi, lib
from kernel.argument import (
    Argument,
    Buffer,
    Filter,
    Flags,
    Slot,
    Structure,
    Vector,
    Words,
    describe_argument,
    quote,
    value_of,
)
from kernel.report import report_size

#: With the kinds of arguments, which are in a file of their own: who composes needs both.
__all__ = [
    "BEHIND",
    "MAX_STEPS",
    "PROGRAM_FD",
    "REPORT_FD",
    "Argument",
    "Buffer",
    "Filter",
    "Flags",
    "Program",
    "Slot",
    "Step",
    "Structure",
    "Vector",
    "Words",
    "runner_image",
]

#: The header counts steps with 16 bits.
MAX_STEPS = (1 << 16) - 1
#: What the steps of the parent half are headed by.
BEHIND = "the reaper, behind in the parent half"
#: Descriptors that the runner itself knows.
PROGRAM_FD, REPORT_FD = 3, 4

_HEADER = struct.Struct("<IHHIIIIII")
_STEP = struct.Struct("<HBBHH4H6q")
_MAGIC, _VERSION = 0x6C6E726B, 1
_CALL, _CLONE, _CHAIN, _LAST_CLOCK = 0, 1, 2, 3
_LITERAL, _ADDRESS, _SLOT = 0, 1, 2
_NO_SLOT = 0xFF
_SIGN = 1 << 63
_MAX_SLOTS = 120
_DATA_AT = _HEADER.size + 8 * _MAX_SLOTS
_TARGET_OFFSET = 6
_EMPTY = struct.pack("<q", -1)
_PADDING = [(0,) * (6 - count) for count in range(7)]


class Step(NamedTuple):
    """One system call: what, why, and what it means when it fails."""

    call: str
    arguments: tuple[Argument, ...]
    why: str
    store: str | None = None
    tolerate: tuple[int, ...] = ()
    hint: str = ""
    ends_clock: bool = False
    """From here on clock_gettime(2) is forbidden: the runner asks it no more, and later steps have no times of their own."""

    def __str__(self) -> str:
        text = f"{self.call}({', '.join(map(describe_argument, self.arguments))})"
        return f"{self.store} = {text}" if self.store else text


@dataclass(slots=True)
class Program:
    """The steps of one start.  *steps* before and after the clone; *behind* is what the parent half does."""

    title: str
    steps: list[Step] = field(default_factory=list)
    behind: list[Step] = field(default_factory=list)
    clone_index: int | None = None
    headings: dict[int, str] = field(default_factory=dict)
    """For a reader: by index into *steps*, the name of the facility that begins there."""
    _begun: _Packer | None = None

    def heading(self, title: str) -> None:
        """The steps that follow belong to *title*; without a step in between the later name stands."""
        self.headings[len(self.steps)] = title

    def call(
        self,
        name: str,
        *arguments: Argument,
        why: str,
        store: str | None = None,
        tolerate: Iterable[int] = (),
        hint: str = "",
        ends_clock: bool = False,
    ) -> Slot:
        """Add a step; the returned slot is only of use when *store* names one."""
        self.steps.append(Step(name, arguments, why, store, tuple(tolerate), hint, ends_clock))
        return Slot(store or "")

    def clone(self, flags: Iterable[str], *, cgroup: int | None, why: str, hint: str = "") -> None:
        """Make a new process in one clone3(2); the steps that follow are its own.

        Its pid is in the report before it runs; the slot "pidfd" is set for the parent half.  With CLONE_PARENT
        it is the child of whoever started the runner, and ends with the runner's own exit signal.
        """
        names = tuple(flags) + (("CLONE_INTO_CGROUP",) if cgroup is not None else ())
        every = Flags((*names, "CLONE_PIDFD", "CLONE_PARENT_SETTID", "CLONE_CLEAR_SIGHAND"))
        self.clone_index = len(self.steps)
        self.steps.append(Step("clone3", (every, -1 if cgroup is None else cgroup), why, "pid", (), hint))

    def chain(self, *, why: str) -> None:
        """End by going on with the program, and the report, that are in PROGRAM_FD and REPORT_FD by then."""
        self.steps.append(Step("chain", (), why))

    def afterwards(
        self, name: str, *arguments: Argument, why: str, store: str | None = None, tolerate: Iterable[int] = ()
    ) -> None:
        """Add a step of the parent half, which runs after the clone."""
        self.behind.append(Step(name, arguments, why, store, tuple(tolerate)))

    @property
    def all_steps(self) -> list[Step]:
        return [*self.steps, *self.behind]

    def facilities(self) -> list[str]:
        """For each of ``all_steps`` the heading that it stands under, BEHIND for those of the parent half."""
        found, current = [], ""
        for index in range(len(self.steps)):
            current = self.headings.get(index, current)
            found.append(current)
        return found + [BEHIND] * len(self.behind)

    def describe(self) -> str:
        """The program as text, one numbered step a line; needs no privileges and no kernel."""
        lines = [self.title]
        for number, step in enumerate(self.all_steps, 1):
            if number == len(self.steps) + 1:
                lines.append("     -- behind, in the parent half --")
            quiet = f"  [{', '.join(errno_module.errorcode[code] for code in step.tolerate)} is fine]" if step.tolerate else ""
            lines.append(f"{number:4}  {step}{quiet}\n          {step.why}")
        return "\n".join(lines) + "\n"

    def continued(self, title: str) -> Program:
        """A copy to add steps to.  What is here is packed once for all copies: 10 us for each, not 200."""
        if self._begun is None:
            begun = _Packer()
            begun.add(self)
            self._begun = begun  # whole: another thread may copy it from now on
        return Program(title, list(self.steps), list(self.behind), self.clone_index, dict(self.headings), self._begun)

    def pack(self) -> bytes:
        """The program as the runner reads it."""
        packer = _Packer() if self._begun is None else self._begun.copy()
        packer.add(self)
        return packer.finish()


@cache
def runner_image() -> bytes:
    """The runner's ELF file, as installed beside this module."""
    return Path(__file__).with_name("runner").read_bytes()


@cache
def _tolerated(errnos: tuple[int, ...]) -> tuple[int, ...]:
    if len(errnos) > 4:
        raise ValueError(f"a step tolerates four errnos at most, not {errnos}")
    return (*errnos, 0, 0, 0, 0)[:4]


@cache
def _number(call: str) -> int:
    return int(getattr(lib, f"SYS_{call}"))


def _checked(text: bytes) -> bytes:
    """*text*, unless C would take it for another, shorter one than was looked at here."""
    if b"\0" in text:
        raise ValueError(f"{quote(text)}: must not contain a NUL")
    return text


class _Packer:
    """Lays a program out: header, slots, data, steps, relocations.

    Slots and data come first, so that their places do not depend on how many steps there will be.
    """

    def __init__(self) -> None:
        self._slots = {"pidfd": 0}
        self._data = bytearray()
        self._steps = bytearray()
        self._behind = bytearray()
        self._known: dict[object, int] = {}
        self._relocations: list[int] = []
        self._pid_word = 0
        self._clone_index: int | None = None

    def copy(self) -> _Packer:
        """Another one that goes on from here."""
        other = _Packer()
        other._slots = dict(self._slots)
        other._data, other._steps, other._behind = bytearray(self._data), bytearray(self._steps), bytearray(self._behind)
        other._known, other._relocations = dict(self._known), list(self._relocations)
        other._pid_word, other._clone_index = self._pid_word, self._clone_index
        return other

    def add(self, program: Program) -> None:
        """Pack those steps of *program* that are not packed yet."""
        for index in range(len(self._steps) // _STEP.size, len(program.steps)):
            if index == program.clone_index:
                self._clone_index = index
            self._steps += self._pack_step(program.steps[index], is_clone=index == program.clone_index)
        for step in program.behind[len(self._behind) // _STEP.size :]:
            self._behind += self._pack_step(step, is_clone=False)

    def finish(self) -> bytes:
        """The whole: the parent half goes on behind the last step of the clone."""
        before = len(self._steps) // _STEP.size
        if before + len(self._behind) // _STEP.size > MAX_STEPS:
            raise ValueError(f"a program has {MAX_STEPS} steps at most")
        if self._clone_index is not None:
            struct.pack_into("<H", self._steps, self._clone_index * _STEP.size + _TARGET_OFFSET, before)
        slots = b"".join(_EMPTY if name != "pidfd" else bytes(8) for name in self._slots).ljust(8 * _MAX_SLOTS, b"\0")
        self._align()
        steps_at = _DATA_AT + len(self._data)
        steps = self._steps + self._behind
        count = len(steps) // _STEP.size
        relocations_at = steps_at + len(steps)
        relocations = struct.pack(f"<{len(self._relocations)}I", *self._relocations)
        header = _HEADER.pack(
            _MAGIC, _VERSION, count, relocations_at + len(relocations), report_size(count), steps_at,
            relocations_at, len(self._relocations), self._pid_word,
        )
        return header + slots + self._data + steps + relocations

    def _pack_step(self, step: Step, *, is_clone: bool) -> bytes:
        store = self._slot(step.store) if step.store else _NO_SLOT
        tolerated = _tolerated(step.tolerate)
        if step.call == "chain":
            return _STEP.pack(0, _CHAIN, _NO_SLOT, 0, 0, *tolerated, *_PADDING[0])
        if is_clone:
            arguments = (self._clone_arguments(step), ffi.sizeof("struct clone_args"), 0, 0, 0, 0)
            return _STEP.pack(_number("clone3"), _CLONE, store, _ADDRESS, 0, *tolerated, *arguments)
        kinds, shift = 0, 0
        values = []
        for argument in step.arguments:
            if isinstance(argument, int):
                values.append(argument if argument < _SIGN else argument - 2 * _SIGN)
            elif isinstance(argument, Flags):
                values.append(value_of(argument.names))
            elif isinstance(argument, Slot):
                kinds |= _SLOT << shift
                values.append(self._slots[argument.name])
            else:
                kinds |= _ADDRESS << shift
                values.append(self._place(argument))
            shift += 2
        operation = _LAST_CLOCK if step.ends_clock else _CALL
        return _STEP.pack(_number(step.call), operation, store, kinds, 0, *tolerated, *values, *_PADDING[len(values)])

    def _slot(self, name: str) -> int:
        number = self._slots.setdefault(name, len(self._slots))
        if number >= _MAX_SLOTS:
            raise ValueError(f"a program has {_MAX_SLOTS} slots at most")
        return number

    def _place(self, argument: str | bytes | Vector | Words | Filter | Buffer | Structure) -> int:
        """Put *argument* into the data, once; return its offset in the program."""
        if isinstance(argument, Buffer):
            return self._place_once((Buffer, argument.name), argument) + argument.offset
        return self._place_once((type(argument), argument), argument)

    def _place_once(self, key: object, argument: str | bytes | Vector | Words | Filter | Buffer | Structure) -> int:
        place = self._known.get(key)
        if place is None:
            place = self._known[key] = self._write(argument)
        return place

    def _write(self, argument: str | bytes | Vector | Words | Filter | Buffer | Structure) -> int:
        match argument:
            case Vector(items):
                addresses = [self._place(_checked(item)) for item in items]
                return self._write_words(8, (*addresses, 0), relocate=range(len(items)))
            case Words(width, values):
                return self._write_words(width, values)
            case Structure(words):
                placed = [word if isinstance(word, int) else self._place(word) for word in words]
                return self._write_words(8, placed, [at for at, word in enumerate(words) if not isinstance(word, int)])
            case Filter(code):
                return self._write_words(8, (len(code) // 8, self._append(code, 8)), relocate=(1,))
            case Buffer(_, size):
                return self._append(b"\0" * size, 8)
            case str():
                return self._append(_checked(os.fsencode(argument)) + b"\0", 1)
            case bytes():
                return self._append(argument + b"\0", 1)

    def _write_words(self, width: int, values: Sequence[int], relocate: Iterable[int] = ()) -> int:
        mask = (1 << 8 * width) - 1
        offset = self._append(b"".join((value & mask).to_bytes(width, "little") for value in values), 8)
        self._relocations.extend(offset + 8 * index for index in relocate)
        return offset

    def _append(self, content: bytes, alignment: int) -> int:
        if alignment > 1:
            self._align()
        offset = _DATA_AT + len(self._data)
        self._data += content
        return offset

    def _align(self) -> None:
        self._data += b"\0" * (-(_DATA_AT + len(self._data)) % 8)

    def _clone_arguments(self, step: Step) -> int:
        """A struct clone_args; pidfd points into the slots, parent_tid at the report (the runner fills it in)."""
        flags, cgroup = step.arguments
        assert isinstance(flags, Flags) and isinstance(cgroup, int)
        arguments = ffi.new("struct clone_args *")
        arguments.flags = flags.value()
        arguments.exit_signal = 0 if "CLONE_PARENT" in flags.names else lib.SIGCHLD  # clone3(2): EINVAL with both
        arguments.cgroup = max(cgroup, 0)
        arguments.pidfd = _HEADER.size + 8 * self._slots["pidfd"]
        offset = self._append(bytes(ffi.buffer(arguments)), 8)
        self._relocations.append(offset + ffi.offsetof("struct clone_args", "pidfd"))
        self._pid_word = offset + ffi.offsetof("struct clone_args", "parent_tid")
        return offset
