"""The seccomp compiler against libseccomp and against the words of the specification, on random profiles."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel._linux import lib
from runtime.container import seccomp
from runtime.container.syscalls import AARCH64, ARM, MACHINES, X32, X86, X86_64, Architecture, numbers
from runtime.errors import InvalidSpec
from runtime.spec import schema
from runtime.spec.defaults import CAPABILITIES
from tests.support import bpf, libseccomp
from tests.support.profiles import arg, compiled
from tests.support.requires import requires

ALL_ONES = 2**64 - 1

AUDITS = [abi.audit for abis in MACHINES.values() for abi in abis if abi is not X32]

#: Every number that can have a rule, the edges of the x32 range, ARM's private calls, and -1.
NUMBERS = [
    *range(601),
    *range(0x40000000, 0x40000000 + 601),
    *range(0xEFFFF, 0xF0009),
    0x3FFFFFFF,
    0x80000000,
    2**32 - 2,
    2**32 - 1,
]


def known_to_libseccomp(made: schema.Seccomp) -> schema.Seccomp:
    for entry in made.syscalls:
        entry.names = [name for name in entry.names if libseccomp.knows(name)]
    return made


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    "capabilities", [CAPABILITIES, (), ("CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_BPF")], ids=["usual", "none", "admin"]
)
def test_default_profile_answers_as_libseccomp_does(machine: str, capabilities: tuple[str, ...]) -> None:
    made = known_to_libseccomp(seccomp.default_profile(capabilities, machine))
    ours, theirs = compiled(made, machine), bpf.Filter(libseccomp.compile_filter(made))
    first_arguments = (0, 8, 38, 39, 40, 41, 64, 0x20008, 0x10000000, 2**32 - 1, 2**32, 2**32 + 40, ALL_ONES)
    differ = [
        (audit, number, first)
        for audit in AUDITS
        for number in NUMBERS
        for first in first_arguments
        if ours.run(audit, number, [first]) != theirs.run(audit, number, [first])
    ]
    assert differ == []
    assert len(ours) < len(theirs) / 2


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_all_four_billion_numbers_have_libseccomps_answer(machine: str) -> None:
    """A filter compares a number with constants and does nothing else to it: what lies between two has one answer."""
    made = known_to_libseccomp(seccomp.default_profile(CAPABILITIES, machine))
    ours, theirs = compiled(made, machine), bpf.Filter(libseccomp.compile_filter(made))
    constants = {operand for each in (ours, theirs) for code, _, _, operand in each.instructions if code in bpf.JUMPS}
    edges = {(constant + step) % 2**32 for constant in {*constants, 0} for step in (-1, 0, 1)}
    differ = [(audit, number) for audit in AUDITS for number in edges if ours.run(audit, number) != theirs.run(audit, number)]
    assert differ == []
    assert len(edges) > 400


_NAMES = """
    read write openat socket socketcall ipc shmat send recv personality clone prctl ioctl fcntl64 mmap2 waitpid exit_group
    rt_sigaction getrandom mq_notify futex_waitv cacheflush arm_fadvise64_64 io_uring_setup no_such_call
