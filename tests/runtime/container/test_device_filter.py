"""Device rules as BPF: the program says what a model of the rules says, and the kernel takes it."""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernel import bpf
from kernel._linux import lib
from kernel.bpf import device_programs, set_device_program
from kernel.cgroup import Cgroup, find_tree
from kernel.fd import open_path
from runtime.container import device_filter
from runtime.container.device_filter import compile_rules, rules_of
from runtime.errors import InvalidSpec
from runtime.spec import defaults, schema
from tests.support import child
from tests.support.requires import requires

ACCESS = {"m": 1, "r": 2, "w": 4}
numbers = st.none() | st.integers(-1, 3) | st.just(2**32 - 1)
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
    """The program's answer: the eight instructions that it is made of."""
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
            case 0xB7:
                registers[target] = value
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


def model(wanted: list[schema.DeviceRule], kind: str, asked: int, major: int, minor: int) -> bool:
    """The last rule that speaks of it decides of each access that is asked for."""

    def allows(access: int) -> bool:
        for rule in reversed(wanted):
            covers = any(ACCESS[letter] == access for letter in rule.access)
            if rule.type in ("a", kind) and rule.major in (None, -1, major) and rule.minor in (None, -1, minor) and covers:
                return rule.allow
        return False

    return all(allows(access) for access in ACCESS.values() if asked & access)


@given(rules, st.sampled_from("bc"), st.integers(1, 7), st.integers(0, 3), st.integers(0, 3))
@example([schema.DeviceRule(allow=False, access="w"), schema.DeviceRule(allow=True, access="r")], "c", 6, 1, 1)
@example([schema.DeviceRule(allow=True, access="w"), schema.DeviceRule(allow=True, access="r")], "c", 6, 1, 1)
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


def test_a_spec_that_refuses_everything_leaves_what_every_container_is_promised() -> None:
    """What "runc spec" writes."""
    refused = [schema.DeviceRule(allow=False), schema.DeviceRule(allow=True, type="b", major=8, minor=0, access="r")]
    code = compile_rules(rules_of(schema.Linux(resources=schema.Resources(devices=refused))))
    assert code is not None
    for kind, asked, major, minor in [(2, 6, 1, 3), (2, 6, 1, 9), (2, 6, 5, 0), (2, 6, 136, 3), (1, 2, 8, 0), (2, 1, 99, 99)]:
        assert run(code, kind, asked, major, minor)
    for kind, asked, major, minor in [(2, 2, 1, 1), (1, 4, 8, 0), (1, 6, 8, 0), (2, 6, 10, 200), (1, 2, 8, 1)]:
        assert not run(code, kind, asked, major, minor)


def test_rules_that_allow_everything_need_no_program() -> None:
    assert compile_rules(defaults.device_rules(privileged=True)) is None
    assert compile_rules(rules_of(schema.Linux(resources=schema.Resources(devices=[schema.DeviceRule(allow=True)])))) is None
    assert compile_rules([]) is not None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (schema.DeviceRule(allow=True, type="x"), r"devices\[1\]\.type: unknown type 'x'"),
        (schema.DeviceRule(allow=True, type="p"), r"devices\[1\]\.type: unknown type 'p'"),
        (schema.DeviceRule(allow=True, access="rx"), r"devices\[1\]\.access: unknown access 'rx'"),
        (schema.DeviceRule(allow=True, access=""), r"devices\[1\]\.access: unknown access ''"),
        (schema.DeviceRule(allow=True, major=-2), r"devices\[1\]\.major: -2 is not the number of a device"),
        (schema.DeviceRule(allow=True, minor=1 << 32), r"devices\[1\]\.minor: 4294967296 is not the number"),
    ],
)
def test_a_rule_that_is_none_is_refused_by_its_place(rule: schema.DeviceRule, message: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"^linux\.resources\.{message}"):
        compile_rules([schema.DeviceRule(allow=False), rule, schema.DeviceRule(allow=True)])


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(find_tree() / "devices")
    made.create()
    yield made
    made.remove()


