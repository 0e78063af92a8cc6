"""The program of a bundle for people: composed on a sketch of the ground, without root, touching nothing."""

from __future__ import annotations

import difflib
import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel.decode import decode, decode_arguments
from kernel.program import Program, Step
from runtime.container import init
from runtime.container.seccomp import compile_filter
from runtime.container.sketch import names_of, sketch
from runtime.errors import InvalidSpec
from runtime.spec import schema
from runtime.spec.load import SIZE_LIMIT_BYTES, load


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step as it is shown: *tolerated* are the errnos that count as done, *store* is the slot for its result."""

    number: int
    heading: str
    call: str
    arguments: tuple[str, ...]
    text: str
    why: str
    hint: str
    store: str | None
    tolerated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    title: str
    steps: tuple[PlannedStep, ...]

    def sections(self) -> Iterator[tuple[str, list[PlannedStep]]]:
        """The steps by facility, in their order."""
        section: list[PlannedStep] = []
        for step in self.steps:
            if section and step.heading != section[-1].heading:
                yield section[-1].heading, section
                section = []
            section.append(step)
        if section:
            yield section[-1].heading, section


def load_spec(path: Path) -> schema.Spec:
    """The spec at *path*: a config.json, or the bundle that it lies in.  Raises InvalidSpec."""
    file = path / "config.json" if path.is_dir() else path
    try:
        with open(file, "rb") as stream:
            document = stream.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise InvalidSpec(f"{file}: {(error.strerror or str(error)).lower()}; give a config.json, or a bundle") from error
    try:
        return load(document)
    except InvalidSpec as error:
        raise InvalidSpec(f"{file}: {error}") from None


def plan(title: str, spec: schema.Spec) -> Plan:
    """What a start of *spec* will do.  Raises InvalidSpec or Unsupported as a start would."""
    drawn = sketch(spec, has_reaper=False, in_order=True)
    code = compile_filter(spec.linux.seccomp) if spec.linux.seccomp else None
    return describe(init.program(title, drawn.spec, drawn.facts, code), names_of(drawn.spec, drawn.facts))


def describe(program: Program, names: dict[int, str]) -> Plan:
    """*program* with its arguments decoded; *names* are those of the descriptors opened beforehand."""
    facilities = program.facilities()
    steps = (_planned(index, step, facilities[index], names) for index, step in enumerate(program.all_steps))
    return Plan(program.title, tuple(steps))


def _planned(index: int, step: Step, heading: str, names: dict[int, str]) -> PlannedStep:
    return PlannedStep(
        number=index + 1,
        heading=heading,
        call=step.call,
        arguments=tuple(decode_arguments(step, names)),
        text=decode(step, names),
        why=step.why,
        hint=step.hint,
        store=step.store,
        tolerated=tuple(errno.errorcode.get(code, str(code)) for code in step.tolerate),
    )


# Two plans beside each other.


@dataclass(frozen=True, slots=True)
class Difference:
    """What stands in one plan and not in the other; both when a step was changed."""

    left: PlannedStep | None
    right: PlannedStep | None

    @property
    def heading(self) -> str:
        return (self.right or self.left).heading  # type: ignore[union-attr]

    def changed_arguments(self) -> list[tuple[str, str]]:
        """The arguments that differ, as (before, after); what only one of the two steps has is empty in the other."""
        if self.left is None or self.right is None:
            return []
        pairs = itertools.zip_longest(self.left.arguments, self.right.arguments, fillvalue="")
        return list(dict.fromkeys((one, other) for one, other in pairs if _bare(one) != _bare(other)))


def compare(left: Plan, right: Plan) -> list[Difference]:
    """How *right* differs from *left*, step by step: what was taken away, added, or is called with something else.

    Steps are the same when they call the same with the same; numbers do not count, which shift with every insertion.
    """
    texts = [[(step.heading, *_wholly(step)) for step in side.steps] for side in (left, right)]
    found: list[Difference] = []
    matcher = difflib.SequenceMatcher(None, texts[0], texts[1], autojunk=False)
    for kind, begin, end, other_begin, other_end in matcher.get_opcodes():
        if kind != "equal":
            found += _align(left.steps[begin:end], right.steps[other_begin:other_end])
    return found


def _align(left: Sequence[PlannedStep], right: Sequence[PlannedStep]) -> Iterator[Difference]:
    """Pair the steps that are one and the same with another argument; the rest stands alone."""
    keys = [[_likeness(step) for step in side] for side in (left, right)]
    matcher = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    for kind, begin, end, other_begin, other_end in matcher.get_opcodes():
        if kind == "equal":
            yield from (Difference(one, other) for one, other in zip(left[begin:end], right[other_begin:other_end], strict=True))
            continue
        yield from (Difference(step, None) for step in left[begin:end])
        yield from (Difference(None, step) for step in right[other_begin:other_end])


#: Of calls that a program makes often: which of the arguments say what it is about.
_SUBJECTS = {
    "fsconfig": slice(1, 3),
    "fsopen": slice(0, 1),
    "mkdirat": slice(1, 2),
    "mknodat": slice(1, 2),
    "openat": slice(1, 2),
    "openat2": slice(1, 2),
    "prctl": slice(0, 2),
    "prlimit64": slice(1, 2),
    "setns": slice(1, 2),
    "symlinkat": slice(2, 3),
}


def _likeness(step: PlannedStep) -> tuple[str, ...]:
    """What makes a step the same one in another program: what it calls, on what."""
    return (step.heading, step.call, _bare(step.store or ""), *step.arguments[_SUBJECTS.get(step.call, slice(0, 0))])


def _wholly(step: PlannedStep) -> tuple[object, ...]:
    return (step.call, tuple(map(_bare, step.arguments)), step.tolerated, step.why)  # why: of which mount it is, say


def _bare(text: str) -> str:
    """A slot's name without the number of the mount that it belongs to: strings have quotes, and keep theirs."""
    return text.rstrip("0123456789") if text[:1].isalpha() else text


def title_of(path: Path) -> str:
    """What a plan of *path* is called: the bundle's name."""
    directory = path if path.is_dir() else path.parent
    return f"the start of {os.path.basename(os.path.abspath(directory)) or 'a container'}"