"""
NAMES = _NAMES.split()

ACTIONS = st.one_of(
    st.sampled_from(["ALLOW", "KILL", "KILL_THREAD", "KILL_PROCESS", "LOG", "TRAP"]).map(lambda name: (f"SCMP_ACT_{name}", None)),
    st.tuples(st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"]), st.sampled_from([None, 1, 38, 4094])),
)

VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 0xFFFF, 0x7FFFFFFF, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, ALL_ONES - 1, ALL_ONES]),
    st.integers(0, ALL_ONES),
)


@st.composite
def conditions(draw: st.DrawFn, index: st.SearchStrategy[int]) -> schema.SeccompArg:
    operator = draw(st.sampled_from(["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]))
    return arg(draw(index), operator, draw(VALUES), draw(VALUES) if operator == "MASKED_EQ" else 0)


@st.composite
def argument_lists(draw: st.DrawFn) -> list[list[schema.SeccompArg]]:
    """The arguments of a few rules of one call, such as libseccomp answers right: one rule, or equalities on one index.

    2.5.4 loses some of several rules otherwise: with "first not 0" and "second not 0 and first not 1", or with
    "first below 0" and "first below 2**32", all killing, it allows (2, 0).  A mask of zero, which always
    holds, beats an unconditional rule there.
    """
    if draw(st.booleans()):
        index = draw(st.integers(0, 5))
        return [[arg(index, "EQ", value)] for value in draw(st.lists(VALUES, max_size=4))]
    usable = conditions(st.integers(0, 5)).filter(lambda one: one.value != 0 or one.op != "SCMP_CMP_MASKED_EQ")
    return [draw(st.lists(usable, min_size=1, max_size=3, unique_by=lambda one: one.index))]


@st.composite
def any_argument_lists(draw: st.DrawFn) -> list[list[schema.SeccompArg]]:
    return draw(st.lists(st.lists(conditions(st.integers(0, 5)), min_size=1, max_size=4), max_size=3))


@st.composite
def profiles(
    draw: st.DrawFn, arguments: st.SearchStrategy[list[list[schema.SeccompArg]]], *, mixed: bool = False
) -> schema.Seccomp:
    """Unless *mixed*, rules on arguments of one call share an action: libseccomp orders different ones in its own way."""
    default, default_data = draw(ACTIONS)
    of_rules = ACTIONS | st.just(("SCMP_ACT_NOTIFY", None))
    rules: list[schema.SyscallRule] = []
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=8, unique=True)):
        action, data = draw(ACTIONS if name == "write" else of_rules)
        for found in draw(arguments):
            if mixed:
                action, data = draw(ACTIONS)
            rules.append(schema.SyscallRule(names=[name], action=action, errno_ret=data, args=found))
        for action, data in draw(st.lists(ACTIONS, max_size=2)):
            rules.append(schema.SyscallRule(names=[name], action=action, errno_ret=data))
    architectures = draw(st.sets(st.sampled_from([X86.name, X32.name])))
    return schema.Seccomp(
        default_action=default,
        default_errno_ret=default_data,
        architectures=[X86_64.name, *sorted(architectures)],
        listener_path="/agent",
        syscalls=draw(st.permutations(rules)),
    )


def vectors(made: schema.Seccomp, name: str) -> Iterator[list[int]]:
    """Argument lists at, below and above each value that *made* compares *name*'s arguments with."""
    entries = [entry for entry in made.syscalls if name in entry.names]
    for satisfied in [*(entry.args for entry in entries), []]:
        base = [0] * 6
        for one in satisfied:
            base[one.index] = one.value_two if one.op == "SCMP_CMP_MASKED_EQ" else one.value
        yield base
        for one in (one for entry in entries for one in entry.args):
            for value in (one.value, one.value_two):
                for other in (value - 1, value, value + 1, value ^ 2**32, value ^ 2**63, value & 0xFFFFFFFF, ~value):
                    yield [*base[: one.index], other & ALL_ONES, *base[one.index + 1 :]]


MULTIPLEXED = {"socketcall", "ipc", "socket", "send", "recv", "shmat"}


def comparable(made: schema.Seccomp) -> schema.Seccomp:
    """*made* with the calls alone that libseccomp knows and all its architectures have under a number of their own.

    With others (send on i386, mmap2 beside x32) 2.5.4 may forget to load the number that it compares next.
    """
    tables = [numbers(abi) for abi in MACHINES["x86_64"] if abi.name in made.architectures]
    for entry in known_to_libseccomp(made).syscalls:
        entry.names = [name for name in entry.names if name not in MULTIPLEXED and all(name in table for table in tables)]
    return made


def reached(abi: Architecture, made: schema.Seccomp) -> Iterator[tuple[str, list[int]]]:
    """The calls of *abi* that *made* can name, with arguments that matter."""
    for name in NAMES:
        if name in numbers(abi):
            yield from ((name, arguments) for arguments in vectors(made, name))


