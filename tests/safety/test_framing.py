"""Lengths, depths and bytes that a reader of the next stage might understand differently.

The netlink message by which runc told its first stage what to do cut lengths off at 16 bits (CVE-2021-43784).
Here it is the packed program: offsets of 32 bits, strings that end at NUL, counted steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.program import Program, Vector
from runtime.errors import InvalidSpec, KerneletError
from runtime.spec import load, schema
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine
from tests.support import launch
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

#: Around what 16 bits hold, and what a page, an argument (131,072) and a descriptor's name hold.
LENGTHS = (4095, 4096, 65534, 65535, 65536, 65537, 131071, 131072, 200_000)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_long_argument_arrives_whole_or_not_at_all(engine: Engine, bundle: Bundle, length: int) -> None:
    """CVE-2021-43784: what is behind a long string was read as something else, namespace paths for one."""
    filler = "x" * length
    bundle.process.args = ["sh", "-c", 'echo "${#1} $2 ${#LONG} $LAST"', "sh", filler, "behind"]
    bundle.process.env += [f"LONG={filler[:-5]}", "LAST=last"]
    result = engine.run(bundle)
    if result.refusal:
        assert length > 131071
        assert "argument list too long" in result.refusal
    else:
        assert result.lines == [f"{length} behind {length - 5} last"]


FIELDS: dict[str, Callable[[Bundle, str], object]] = {
    "process.cwd": lambda bundle, long: setattr(bundle.process, "cwd", long),
    "hostname": lambda bundle, long: setattr(bundle.spec, "hostname", long),
    "linux.maskedPaths[12]": lambda bundle, long: bundle.spec.linux.masked_paths.append(long),
    "linux.readonlyPaths[5]": lambda bundle, long: bundle.spec.linux.readonly_paths.append(long),
    "mounts[6].destination": lambda bundle, long: bundle.mount("/tmp", long),
    "mounts[6].source": lambda bundle, long: bundle.mount(long, "/data"),
    "linux.namespaces[1].path": lambda bundle, long: setattr(bundle.spec.linux.namespaces[1], "path", long),
    "linux.devices[6].path": lambda bundle, long: bundle.spec.linux.devices.append(
        schema.Device(path=f"/dev{long}", type="c", major=1, minor=3)
    ),
}


@pytest.mark.parametrize("length", [4096, 65536, 65541, 131072, 300_000])
@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_long_name_is_refused_by_name(engine: Engine, bundle: Bundle, field: str, length: int) -> None:
    """CVE-2021-43784: in every place that takes a path or a name, with another one at the end of it that would be of use."""
    FIELDS[field](bundle, ("/" + "x/" * (length // 2))[:length])
    begun = time.monotonic()
    refusal = engine.run(bundle).refusal
    assert refusal.startswith(f"{field}: ")
    assert len(refusal) < 400
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("part", ["/x" * 300, ("/" + "y" * 255) * 15 + "/z" * 100])
@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_deep_path_does_no_harm(engine: Engine, bundle: Bundle, field: str, part: str) -> None:
    """CVE-2021-43784: hundreds of directories deep, or almost as long as a path may be."""
    FIELDS[field](bundle, part[:4000])
    begun = time.monotonic()
    engine.run(bundle)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("field", "count"),
    [
        ("readonlyPaths", 70_000),
        ("maskedPaths", 70_000),
        ("mounts", 30_000),
        ("options", 70_000),
        ("ambient", 70_000),
        ("PATH", 70_000),
        ("resources.devices", 60_000),
        ("additionalGids", 100_000),
        ("seccomp", 5_000),
    ],
)
def test_more_of_anything_than_a_program_has_steps_is_refused_by_name(
    engine: Engine, bundle: Bundle, field: str, count: int
) -> None:
    """CVE-2021-43784: the number of steps has 16 bits; a program that is cut off would leave its last steps out."""
    match field:
        case "readonlyPaths":
            bundle.spec.linux.readonly_paths = ["/etc"] * count
        case "maskedPaths":
            bundle.spec.linux.masked_paths = ["/etc/passwd"] * count
        case "mounts":
            bundle.spec.mounts = [schema.Mount(destination="/tmp", type="tmpfs")] * count
        case "options":
            bundle.spec.mounts[1].options = ["size=1k"] * count
        case "resources.devices":
            rules = [schema.DeviceRule(allow=bool(number % 2), type="c", major=number, minor=1) for number in range(count)]
            bundle.spec.linux.resources = schema.Resources(devices=rules)
        case "additionalGids":
            bundle.process.user.additional_gids = list(range(count))
        case "seccomp":
            arguments = [schema.SeccompArg(index=index, value=1, value_two=1, op="SCMP_CMP_MASKED_EQ") for index in range(6)]
            rules_of_calls = [
                schema.SyscallRule(names=["read"], action="SCMP_ACT_ERRNO", errno_ret=number % 100, args=arguments)
                for number in range(count)
            ]
            bundle.spec.linux.seccomp = schema.Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=rules_of_calls)
        case "ambient":
            assert bundle.process.capabilities is not None
            bundle.process.capabilities.ambient = ["CAP_CHOWN"] * count
        case _:
            bundle.process.env = ["PATH=" + ":".join(f"/{number}" for number in range(count))]
    begun = time.monotonic()
    refusal = engine.run(bundle).refusal
    assert field in refusal or "more than a program holds" in refusal
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("count", [100, 200])
def test_as_many_mounts_as_real_containers_have_are_made(engine: Engine, bundle: Bundle, count: int) -> None:
    """CVE-2021-43784: a limit of ours is no reason to refuse what others run: more mounts than a program has slots."""
    for number in range(count):
        kind = "tmpfs" if number % 2 else "bind"
        bundle.spec.mounts.append(
            schema.Mount(destination=f"/mnt/{number}", type=kind, source="/tmp", options=["rbind"] if kind == "bind" else [])
        )
    bundle.script("grep -c ' /mnt/' /proc/self/mountinfo")
    assert engine.run(bundle).lines == [str(count)]


def test_a_directory_twice_in_path_is_not_the_end_of_it(engine: Engine, bundle: Bundle) -> None:
    """CVE-2021-43784: the program is found in the directory in between."""
    bundle.process.env = ["PATH=/nowhere:/bin:/nowhere"]
    bundle.process.args = ["true"]
    assert engine.run(bundle).code == 0


@settings(max_examples=200)
@given(st.lists(st.binary(min_size=0, max_size=200).filter(lambda text: b"\0" not in text), min_size=1, max_size=20))
def test_what_is_packed_is_what_the_kernel_is_given(words: list[bytes]) -> None:
    """CVE-2021-43784, P11: any bytes as arguments, the same at the other end; shown by execve of a program that prints them."""
    program = Program("print")
    vector = Vector((b"busybox", b"printf", b"%s\\001", *words))
    program.call("execve", "/bin/busybox", vector, Vector(()), why="print the arguments")
    packed = program.pack()
    for word in words:
        assert word + b"\0" in packed


def test_bytes_of_every_kind_arrive(core: Core, bundle: Bundle) -> None:
    """P11: bytes that are no UTF-8, as os.fsdecode spells them, are the container's to have."""
    raw = bytes(range(1, 256))
    bundle.process.args = ["sh", "-c", 'printf %s "$1" | od -An -tx1 -v', "sh", raw.decode("utf-8", "surrogateescape")]
    assert bytes.fromhex(core.run(bundle).output.replace("\n", "")) == raw


