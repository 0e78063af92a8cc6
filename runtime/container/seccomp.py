"""An OCI seccomp profile to a BPF filter (pure), and the default profile.

A filter looks at the architecture, then finds the call's number in a balanced tree of ranges, most of
which have one answer; rules on arguments stand at the leaves.  Meanings are libseccomp's, which
profiles are written against and the tests compare with:

* a rule that answers what the default does is left out, and names that a table lacks are ignored;
* an unconditional rule beats every rule on arguments of the same call; of several the first stays;
* the conditions of one rule must all hold, but where an argument is named twice each stands alone;
* values are unsigned; 32-bit architectures compare low words, so that 2**64 - 1 is -1 there too;
* another architecture, or an x32 number without SCMP_ARCH_X32, kills the thread.

Where libseccomp orders rules on arguments by its own tree, here the first that holds decides; and where
it allows all of i386's socketcall for a rule that allows some sockets, here none is allowed.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import resources

import msgspec

from kernel import seccomp as kernel
from runtime.container import bpf
from runtime.container.bpf import Branches, Condition, Outcome, Range
from runtime.container.syscalls import FOREIGN, MACHINES, PRIVATE, X32, X86_64, Architecture, multiplexed, numbers
from runtime.errors import InvalidSpec
from runtime.spec import schema

ACTIONS: dict[str, int] = {
    "SCMP_ACT_KILL": kernel.RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": kernel.RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": kernel.RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": kernel.RET_TRAP,
    "SCMP_ACT_ERRNO": kernel.RET_ERRNO,
    "SCMP_ACT_NOTIFY": kernel.RET_USER_NOTIF,
    "SCMP_ACT_TRACE": kernel.RET_TRACE,
    "SCMP_ACT_LOG": kernel.RET_LOG,
    "SCMP_ACT_ALLOW": kernel.RET_ALLOW,
}

OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

#: Defaults under which a call that the profile has not heard of goes through anyway.
PERMISSIVE = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"})

#: The largest data that an action carries: the kernel cuts an errno off at MAX_ERRNO (linux/err.h).
MAX_DATA = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": kernel.RET_DATA}

MISSING = kernel.RET_ERRNO | errno.ENOSYS
ALL_ONES = 2**64 - 1
LAST_NUMBER = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Rule:
    """*names* answer *value* where all *conditions* hold."""

    names: list[str]
    conditions: tuple[Condition, ...]
    value: int


@dataclass(slots=True)
class Answers:
    """What a profile says of each number of one architecture."""

    default: int
    always: dict[int, int] = field(default_factory=dict)
    sometimes: dict[int, dict[tuple[Condition, ...], int]] = field(default_factory=dict)

    def outcomes(self) -> dict[int, Outcome]:
        branches = {number: Branches(tuple(found.items()), self.default) for number, found in self.sometimes.items()}
        return {**branches, **self.always}


def compile_filter(profile: schema.Seccomp, architecture: str = "x86_64") -> bytes:
    """The filter for *profile* on a machine ``x86_64`` or ``aarch64``: an array of struct sock_filter, little endian.

    Raises InvalidSpec, naming the field, for a profile that makes no filter.  A profile that was seen
    before is answered from memory.
    """
    return _remembered(msgspec.json.encode(profile), architecture)


@lru_cache(maxsize=64)
def _remembered(document: bytes, architecture: str) -> bytes:
    return assemble(msgspec.json.decode(document, type=schema.Seccomp), architecture)


def assemble(profile: schema.Seccomp, architecture: str, *, refuse_newer: bool = True) -> bytes:
    """``compile_filter`` without its memory.

    With *refuse_newer*, numbers above the newest call that the profile names answer ENOSYS where they
    would be denied: a C library falls back to an older call on ENOSYS, and fails on EPERM
    (runc's libcontainer/seccomp/patchbpf does the same).
    """
    default = _default(profile)
    refuse_newer = refuse_newer and profile.default_action not in PERMISSIVE and default != MISSING
    rules = list(_rules(profile, default))
    found: dict[Architecture, list[Range]] = {}
    for abi in _architectures(profile, architecture):
        newest = _newest(profile, abi) if refuse_newer else None
        found[abi] = _ranges(_answers(rules, abi, default), abi, newest)
    program = bpf.program(_by_audit(found))
    length = len(program) // kernel.INSTRUCTION.size
    if length > kernel.MAX_INSTRUCTIONS:
        raise InvalidSpec(
            f"linux.seccomp: the profile makes {length} instructions and the kernel takes {kernel.MAX_INSTRUCTIONS}; "
            "name fewer calls with arguments"
        )
    return program


def _default(profile: schema.Seccomp) -> int:
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise InvalidSpec(
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action: "
            "it would stop the call that hands the listener over"
        )
    return _value(profile.default_action, profile.default_errno_ret, "linux.seccomp.default")


def _value(action: str, data: int | None, where: str) -> int:
    """The word that a filter returns for *action*."""
    if action not in ACTIONS:
        raise InvalidSpec(f"{where}: unknown action {action!r}")
    if action not in MAX_DATA:
        if data is not None:
            raise InvalidSpec(f"{where}: {action} takes no errnoRet")
        return ACTIONS[action]
    if data is None:
        data = errno.EPERM
    if not 0 <= data <= MAX_DATA[action]:
        raise InvalidSpec(f"{where}: errnoRet {data} is not between 0 and {MAX_DATA[action]}")
    return ACTIONS[action] | data


def _architectures(profile: schema.Seccomp, machine: str) -> list[Architecture]:
    """Those that can reach this machine's kernel and are listed; the machine's own is always one of them."""
    if machine not in MACHINES:
        raise InvalidSpec(f"linux.seccomp: no system call table for {machine!r}; there are {', '.join(MACHINES)}")
    known = FOREIGN.union(abi.name for abis in MACHINES.values() for abi in abis)
    for name in profile.architectures:
        if name not in known:
            raise InvalidSpec(f"linux.seccomp.architectures: unknown architecture {name!r}")
    native, *others = MACHINES[machine]
    return [native, *(abi for abi in others if abi.name in profile.architectures)]


def _rules(profile: schema.Seccomp, default: int) -> Iterator[Rule]:
    for position, entry in enumerate(profile.syscalls):
        where = f"linux.seccomp.syscalls[{position}]"
        value = _value(entry.action, entry.errno_ret, where)
        if entry.action == "SCMP_ACT_NOTIFY":
            _check_notify(profile, entry, where)
        conditions = [_condition(argument, where) for argument in entry.args]
        if value == default:
            continue
        if len({condition.index for condition in conditions}) < len(conditions):
            yield from (Rule(entry.names, (condition,), value) for condition in conditions)
        else:
            yield Rule(entry.names, tuple(conditions), value)


def _check_notify(profile: schema.Seccomp, entry: schema.SyscallRule, where: str) -> None:
    if not profile.listener_path:
        raise InvalidSpec(f"{where}: SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath")
    if "write" in entry.names:
        raise InvalidSpec(f"{where}: SCMP_ACT_NOTIFY cannot be used for the write syscall, which hands the listener over")


def _condition(argument: schema.SeccompArg, where: str) -> Condition:
    if not 0 <= argument.index <= 5:
        raise InvalidSpec(f"{where}.args: index {argument.index} is not between 0 and 5")
    if argument.op not in OPERATORS:
        raise InvalidSpec(f"{where}.args: unknown operator {argument.op!r}")
    for number in (argument.value, argument.value_two):
        if not 0 <= number <= ALL_ONES:
            raise InvalidSpec(f"{where}.args: {number} does not fit in 64 unsigned bits")
    operator = argument.op.removeprefix("SCMP_CMP_")
    if operator == "MASKED_EQ":
        mask = argument.value
        return Condition(argument.index, "EQ", argument.value_two & mask, mask, True)
    return Condition(argument.index, operator, argument.value, ALL_ONES, True)


def _answers(rules: list[Rule], abi: Architecture, default: int) -> Answers:
    """*rules* by the numbers of *abi*."""
    answers = Answers(default)
    table, ways = numbers(abi), multiplexed(abi)
    for rule in sorted(rules, key=lambda rule: bool(rule.conditions)):
        conditions = rule.conditions
        if abi.bits == 32:
            conditions = tuple(replace(condition, is_wide=False) for condition in conditions)
        for name in rule.names:
            if name in table:
                _add(answers, table[name], conditions, rule.value, name)
            # An operation's own arguments lie in memory, where no filter sees them.  So what is denied for
            # some of them is denied for all; what is allowed for some is not allowed this way.
            if not conditions or _is_stricter(rule.value, default):
                for multiplexer, operation, mask in ways.get(name, ()):
                    found = answers.sometimes.setdefault(table[multiplexer], {})
                    found.setdefault((Condition(0, "EQ", operation, mask, False),), rule.value)
    return answers


def _is_stricter(value: int, other: int) -> bool:
    """Whether the kernel would obey *value* if two filters answered both: the lower signed action wins."""
    sign, action = 1 << 31, LAST_NUMBER ^ kernel.RET_DATA
    return (value & action) ^ sign < (other & action) ^ sign


def _add(answers: Answers, number: int, conditions: tuple[Condition, ...], value: int, name: str) -> None:
    if not conditions:
        answers.always.setdefault(number, value)
    elif answers.sometimes.setdefault(number, {}).setdefault(conditions, value) != value:
        raise InvalidSpec(f"linux.seccomp.syscalls: {name} has two actions under one condition")


def _newest(profile: schema.Seccomp, abi: Architecture) -> int | None:
    """The highest number of *abi* among all the calls that *profile* names, allowed or not."""
    table = numbers(abi)
    named = {table[name] for entry in profile.syscalls for name in entry.names if name in table}
    return max((number for number in named if number - abi.base < PRIVATE), default=None)


def _ranges(answers: Answers, abi: Architecture, newest: int | None) -> list[Range]:
    """What the numbers from *abi*'s first upwards answer; above *newest*, ENOSYS where no rule speaks."""
    outcomes = answers.outcomes()
    if newest is not None:
        outcomes.setdefault(newest, answers.default)
    ranges: list[Range] = []
    first = abi.base
    unnamed = answers.default
    for number in sorted(outcomes):
        if number > first:
            ranges.append((first, unnamed))
        ranges.append((number, outcomes[number]))
        first = number + 1
        if number == newest:
            unnamed = MISSING
    ranges.append((first, unnamed))
    return ranges


def _by_audit(found: dict[Architecture, list[Range]]) -> dict[int, list[Range]]:
    """x86_64 and x32 are one architecture to the kernel, with numbers below and from bit 30."""
    ranges = {abi.audit: numbered for abi, numbered in found.items() if abi is not X32}
    if X86_64 in found:
        native = found[X86_64]
        above = found.get(X32, [(X32.base, kernel.RET_KILL_THREAD)])
        # -1 is no x32 number: a tracer writes it to skip a call.
        ranges[X86_64.audit] = [*native, *above, (LAST_NUMBER, native[-1][1])]
    return ranges


class _Block(schema.Model):
    """One entry of the default profile: what it answers, and for whom."""

    names: tuple[str, ...]
    action: str = "SCMP_ACT_ALLOW"
    errno_ret: int | None = None
    args: tuple[schema.SeccompArg, ...] = ()
    machine: str = ""
    needs: tuple[str, ...] = ()
    unless: str = ""


def default_profile(capabilities: Collection[str], architecture: str = "x86_64") -> schema.Seccomp:
    """The profile of a container that asks for none of its own; *capabilities* (``CAP_...``) is its bounding set.

    In effect Docker's and containerd's: what the data's entries say, each with its reason.
    """
    held = frozenset(capabilities)
    rules = [
        schema.SyscallRule(names=[*block.names], action=block.action, errno_ret=block.errno_ret, args=[*block.args])
        for block in _blocks()
        if (not block.machine or block.machine == architecture)
        and (not block.needs or not held.isdisjoint(block.needs))
        and block.unless not in held
    ]
    return schema.Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=errno.EPERM,
        architectures=[abi.name for abi in MACHINES[architecture]],
        syscalls=rules,
    )


@cache
def _blocks() -> list[_Block]:
    text = resources.files("runtime.spec").joinpath("seccomp_default.json").read_bytes()
    return msgspec.json.decode(text, type=list[_Block])