@requires("machine x86_64")
@settings(max_examples=60)
@given(made=profiles(argument_lists()))
def test_random_profiles_answer_as_libseccomp_does(made: schema.Seccomp) -> None:
    known = comparable(made)
    try:
        theirs = bpf.Filter(libseccomp.compile_filter(known))
    except OSError as error:
        # It refuses a condition that is there already; we take the same answer twice.
        assert error.errno == errno.EEXIST
        return
    ours = compiled(known)
    for audit in AUDITS:
        for number in NUMBERS[::41]:
            assert ours.run(audit, number) == theirs.run(audit, number)
    for abi in MACHINES["x86_64"]:
        for name, arguments in reached(abi, known):
            if libseccomp.knows(name):
                answers = [made.run(abi.audit, numbers(abi)[name], arguments) for made in (ours, theirs)]
                assert answers[0] == answers[1], (abi.name, name, arguments)


def holds(condition: schema.SeccompArg, arguments: Sequence[int], bits: int) -> bool:
    ones = (1 << bits) - 1
    found, value, datum = arguments[condition.index] & ones, condition.value & ones, condition.value_two & ones
    return {
        "NE": found != value,
        "LT": found < value,
        "LE": found <= value,
        "EQ": found == value,
        "GE": found >= value,
        "GT": found > value,
        "MASKED_EQ": found & value == datum & value,
    }[condition.op.removeprefix("SCMP_CMP_")]


def expected(made: schema.Seccomp, name: str, arguments: Sequence[int], bits: int) -> int:
    """What *made* says of a call, read rule by rule."""
    default = libseccomp.action(made.default_action, made.default_errno_ret)
    rules = [entry for entry in made.syscalls if name in entry.names]
    answers = [(libseccomp.action(entry.action, entry.errno_ret), entry.args) for entry in rules]
    answers = [(value, args) for value, args in answers if value != default]
    for value, args in answers:
        if not args:
            return value
    for value, args in answers:
        is_repeated = len({one.index for one in args}) < len(args)
        if (any if is_repeated else all)(holds(one, arguments, bits) for one in args):
            return value
    return default


@given(made=profiles(any_argument_lists(), mixed=True), machine=st.sampled_from(["x86_64", "aarch64"]))
def test_random_profiles_answer_what_their_rules_say(made: schema.Seccomp, machine: str) -> None:
    made.architectures = [abi.name for abi in MACHINES[machine]]
    try:
        ours = compiled(made, machine)
    except InvalidSpec as error:
        assert "two actions under one condition" in str(error)
        return
    for abi in MACHINES[machine]:
        for name, arguments in reached(abi, made):
            if name not in ("socketcall", "ipc"):  # other calls' rules reach these as well
                answer = ours.run(abi.audit, numbers(abi)[name], arguments)
                assert answer == expected(made, name, arguments, abi.bits), (abi.name, name, arguments)


@requires("machine x86_64")
def test_table_has_the_numbers_of_this_machines_headers() -> None:
    names = [name.removeprefix("SYS_") for name in dir(lib) if name.startswith("SYS_")]
    assert len(names) > 50
    assert {name: numbers(X86_64)[name] for name in names} == {name: getattr(lib, f"SYS_{name}") for name in names}


@pytest.mark.parametrize("abi", [X86_64, X86, X32, AARCH64, ARM], ids=lambda abi: abi.column)
def test_table_agrees_with_libseccomp(abi: Architecture) -> None:
    """Where both have a number; ours is newer, and only it knows ARM's second name for sync_file_range2."""
    architecture = libseccomp.ARCHITECTURES[abi.name]
    theirs = {name: libseccomp.number_of(name, architecture) for name in numbers(abi)}
    differ = {name: number for name, number in theirs.items() if number >= 0 and number != numbers(abi)[name]}
    assert differ == {}
    assert sum(number >= 0 for number in theirs.values()) > 300