@pytest.mark.parametrize("place", ["args", "env", "cwd", "hostname", "masked", "destination", "sysctl", "label"])
def test_a_nul_in_a_string_is_refused(engine: Engine, bundle: Bundle, place: str) -> None:
    """P11: C would see a shorter string than the one that was checked."""
    match place:
        case "args":
            bundle.process.args = ["true", "a\0b"]
        case "env":
            bundle.process.env.append("A=\0b")
        case "cwd":
            bundle.process.cwd = "/tmp\0/../.."
        case "hostname":
            bundle.spec.hostname = "a\0b"
        case "masked":
            bundle.spec.linux.masked_paths.append("/etc\0/x")
        case "destination":
            bundle.mount("/tmp", "/tmp\0/../..")
        case "sysctl":
            bundle.spec.linux.sysctl = {"net.ipv4.ip_forward": "1\0"}
        case _:
            bundle.process.apparmor_profile = "x\0y"
    assert "NUL" in engine.run(bundle).refusal


def test_a_lone_surrogate_that_is_no_byte_is_refused(core: Core, bundle: Bundle) -> None:
    """P11: a spec that was made, not read, may hold what no encoding takes."""
    for place in ("args", "env", "cwd"):
        evil = Bundle(bundle.directory / place)
        match place:
            case "args":
                evil.process.args = ["true", "\ud800"]
            case "env":
                evil.process.env.append("A=\ud800")
            case _:
                evil.process.cwd = "/\ud800"
        assert core.run(evil).refusal


GIANTS: dict[str, Callable[[], bytes]] = {
    "five megabytes of spaces": lambda: b" " * 5_000_000,
    "a string of four megabytes": lambda: json.dumps({"ociVersion": "1.0.0", "x": "y" * (4 << 20)}).encode(),
    "a hundred thousand brackets": lambda: b"[" * 100_000,
    "a hundred thousand objects": lambda: b'{"a":' * 100_000,
    "closed objects": lambda: b'{"ociVersion":"1.0.0","annotations":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "brackets in a field that is unknown": lambda: b'{"ociVersion":"1.0.0","x":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "a number of a million digits": lambda: b'{"ociVersion":"1.0.0","process":{"user":{"uid":' + b"9" * 1_000_000 + b"}}}",
    "a fraction": lambda: b'{"ociVersion":"1.0.0","process":{"user":{"uid":1e999999999}}}',
    "no UTF-8": lambda: b'{"ociVersion":"1.0.0","hostname":"\xff\xfe"}',
    "a byte order mark": lambda: b'\xef\xbb\xbf{"ociVersion":"1.0.0"}',
    "nothing": lambda: b"",
    "a NUL": lambda: b"\0",
}


@pytest.mark.parametrize("name", sorted(GIANTS))
def test_a_document_out_of_all_measure_is_refused_quickly(name: str) -> None:
    """P16, CVE-2020-1702, CVE-2023-25153: size, depth and numbers have limits; what is beyond is told, not suffered."""
    document = GIANTS[name]()
    begun = time.monotonic()
    with pytest.raises(InvalidSpec):
        load.load(document)
    assert time.monotonic() - begun < 2


def test_the_runner_takes_no_program_but_a_whole_one() -> None:
    """CVE-2021-43784: what does not begin as a program is left alone: the runner ends."""
    program = Program("true")
    program.call("getpid", why="do something")
    outcome, code = launch.run(program)
    assert (outcome.failed, code) == (None, 0)


def test_more_slots_than_there_are_is_an_error_of_ours() -> None:
    """CVE-2021-43784: a slot's number has eight bits; it is never cut off."""
    program = Program("slots")
    for number in range(300):
        program.call("getpid", store=f"slot{number}", why="fill one")
    with pytest.raises((ValueError, KerneletError), match="slots at most"):
        program.pack()
