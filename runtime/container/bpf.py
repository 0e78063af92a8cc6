"""Answers for system call numbers to classic BPF (linux/filter.h): an assembler, and the search tree it lays.

Jumps only go forward and a conditional one reaches 255 instructions, so a program is put together
from its end: whatever an instruction continues with exists before it, and its distance is known.
Where that is too far, a ``ja``, or another copy of the ``ret``, is laid in between.

Until a call's arguments are asked for, only loads of number and architecture, ``jeq`` and ``jge`` are
used: what the kernel (5.11) can follow when it marks the calls that need no filter run at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kernel.seccomp import INSTRUCTION, RET_KILL_THREAD

#: Offsets in struct seccomp_data (linux/seccomp.h).
NUMBER = 0
ARCHITECTURE = 4
ARGUMENTS = 16

LD_W_ABS = 0x20
ALU_AND_K = 0x54
JMP_JA = 0x05
JEQ = 0x15
JGT = 0x25
JGE = 0x35
RET_K = 0x06

REACH = 255
WORD = 0xFFFFFFFF

#: Single numbers that a leaf of the tree tells apart one by one, before its own answer.
MAX_EXCEPTIONS = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison with argument *index*, unsigned; *mask* is applied first where the operator is EQ or NE.

    Only the low word of the argument is looked at unless it *is_wide*.
    """

    index: int
    operator: str
    value: int
    mask: int
    is_wide: bool


@dataclass(frozen=True, slots=True)
class Branches:
    """The value of the first alternative whose conditions all hold, else *otherwise*."""

    alternatives: tuple[tuple[tuple[Condition, ...], int], ...]
    otherwise: int


#: What a filter answers for a number: a value to return, or branches.
Outcome = int | Branches

#: The first number of a range and what all of it answers; the next range, or 2**32, is its end.
Range = tuple[int, Outcome]


@dataclass(frozen=True, slots=True)
class Leaf:
    """Numbers from *first* answer *outcome*, but for the *exceptions*."""

    first: int
    outcome: Outcome
    exceptions: tuple[Range, ...]


def program(ranges: Mapping[int, Sequence[Range]]) -> bytes:
    """The filter that answers *ranges* by audit architecture, and kills a thread of any other.

    Each sequence starts at 0 and rises.  The first architecture is found fastest.
    """
    assembler = Assembler()
    sections = [(audit, _section(assembler, found)) for audit, found in reversed(list(ranges.items()))]
    top = assembler.ret(RET_KILL_THREAD)
    for audit, label in sections:
        top = assembler.jump(JEQ, audit, label, top)
    assembler.load(ARCHITECTURE, top)
    return assembler.finish()


def _section(assembler: Assembler, ranges: Sequence[Range]) -> int:
    shared: dict[Branches, int] = {}
    return assembler.load(NUMBER, _tree(assembler, list(_leaves(_merged(ranges))), shared))


def _merged(ranges: Sequence[Range]) -> list[Range]:
    merged: list[Range] = []
    for first, outcome in ranges:
        if not merged or merged[-1][1] != outcome:
            merged.append((first, outcome))
    return merged


def _leaves(ranges: Sequence[Range]) -> Iterator[Leaf]:
    """Group *ranges*: one or a few single numbers inside what is otherwise one range share its leaf."""
    position = 0
    while position < len(ranges):
        first, outcome = ranges[position]
        exceptions: list[Range] = []
        while len(exceptions) < MAX_EXCEPTIONS and position + 2 < len(ranges):
            single, after = ranges[position + 1], ranges[position + 2]
            if after[0] != single[0] + 1 or after[1] != outcome:
                break
            exceptions.append(single)
            position += 2
        yield Leaf(first, outcome, tuple(exceptions))
        position += 1


def _tree(assembler: Assembler, leaves: Sequence[Leaf], shared: dict[Branches, int]) -> int:
    """The label of a binary search for the loaded number."""
    if len(leaves) > 1:
        middle = len(leaves) // 2
        upper = _tree(assembler, leaves[middle:], shared)
        lower = _tree(assembler, leaves[:middle], shared)
        return assembler.jump(JGE, leaves[middle].first, upper, lower)
    label = _outcome(assembler, leaves[0].outcome, shared)
    for number, outcome in reversed(leaves[0].exceptions):
        label = assembler.jump(JEQ, number, _outcome(assembler, outcome, shared), label)
    return label