def limited(*wanted: schema.DeviceRule) -> schema.Linux:
    return schema.Linux(resources=schema.Resources(devices=list(wanted)))


def outcome(group: Cgroup, path: str, flags: int = os.O_RDONLY) -> str:
    """What comes of opening *path* in *group*."""

    def attempt() -> str:
        group.write("cgroup.procs", "0")
        try:
            open_path(path, flags).close()
        except OSError as error:
            return type(error).__name__
        return "opened"

    return child.run(attempt)


@requires("root", "cgroup2")
def test_the_kernel_takes_the_program_and_asks_it(group: Cgroup) -> None:
    device_filter.apply(group, limited(schema.DeviceRule(allow=False)))
    assert outcome(group, "/dev/zero", os.O_RDWR) == "opened"
    assert outcome(group, "/dev/kmsg") == "PermissionError"
    read_only = schema.DeviceRule(allow=True, type="c", major=1, minor=11, access="r")
    device_filter.apply(group, limited(schema.DeviceRule(allow=False), read_only))
    assert outcome(group, "/dev/kmsg") == "opened"
    assert outcome(group, "/dev/kmsg", os.O_RDWR) == "PermissionError"


@requires("root", "cgroup2")
def test_another_set_of_rules_takes_the_place_of_the_first(group: Cgroup) -> None:
    def programs() -> list[int]:
        with open_path(group.path, os.O_DIRECTORY) as opened:
            return device_programs(opened)

    assert programs() == []
    device_filter.apply(group, limited(schema.DeviceRule(allow=False)))
    (first,) = programs()
    device_filter.apply(
        group, limited(schema.DeviceRule(allow=False), schema.DeviceRule(allow=True, type="c", major=1, minor=11))
    )
    (second,) = programs()
    assert first != second
    assert outcome(group, "/dev/kmsg") == "opened"
    device_filter.apply(group, limited(schema.DeviceRule(allow=True)))
    assert programs() == []


@requires("root", "cgroup2")
def test_of_several_programs_one_is_left(group: Cgroup) -> None:
    refuse = compile_rules([schema.DeviceRule(allow=False)])
    assert refuse is not None
    with open_path(group.path, os.O_DIRECTORY) as opened:
        for _ in range(2):
            with bpf._load(refuse) as program:
                bpf._attach(opened, program, lib.BPF_F_ALLOW_MULTI)
        assert len(device_programs(opened)) == 2
        set_device_program(opened, refuse)
        assert len(device_programs(opened)) == 1
        set_device_program(opened, None)
        assert device_programs(opened) == []


@requires("root", "cgroup2")
def test_while_rules_are_replaced_nothing_is_open_that_neither_allows(group: Cgroup) -> None:
    """The swap is one step: a process that tries all the while never gets in."""
    allowed = schema.DeviceRule(allow=True, type="c", major=1, minor=11, access="w")
    device_filter.apply(group, limited(schema.DeviceRule(allow=False)))

    def try_for_long() -> int:
        group.write("cgroup.procs", "0")
        opened = 0
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                open_path("/dev/kmsg").close()
                opened += 1
            except PermissionError:
                continue
        return opened

    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(child.run, try_for_long)
        swaps = 0
        while not trying.done():
            device_filter.apply(group, limited(schema.DeviceRule(allow=False), *[allowed] * (swaps % 2)))
            swaps += 1
    assert trying.result() == 0
    assert swaps > 50


@requires("root", "cgroup2")
def test_in_a_user_namespace_there_are_no_rules_for_there_are_no_devices(group: Cgroup) -> None:
    def attempt() -> str:
        device_filter.apply(group, limited(schema.DeviceRule(allow=False)))
        try:
            os.mknod("/tmp/kernelet-no-device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            return "no device can be made"
        return "made"

    assert child.run(attempt, namespaces=("user",)) == "no device can be made"
