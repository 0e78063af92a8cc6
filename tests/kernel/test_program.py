"""Programs: what is packed is what runs, step by step, errno by errno."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest

from kernel import program as program_module
from kernel import report as report_module
from kernel.fd import Fd, memory, pipe
from kernel.program import (
    PROGRAM_FD,
    REPORT_FD,
    Buffer,
    Filter,
    Flags,
    Program,
    Slot,
    Structure,
    Vector,
    Words,
    runner_image,
)
from kernel.report import SKIPPED, report_size
from tests.support import launch

BUSYBOX = "/bin/busybox"


def read_all(file: Fd) -> bytes:
    with open(file.detach(), "rb") as stream:
        return stream.read()


def with_output(steps: Program) -> tuple[report_module.Outcome, int, bytes]:
    reader, writer = pipe()
    with writer:
        outcome, code = launch.run(steps, {1: writer})
    return outcome, code, read_all(reader)


def test_a_program_is_printed_without_running() -> None:
    steps = Program("a short life")
    steps.call("setsid", why="alone")
    root = steps.call("openat", Flags(("AT_FDCWD",)), "/", Flags(("O_PATH", "O_CLOEXEC")), 0, store="root", why="the root")
    steps.clone(("CLONE_NEWPID",), cgroup=None, why="a child")
    steps.call("fchdir", root, tolerate=(errno.EPERM,), why="stand in it")
    steps.call("execve", "/bin/true", Vector((b"true",)), Vector((b"A=b",)), why="go")
    steps.afterwards("waitid", Flags(("P_ALL",)), 0, Buffer("status", 128), Flags(("WEXITED",)), 0, why="wait")
    assert steps.describe() == (
        "a short life\n"
        "   1  setsid()\n          alone\n"
        '   2  root = openat(AT_FDCWD, "/", O_PATH|O_CLOEXEC, 0)\n          the root\n'
        "   3  pid = clone3(CLONE_NEWPID|CLONE_PIDFD|CLONE_PARENT_SETTID|CLONE_CLEAR_SIGHAND, -1)\n          a child\n"
        "   4  fchdir(root)  [EPERM is fine]\n          stand in it\n"
        '   5  execve("/bin/true", ["true"], ["A=b"])\n          go\n'
        "     -- behind, in the parent half --\n"
        "   6  waitid(P_ALL, 0, &status, WEXITED, 0)\n          wait\n"
    )


def test_steps_run_in_order_and_each_has_its_result_and_time() -> None:
    steps = Program("three steps")
    steps.call("getpid", why="a number")
    steps.call("umask", 0o22, why="another")
    steps.call("getpid", why="the same number")
    outcome, code = launch.run(steps)
    assert code == 0
    assert outcome.failed is None
    assert outcome.results[0] == outcome.results[2] > 0
    assert outcome.began_ns < outcome.times_ns[0] <= outcome.times_ns[1] <= outcome.times_ns[2]


def test_a_program_goes_on_with_the_one_that_stands_in_its_place() -> None:
    second = Program("second")
    second.call("umask", 0o22, why="a step of its own")
    second.call("write", 1, "there", 5, why="say so")
    first = Program("first")
    first.call("umask", 0o27, why="what the other will find")
    for number, here in ((20, PROGRAM_FD), (21, REPORT_FD)):
        first.call("dup3", number, here, 0, why="its successor's")
    first.chain(why="go on")
    report = report_module.Report(len(second.all_steps))
    reader, writer = pipe()
    with writer, memory("second", second.pack()) as code, report.memory:
        outcome, code_of_exit = launch.run(first, {1: writer, 20: code, 21: report.memory})
        gone_on = report.read()
    assert (code_of_exit, read_all(reader)) == (0, b"there")
    assert (outcome.failed, gone_on.failed) == (None, None)
    assert gone_on.results == (0o27, 5)
    assert outcome.times_ns[2] < gone_on.began_ns < gone_on.times_ns[0]


def test_without_a_program_to_go_on_with_the_runner_ends() -> None:
    steps = Program("alone")
    steps.call("close", PROGRAM_FD, why="nothing stands there")
    steps.chain(why="go on")
    assert launch.run(steps)[1] == 112


def test_a_structure_holds_addresses_of_other_memory() -> None:
    steps = Program("a message")
    text = Buffer("text", 8)
    message = Structure((0, 0, Structure((text, 8), "{text}"), 1, 0, 0, 0), "{1 part}")
    steps.call("recvmsg", 20, message, 0, why="through two addresses")
    steps.call("write", 1, text, 5, why="what came")
    assert str(steps.steps[0]) == "recvmsg(20, {1 part}, 0)"
    ours, theirs = socket.socketpair()
    reader, writer = pipe()
    with ours, writer, Fd(theirs.detach()) as end:
        ours.send(b"hello")
        outcome, _ = launch.run(steps, {1: writer, 20: end})
    assert outcome.results == (5, 5)
    assert read_all(reader) == b"hello"


def test_the_first_failure_stops_and_is_told_with_its_errno() -> None:
    steps = Program("fails")
    steps.call("getpid", why="fine")
    steps.call("chdir", "/nonexistent", why="not there")
    steps.call("getpid", why="never reached")
    outcome, code = launch.run(steps)
    assert code == 111
    assert (outcome.failed, outcome.errno) == (1, errno.ENOENT)
    assert outcome.times_ns[2] == 0


def test_a_tolerated_errno_goes_on_and_what_needs_its_slot_is_skipped() -> None:
    steps = Program("tolerant")
    missing = steps.call(
        "openat", Flags(("AT_FDCWD",)), "/nonexistent", 0, 0, store="file", tolerate=(errno.ENOENT,), why="maybe"
    )
    steps.call("fchdir", missing, why="only if it was there")
    steps.call("getpid", why="in any case")
    outcome, code = launch.run(steps)
    assert code == 0
    assert outcome.results[:2] == (-errno.ENOENT, SKIPPED)
    assert outcome.results[2] > 0


def test_another_errno_than_the_tolerated_one_fails() -> None:
    steps = Program("not that tolerant")
    steps.call("openat", Flags(("AT_FDCWD",)), "/nonexistent", 0, 0, tolerate=(errno.EACCES, errno.ENOTDIR), why="wrong errno")
    assert launch.run(steps)[0].failed == 0


def test_a_slot_carries_a_descriptor_to_a_later_step(tmp_path: Path) -> None:
    steps = Program("slots")
    flags = Flags(("O_WRONLY", "O_CREAT", "O_CLOEXEC"))
    file = steps.call("openat", Flags(("AT_FDCWD",)), str(tmp_path / "made"), flags, 0o600, store="file", why="make it")
    steps.call("write", file, "hello", 5, why="fill it")
    assert launch.run(steps)[1] == 0
    assert (tmp_path / "made").read_text() == "hello"


def test_a_buffer_filled_by_one_step_is_read_by_another(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"0123456789")
    steps = Program("buffers")
    source = steps.call("openat", Flags(("AT_FDCWD",)), str(tmp_path / "from"), 0, 0, store="source", why="open")
    steps.call("read", source, Buffer("text", 8), 8, why="read into memory")
    steps.call("write", 1, Buffer("text", 8, 4), 4, why="write its second half")
    assert with_output(steps)[2] == b"4567"


@pytest.mark.requires("root")
def test_the_clone_has_its_own_namespaces_and_its_pid_is_known_before_it_runs() -> None:
    steps = Program("a container, nearly")
    steps.clone(("CLONE_NEWPID", "CLONE_NEWUTS", "CLONE_NEWNS"), cgroup=None, why="a child")
    steps.call("sethostname", "inside", 6, why="its own name")
    steps.call("execve", BUSYBOX, Vector((b"sh", b"-c", b"echo $(hostname) $$")), Vector(()), why="look around")
    steps.afterwards("waitid", Flags(("P_ALL",)), 0, Buffer("status", 128), Flags(("WEXITED",)), 0, why="wait")
    outcome, code, output = with_output(steps)
    assert code == 0
    assert output == b"inside 1\n"
    assert outcome.pid > 1
    assert os.uname().nodename != "inside"


@pytest.mark.requires("root")
def test_a_failure_in_the_clone_is_told_while_the_parent_half_goes_on() -> None:
    steps = Program("the child fails")
    steps.clone(("CLONE_NEWPID",), cgroup=None, why="a child")
    steps.call("execve", "/nonexistent", Vector((b"x",)), Vector(()), why="not there")
    steps.afterwards("waitid", Flags(("P_ALL",)), 0, Buffer("status", 128), Flags(("WEXITED",)), 0, why="wait")
    steps.afterwards("write", 1, Buffer("status", 128), 128, why="tell")
    outcome, code, output = with_output(steps)
    assert code == 0
    assert (outcome.failed, outcome.errno, outcome.reaper_failed) == (1, errno.ENOENT, None)
    assert struct.unpack_from("<i", output, 24)[0] == 111


def test_vectors_words_and_filters_reach_the_kernel_whole() -> None:
    allow_all = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
    steps = Program("memory")
    steps.call("prctl", Flags(("PR_SET_NO_NEW_PRIVS",)), 1, 0, 0, 0, why="so that anybody may filter")
    steps.call("seccomp", Flags(("SECCOMP_SET_MODE_FILTER",)), 0, Filter(allow_all), why="a filter that allows")
    steps.call("prlimit64", 0, Flags(("RLIMIT_NOFILE",)), Words(8, (64, 64)), 0, why="a limit")
    script = b"ulimit -n; echo $A; grep Seccomp: /proc/self/status"
    steps.call("execve", BUSYBOX, Vector((b"sh", b"-c", script)), Vector((b"A=b c", b"D=")), why="look")
    assert with_output(steps)[2] == b"64\nb c\nSeccomp:\t2\n"


def test_a_step_tolerates_four_errnos_at_most() -> None:
    steps = Program("too tolerant")
    steps.call("getpid", tolerate=(1, 2, 3, 4, 5), why="greedy")
    with pytest.raises(ValueError, match="four errnos"):
        steps.pack()


def test_the_same_string_is_stored_once() -> None:
    once, twice = Program("one"), Program("two")
    once.call("chdir", "/a/long/path", why="x")
    twice.call("chdir", "/a/long/path", why="x")
    twice.call("chdir", "/a/long/path", why="x")
    assert twice.pack().count(b"/a/long/path") == 1
    assert len(twice.pack()) - len(once.pack()) < 72


def test_layouts_are_those_that_the_runner_declares() -> None:
    """runner.c and program.py describe the same bytes: sizes by their fields, in both places."""
    source = Path(program_module.__file__).with_name("runner.c").read_text()
    sizes = {"uint64_t": 8, "int64_t": 8, "uint32_t": 4, "int32_t": 4, "uint16_t": 2, "uint8_t": 1}

    def size_of(name: str) -> int:
        body = re.search(rf"struct {name} {{(.*?)}};", source, re.DOTALL)
        assert body
        fields = re.findall(r"^\s*(\w+) \w+(?:\[(\d+)\])?;", body[1], re.MULTILINE)
        return sum(sizes[kind] * int(count or 1) for kind, count in fields if kind in sizes)

    assert size_of("header") == program_module._HEADER.size
    assert size_of("step") == program_module._STEP.size
    assert size_of("entry") == report_module._ENTRY.size
    assert size_of("report") == report_size(0)


def test_the_runner_is_small_static_and_needs_nothing() -> None:
    image = runner_image()
    assert image[:4] == b"\x7fELF"
    assert len(image) < 4096
    assert b"ld-linux" not in image


def test_a_foreign_program_is_refused() -> None:
    steps = Program("wrong magic")
    steps.call("getpid", why="never")
    broken = b"XXXX" + steps.pack()[4:]
    original, program_module.Program.pack = program_module.Program.pack, lambda _self: broken  # type: ignore[method-assign]
    try:
        assert launch.run(steps)[1] == 113
    finally:
        program_module.Program.pack = original  # type: ignore[method-assign]


def test_slots_print_by_name() -> None:
    steps = Program("names")
    steps.call("fchdir", Slot("root"), why="x")
    assert str(steps.steps[0]) == "fchdir(root)"


def test_a_shared_beginning_is_packed_whole_whoever_comes_first() -> None:
    """Two at once could copy it half packed: a string's place known, its bytes not there yet."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for attempt in range(20):
            base = Program("base")
            for number in range(100):
                base.call("chdir", f"/{attempt}/{number}", why="x")
            packed: list[bytes] = []

            def work(base: Program = base, packed: list[bytes] = packed) -> None:
                more = base.continued("more")
                more.call("chdir", "/last", why="x")
                packed.append(more.pack())

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(set(packed)) == 1
            assert len(packed) == 4
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("argument", ["/a\0b", Vector((b"a", b"b\0c"))])
def test_a_string_that_c_would_take_for_a_shorter_one_is_refused(argument: str | Vector) -> None:
    steps = Program("short")
    steps.call("chdir", argument, why="x")
    with pytest.raises(ValueError, match="must not contain a NUL"):
        steps.pack()


def test_control_characters_and_bytes_that_are_no_text_print() -> None:
    steps = Program("print")
    steps.call("chdir", 'a\n\t"\\\udcff', why="x")
    assert str(steps.steps[0]) == 'chdir("a\\n\\t\\"\\\\\\\\xff")'