def _outcome(assembler: Assembler, outcome: Outcome, shared: dict[Branches, int]) -> int:
    if isinstance(outcome, int):
        return assembler.ret(outcome)
    if outcome not in shared:
        label = assembler.ret(outcome.otherwise)
        for conditions, value in reversed(outcome.alternatives):
            label = _alternative(assembler, conditions, assembler.ret(value), label)
        shared[outcome] = label
    return shared[outcome]


def _alternative(assembler: Assembler, conditions: Sequence[Condition], yes: int, no: int) -> int:
    for condition in reversed(conditions):
        yes = _condition(assembler, condition, yes, no)
    return yes


def _condition(assembler: Assembler, condition: Condition, yes: int, no: int) -> int:
    match condition.operator:
        case "EQ":
            return _equal(assembler, condition, yes, no)
        case "NE":
            return _equal(assembler, condition, no, yes)
        case "GT":
            return _above(assembler, condition, JGT, yes, no)
        case "LE":
            return _above(assembler, condition, JGT, no, yes)
        case "GE":
            return _above(assembler, condition, JGE, yes, no)
        case "LT":
            return _above(assembler, condition, JGE, no, yes)
    raise ValueError(f"unknown operator {condition.operator!r}")


def _equal(assembler: Assembler, condition: Condition, yes: int, no: int) -> int:
    value, mask = condition.value, condition.mask
    offset = ARGUMENTS + 8 * condition.index
    label = _word_equal(assembler, offset, (value & WORD, mask & WORD), yes, no)
    if condition.is_wide:
        label = _word_equal(assembler, offset + 4, (value >> 32, mask >> 32), label, no)
    return label


def _word_equal(assembler: Assembler, offset: int, wanted: tuple[int, int], yes: int, no: int) -> int:
    value, mask = wanted
    if not mask:
        return no if value else yes
    label = assembler.jump(JEQ, value, yes, no)
    if mask != WORD:
        label = assembler.mask(mask, label)
    return assembler.load(offset, label)


def _above(assembler: Assembler, condition: Condition, test: int, yes: int, no: int) -> int:
    """JGT or JGE over the low word, where the high words are the same."""
    low, high = condition.value & WORD, condition.value >> 32
    offset = ARGUMENTS + 8 * condition.index
    label = assembler.load(offset, assembler.jump(test, low, yes, no))
    if not condition.is_wide:
        return label
    label = assembler.jump(JEQ, high, label, no)
    return assembler.load(offset + 4, assembler.jump(JGT, high, yes, label))


class Assembler:
    """Instructions from last to first.  A label is how many instructions stood when its own was laid."""

    def __init__(self) -> None:
        self._reversed: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._reversed)

    def ret(self, value: int) -> int:
        """Return *value*: the label of a ``ret`` in reach, or of a new one."""
        label = self._returns.get(value)
        # Two further instructions may come in between: the second ret and a jump's own ja.
        if label is None or self._distance(label) > REACH - 2:
            label = self._returns[value] = self._lay(RET_K, 0, 0, value)
        return label

    def load(self, offset: int, then: int) -> int:
        """Load the 32-bit word at *offset* of struct seccomp_data, then go on at *then*."""
        self._continue_at(then)
        return self._lay(LD_W_ABS, 0, 0, offset)

    def mask(self, bits: int, then: int) -> int:
        """Keep *bits* of the loaded word, then go on at *then*."""
        self._continue_at(then)
        return self._lay(ALU_AND_K, 0, 0, bits)

    def jump(self, test: int, operand: int, yes: int, no: int) -> int:
        """Compare the loaded word with *operand* (JEQ, JGT or JGE, unsigned) and go on at *yes* or *no*."""
        if yes == no:
            return yes
        if self._distance(no) >= REACH:  # one less: a ja for *yes* would add to it
            no = self._go(no)
        if self._distance(yes) > REACH:
            yes = self._go(yes)
        return self._lay(test, self._distance(yes), self._distance(no), operand)

    def finish(self) -> bytes:
        """The program, first instruction first: an array of struct sock_filter."""
        return b"".join(INSTRUCTION.pack(*instruction) for instruction in reversed(self._reversed))

    def _distance(self, label: int) -> int:
        return len(self._reversed) - label - 1

    def _continue_at(self, label: int) -> None:
        if self._distance(label):
            self._go(label)

    def _go(self, label: int) -> int:
        return self._lay(JMP_JA, 0, 0, self._distance(label))

    def _lay(self, code: int, yes: int, no: int, operand: int) -> int:
        self._reversed.append((code, yes, no, operand))
        return len(self._reversed) - 1
