"""A failure as a sentence that a person can do something with, and that tells no secret."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kernel._linux import lib
from kernel.fd import open_path
from kernel.program import Argument, Filter, Flags, Program, Step, Vector, Words
from runtime.container import hints, init
from runtime.container.executable import interpreter_of
from runtime.container.failure import command_failure, describe_failure, shorten
from runtime.container.hints import hint_for
from runtime.container.process import execute
from runtime.container.seccomp import compile_filter
from runtime.container.sketch import sketch
from runtime.errors import StartFailed
from runtime.oci.stepping import open_stepping
from runtime.spec import schema
from tests.runtime.container.test_shell import spec, write_bundle
from tests.runtime.container.test_sketch import joined, users
from tests.support import child, launch

TOOL = schema.Process(args=["tool", "--flag"], env=["PATH=/bin:/opt/tools:/usr/bin", "PASSWORD=secret"])


def program() -> Program:
    steps = Program("init")
    steps.call("setsid", why="alone")
    steps.call("pivot_root", ".", ".", why="swap", hint="the new root must be a mount point")
    execute(steps, TOOL)
    return steps


def test_a_step_is_named_with_its_number_its_call_the_reason_and_a_hint() -> None:
    sentence = describe_failure(program(), 1, errno.EINVAL)
    assert sentence == 'step 2 of 5, pivot_root(".", "."): invalid argument — the new root must be a mount point'


def test_without_a_hint_and_without_an_errno() -> None:
    assert describe_failure(program(), 0, errno.EPERM) == "step 1 of 5, setsid(): operation not permitted"
    assert describe_failure(program(), 0, 0) == "step 1 of 5, setsid(): the process ended there"


def test_of_several_places_the_one_that_said_more_is_told() -> None:
    steps = program()
    results = [0, 0, -errno.ENOENT, -errno.EACCES, -errno.ENOENT]
    assert describe_failure(steps, 4, errno.ENOENT, results).startswith('step 4 of 5, execve("/opt/tools/tool"')
    assert "permission denied" in describe_failure(steps, 4, errno.ENOENT, results)
    assert describe_failure(steps, 4, errno.ENOENT).startswith('step 5 of 5, execve("/usr/bin/tool"')


def test_a_command_is_told_as_it_was_written_and_its_environment_is_not() -> None:
    sentence = command_failure(TOOL, errno.ENOENT)
    assert sentence == (
        "cannot execute 'tool': no such file or directory — the program, or the interpreter that it names, is not in the image"
    )
    assert "secret" not in sentence
    assert "secret" not in describe_failure(program(), 4, errno.ENOENT)


def test_a_name_that_is_not_utf_8_is_told_all_the_same() -> None:
    assert command_failure(schema.Process(args=["/t\udcff"]), errno.ENOENT).startswith("cannot execute '/t\\udcff'")


def test_a_long_text_is_cut() -> None:
    assert shorten("x" * 160) == "x" * 160
    assert shorten("x" * 161) == "x" * 159 + "…"


# What an errno means.


@pytest.mark.parametrize(
    ("call", "arguments", "number", "hint"),
    [
        ("clone3", (), errno.EPERM, "CAP_SYS_ADMIN"),
        ("clone3", (), errno.ENOSPC, "max_*_namespaces"),
        ("clone3", (), errno.EBUSY, "handed controllers on"),
        ("clone3", (), errno.EAGAIN, "pids.max"),
        ("clone3", (), errno.ENOSYS, "Linux 5.3"),
        ("mount_setattr", (), errno.ENOSYS, "Linux 5.12"),
        ("getpid", (), errno.ENOSYS, "no getpid(2); or a filter"),
        ("openat2", (), errno.EMFILE, "ulimit -n"),
        ("mkdirat", (), errno.EROFS, "read-only"),
        ("move_mount", (), errno.ENOSPC, "mount-max"),
        ("symlinkat", (), errno.ENOSPC, "file system is full"),
        ("fsconfig", (Flags(("FSCONFIG_CMD_CREATE",)),), errno.EINVAL, "dmesg"),
        ("fsconfig", (Flags(("FSCONFIG_SET_STRING",)),), errno.EINVAL, "the step's own"),
        ("prctl", (Flags(("PR_CAP_AMBIENT",)), Flags(("PR_CAP_AMBIENT_RAISE",))), errno.EPERM, "permitted and inheritable"),
        ("keyctl", (), errno.EDQUOT, "/proc/key-users"),
        ("write", (), errno.EDQUOT, "quota"),
        ("setsid", (), errno.EPERM, "the step's own"),
    ],
)
def test_the_same_call_fails_for_several_reasons(call: str, arguments: tuple[Argument, ...], number: int, hint: str) -> None:
    assert hint in hint_for(Step(call, arguments, "x", hint="the step's own"), number)


def test_every_hint_is_of_a_call_that_there_is() -> None:
    for key, _ in hints._HINTS:
        call, _, flag = key.partition(":")
        assert hasattr(lib, f"SYS_{call}"), key
        assert not flag or hasattr(lib, flag), key
    assert [call for call, _ in hints._ELSE if not hasattr(lib, f"SYS_{call}")] == []
    assert [call for call in hints._SINCE if not hasattr(lib, f"SYS_{call}")] == []


#: What a spec, an image or a node can bring about, by call: for these there must be something to say.
EXPECTED = {
    "capset": ["EPERM"],
    "clone3": ["EPERM", "EINVAL", "ENOSPC", "EUSERS", "EAGAIN", "EBUSY", "ENOENT", "ENOSYS", "EOPNOTSUPP", "EACCES"],
    "execve": ["ENOENT", "EACCES", "ENOEXEC", "E2BIG", "ELOOP", "ENOTDIR", "ETXTBSY", "EPERM", "EAGAIN", "ENOMEM"],
    "fchdir": ["EACCES"],
    "fsconfig": ["EINVAL", "EPERM"],
    "fsmount": ["EPERM"],
    "fsopen": ["ENODEV", "EPERM", "ENOSYS"],
    "keyctl": ["EDQUOT"],
    "mkdirat": ["EROFS", "ENOSPC", "EACCES"],
    "mknodat": ["EPERM", "EROFS", "ENOSPC"],
    "mount": ["EPERM", "ENOSPC"],
    "mount_setattr": ["EINVAL", "EPERM", "ENOSYS"],
    "move_mount": ["EINVAL", "ENOTDIR", "ELOOP", "ENOSPC", "EPERM"],
    "open_tree": ["ENOSPC", "EPERM"],
    "openat2": ["ENOTDIR", "ELOOP", "EACCES", "EXDEV", "EMFILE", "ENOSYS"],
    "pivot_root": ["EINVAL", "EBUSY", "EPERM"],
    "prlimit64": ["EPERM", "EINVAL"],
    "seccomp": ["EINVAL", "EACCES", "EBUSY"],
    "setgroups": ["EINVAL"],
    "sethostname": ["EINVAL"],
    "setns": ["EINVAL", "EPERM"],
    "setresgid": ["EINVAL"],
    "setresuid": ["EINVAL", "EAGAIN"],
    "symlinkat": ["EROFS", "ENOSPC"],
    "unshare": ["EPERM", "EINVAL", "ENOSPC"],
    "write": ["EINVAL"],
}
#: Steps of which nothing is the user's: a literal of ours, or a write that only says where we are.
OURS = re.compile(
    r'write\((ready|score)|MS_REC\|MS_PRIVATE|"(nr_inodes|source|ro)"|fsconfig\(context, FSCONFIG_SET_STRING, "mode", "0555"'
)


def test_each_step_that_can_fail_for_a_users_reason_has_something_to_say() -> None:
    def everything(made: schema.Spec) -> None:
        users(made)
        joined(made)
        made.hostname = "x"
        made.linux.namespaces = [each for each in made.linux.namespaces if each.type != "uts" or not each.path]
        made.linux.namespaces.append(schema.Namespace(type="uts"))
        made.linux.sysctl = {"net.ipv4.ip_forward": "1"}
        process = process_of(made)
        process.user = schema.User(uid=5, gid=6, additional_gids=[7])
        process.capabilities = schema.Capabilities(inheritable=["CAP_KILL"], permitted=["CAP_KILL"], ambient=["CAP_KILL"])
        made.linux.seccomp = schema.Seccomp(default_action="SCMP_ACT_ALLOW")

    drawn = sketch(spec(everything))
    made = init.program("x", drawn.spec, drawn.facts, bytes(8))
    silent, seen = [], set()
    for step in made.steps:
        seen.add(step.call)
        for name in EXPECTED.get(step.call, ()):
            number = getattr(errno, name)
            if number not in step.tolerate and not hint_for(step, number) and not OURS.search(str(step)):
                silent.append(f"{step}: {name}")
    assert silent == []
    assert set(EXPECTED) <= seen, "a call that no program makes"


# Interpreters.


def elf(*, big: bool = False, wide: bool = True, interpreter: bytes = b"/lib/ld.so") -> bytes:
    order, size = (">" if big else "<"), (64 if wide else 52)
    ident = bytes([0x7F, 69, 76, 70, 2 if wide else 1, 2 if big else 1]).ljust(16, b"\0")
    width = "Q" if wide else "I"
    header = struct.pack(f"{order}HHI{width * 3}IHHHHHH", 2, 62, 1, 0, size, 0, 0, size, 56 if wide else 32, 1, 0, 0, 0)
    at, length = size + (56 if wide else 32), len(interpreter) + 1
    segment = (
        struct.pack(f"{order}IIQQQQQQ", 3, 4, at, 0, 0, length, length, 1)
        if wide
        else struct.pack(f"{order}IIIIIIII", 3, at, 0, 0, length, length, 4, 1)
    )
    return (ident + header + segment + interpreter + b"\0").ljust(128, b"\0")


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        (b"#!/bin/sh\necho", "/bin/sh"),
        (b"#! /usr/bin/env python3\n", "/usr/bin/env"),
        (b"#!\n", None),
        (b"plain text", None),
        (b"", None),
        (elf(), "/lib/ld.so"),
        (elf(big=True), "/lib/ld.so"),
        (elf(wide=False), "/lib/ld.so"),
        (elf(wide=False, big=True), "/lib/ld.so"),
        (elf()[:70], None),
        (b"\x7fELF" + bytes(100), None),
    ],
)
def test_the_interpreter_that_a_program_names(head: bytes, interpreter: str | None) -> None:
    assert interpreter_of(head) == interpreter


def test_a_real_programs_interpreter() -> None:
    assert str(interpreter_of(Path("/bin/ls").read_bytes()[:4096])).startswith("/lib")
    assert interpreter_of(Path("/bin/busybox").read_bytes()[:4096]) is None


def test_a_missing_interpreter_is_told_from_a_missing_program(tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"#!/bin/nothing\n")
    with open_path(tmp_path, os.O_PATH | os.O_DIRECTORY) as root:
        there = command_failure(schema.Process(args=["/script"]), errno.ENOENT, root)
        assert there.endswith("— /script is there, but not /bin/nothing, which it names as its interpreter")
        gone = command_failure(schema.Process(args=["/gone"]), errno.ENOENT, root)
        assert gone.endswith("— there is no /gone in the image")
        assert command_failure(TOOL, errno.ENOENT, root).endswith("— no directory of PATH has it")


# Real failures, and what is said of them.


def process_of(made: schema.Spec) -> schema.Process:
    assert made.process is not None
    return made.process


def run(script: str) -> Callable[[Path, schema.Spec], None]:
    """The program is a file of the image with this content."""

    def change(root: Path, made: schema.Spec) -> None:
        (root / "run").write_text(script)
        (root / "run").chmod(0o755)
        process_of(made).args = ["/run"]

    return change


def not_executable(root: Path, made: schema.Spec) -> None:
    (root / "data").write_text("x")
    process_of(made).args = ["/data"]


def an_id_without_a_map(_: Path, made: schema.Spec) -> None:
    made.linux.namespaces.append(schema.Namespace(type="user"))
    made.linux.uid_mappings = made.linux.gid_mappings = [schema.IdMapping(container_id=0, host_id=0, size=1000)]
    process_of(made).user.uid = 1000


def a_bad_option(_: Path, made: schema.Spec) -> None:
    made.mounts.append(schema.Mount(destination="/work", type="tmpfs", source="tmpfs", options=["colour=blue"]))


def a_bad_value(_: Path, made: schema.Spec) -> None:
    made.mounts.append(schema.Mount(destination="/work", type="tmpfs", source="tmpfs", options=["nr_inodes=few"]))


def no_such_file_system(_: Path, made: schema.Spec) -> None:
    made.mounts.append(schema.Mount(destination="/work", type="floppyfs", source="x"))


def no_such_setting(_: Path, made: schema.Spec) -> None:
    made.linux.sysctl = {"net.ipv4.no_such_setting": "1"}


def a_bad_setting(_: Path, made: schema.Spec) -> None:
    made.linux.sysctl = {"net.ipv4.ip_default_ttl": "100000"}


def effective_but_not_permitted(_: Path, made: schema.Spec) -> None:
    process_of(made).capabilities = schema.Capabilities(bounding=["CAP_KILL"], effective=["CAP_KILL"])


def above_the_nodes_limit(_: Path, made: schema.Spec) -> None:
    process_of(made).rlimits = [schema.Rlimit(type="RLIMIT_NOFILE", soft=1 << 40, hard=1 << 40)]


@pytest.mark.requires("root", "cgroup2")
@pytest.mark.parametrize(
    ("change", "call", "reason", "hint"),
    [
        (run("#!/bin/nothing\n"), "execve(", "no such file or directory", "/run is there, but not /bin/nothing"),
        (run("neither program nor script\n"), "execve(", "exec format error", "nor a script that begins with #!"),
        (not_executable, "execve(", "permission denied", "no file that this user may execute"),
        (an_id_without_a_map, "setresuid(", "invalid argument", "must map this id"),
        (a_bad_option, "fsconfig(", "invalid argument", "colour"),
        (a_bad_value, "fsconfig(", "invalid argument", "nr_inodes"),
        (no_such_file_system, "fsopen(", "no such device", "no file system floppyfs"),
        (no_such_setting, "openat2(", "no such file or directory", "no such setting"),
        (a_bad_setting, "write(", "invalid argument", "out of range"),
        (effective_but_not_permitted, "capset(", "operation not permitted", "effective must be permitted as well"),
        (above_the_nodes_limit, "prlimit64(", "operation not permitted", "nr_open"),
    ],
)
def test_a_real_failure_names_step_call_reason_and_fix(
    tmp_path: Path, change: Callable[[Path, schema.Spec], None], call: str, reason: str, hint: str
) -> None:
    wanted = spec()
    process_of(wanted).args = ["sh", "-c", "exit 0"]
    root = write_bundle(tmp_path / "bundle", wanted) / "rootfs"
    change(root, wanted)
    (root.parent / "config.json").write_bytes(msgspec.json.encode(wanted))
    with open_stepping(root.parent) as stepping, pytest.raises(StartFailed) as failed:
        while stepping.at is not None:
            stepping.advance()
    message = str(failed.value)
    assert message.startswith("step ") and f" of {len(stepping.plan.steps)}, " in message
    assert call in message and f": {reason} — " in message and hint in message.partition(" — ")[2], message


# What no spec can ask for, and a node may do all the same.


def told(steps: Program) -> str:
    """What is said of the step of *steps* that fails."""
    outcome, _ = launch.run(steps)
    assert outcome.failed is not None
    return describe_failure(steps, outcome.failed, outcome.errno, outcome.results)


def test_too_many_descriptors() -> None:
    steps = Program("x")
    steps.call("prlimit64", 0, Flags(("RLIMIT_NOFILE",)), Words(8, (5, 5)), 0, why="x")
    for _ in range(3):
        steps.call("openat", Flags(("AT_FDCWD",)), "/", Flags(("O_PATH",)), 0, why="x")
    assert "too many open files — too many open descriptors: raise the limit of whoever starts containers" in told(steps)


def test_a_kernel_that_is_too_old_for_a_call() -> None:
    """As a filter makes it look."""
    hidden = schema.SyscallRule(names=["openat2"], action="SCMP_ACT_ERRNO", errno_ret=errno.ENOSYS)
    code = compile_filter(schema.Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[hidden]))
    steps = Program("x")
    steps.call("prctl", Flags(("PR_SET_NO_NEW_PRIVS",)), 1, 0, 0, 0, why="x")
    steps.call("seccomp", Flags(("SECCOMP_SET_MODE_FILTER",)), 0, Filter(code), why="x")
    steps.call("openat2", Flags(("AT_FDCWD",)), "/", Words(8, (0, 0, 0)), 24, why="x", hint="the image's fault")
    assert "function not implemented — this kernel has no openat2(2): Linux 5.6 is the first that has it" in told(steps)


def test_a_command_that_is_too_long() -> None:
    steps = Program("x")
    steps.call("execve", "/bin/busybox", Vector((b"true", b"x" * 200_000)), Vector(()), why="x")
    assert "argument list too long — arguments and environment are too long: 128 KiB each" in told(steps)


def test_a_namespace_of_another_type_and_one_that_may_not_be_entered() -> None:
    for path, kind in (("/proc/self/ns/uts", "CLONE_NEWNET"), ("/proc/self/ns/user", "CLONE_NEWUSER")):
        steps = Program("x")
        namespace = steps.call("openat", Flags(("AT_FDCWD",)), path, 0, 0, store="namespace", why="x")
        steps.call("setns", namespace, Flags((kind,)), why="x")
        assert "invalid argument — it is of another type, or the one that we are in already" in told(steps)


@pytest.mark.requires("root")
def test_a_limit_of_namespaces_and_a_right_that_is_missing() -> None:
    def make_one() -> str:
        steps = Program("x")
        steps.call("unshare", Flags(("CLONE_NEWUTS",)), why="x")
        return told(steps)

    def at_the_limit() -> str:
        Path("/proc/sys/user/max_uts_namespaces").write_text("0")
        return make_one()

    def without_rights() -> str:
        os.setresuid(65534, 65534, 65534)
        return make_one()

    assert "no space left on device — a limit of namespaces is reached" in child.run(at_the_limit, namespaces=["user"])
    assert "operation not permitted — the right to is missing (CAP_SYS_ADMIN)" in child.run(without_rights)
