"""Device rules as BPF: the program says what a model of the rules says, and the kernel takes it."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernel.cgroup import Cgroup, find_tree
from kernel.fd import open_path
from runtime.container import device_filter
from runtime.container.device_filter import compile_rules, rules_of
from runtime.errors import InvalidSpec
from runtime.spec import defaults, schema
from tests.support import child
from tests.support.requires import requires

ACCESS = {"m": 1, "r": 2, "w": 4}
numbers = st.none() | st.integers(0, 3) | st.just(2**32 - 1)
rules = st.lists(
    st.builds(
        schema.DeviceRule,
        allow=st.booleans(),
        type=st.sampled_from("abc"),
        major=numbers,
        minor=numbers,
        access=st.sets(st.sampled_from("mrw"), min_size=1).map("".join),
    ),
    max_size=6,
)


def run(code: bytes, kind: int, asked: int, major: int, minor: int) -> int:
    """The program's answer: the nine instructions that it is made of."""
    context = struct.pack("<III", asked << 16 | kind, major, minor)
    steps = list(struct.iter_unpack("<BBhi", code))
    registers = [0] * 11
    at = 0
    while True:
        operation, pair, offset, immediate = steps[at]
        target, source, value = pair & 15, pair >> 4, immediate & 0xFFFFFFFF
        at += 1
        match operation:
            case 0x61:
                registers[target] = struct.unpack_from("<I", context, offset)[0]
            case 0xBC:
                registers[target] = registers[source]
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] >>= value
            case 0x16:
                at += offset if registers[target] == value else 0
            case 0x56:
                at += offset if registers[target] != value else 0
            case 0x5E:
                at += offset if registers[target] != registers[source] else 0
            case 0xB7:
                registers[target] = value
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


def model(wanted: list[schema.DeviceRule], kind: str, asked: int, major: int, minor: int) -> bool:
    for rule in reversed(wanted):
        mask = sum(ACCESS[letter] for letter in rule.access)
        covers = asked & ~mask == 0 if rule.allow else asked & mask
        if rule.type in ("a", kind) and rule.major in (None, major) and rule.minor in (None, minor) and covers:
            return rule.allow
    return False


@given(rules, st.sampled_from("bc"), st.integers(1, 7), st.integers(0, 3), st.integers(0, 3))
@example([schema.DeviceRule(allow=False, access="w"), schema.DeviceRule(allow=True, access="r")], "c", 6, 1, 1)
def test_the_program_says_what_the_last_matching_rule_says(
    wanted: list[schema.DeviceRule], kind: str, asked: int, major: int, minor: int
) -> None:
    code = compile_rules(wanted)
    expected = model(wanted, kind, asked, major, minor)
    assert expected if code is None else bool(run(code, {"b": 1, "c": 2}[kind], asked, major, minor)) == expected


def test_a_container_without_rules_may_use_the_usual_devices_and_those_made_for_it() -> None:
    linux = schema.Linux(devices=[schema.Device(path="/dev/x", type="u", major=7, minor=8)])
    code = compile_rules(rules_of(linux))
    assert code is not None
    for major, minor in [(1, 3), (1, 5), (5, 2), (136, 9), (7, 8)]:
        assert run(code, 2, 6, major, minor)
    for kind, major, minor in [(2, 1, 1), (2, 1, 11), (2, 10, 229), (1, 8, 0), (1, 1, 3)]:
        assert not run(code, kind, 2, major, minor)
        assert run(code, kind, 1, major, minor)  # a node may be made, as packages do: it cannot be opened


def test_rules_that_allow_everything_need_no_program() -> None:
    assert compile_rules(defaults.device_rules(privileged=True)) is None
    assert compile_rules([]) is not None


@pytest.mark.parametrize("rule", [schema.DeviceRule(allow=True, type="x"), schema.DeviceRule(allow=True, access="rx")])
def test_a_rule_that_is_none_is_refused(rule: schema.DeviceRule) -> None:
    with pytest.raises(InvalidSpec, match="unknown"):
        compile_rules([rule])


@requires("root", "cgroup2")
def test_the_kernel_takes_the_program_and_asks_it() -> None:
    group = Cgroup(find_tree() / "devices")
    group.create()
    try:
        nothing = schema.Linux(resources=schema.Resources(devices=[schema.DeviceRule(allow=False)]))
        device_filter.apply(group, nothing)

        def attempt() -> str:
            group.write("cgroup.procs", "0")
            try:
                open_path("/dev/zero", os.O_RDONLY).close()
            except OSError as error:
                return type(error).__name__
            return "opened"

        assert child.run(attempt) == "PermissionError"
    finally:
        group.remove()
