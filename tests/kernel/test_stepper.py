"""The second executor does what the runner does: step by step, errno by errno."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel import stepper
from kernel.fd import Fd, memory, open_path, pipe
from kernel.program import PROGRAM_FD, REPORT_FD, Argument, Buffer, Filter, Flags, Program, Slot, Vector, Words
from kernel.report import Outcome, Report
from tests.support import launch

BUSYBOX = "/bin/busybox"
AT_FDCWD, PATH_ONLY = Flags(("AT_FDCWD",)), Flags(("O_PATH", "O_CLOEXEC"))
#: Calls whose answer is another in every process.
OF_THE_PROCESS = ("getpid", "setsid", "clone3", "keyctl")


def same(program: Program, left: Outcome, right: Outcome) -> None:
    """Both came equally far, with the same answer to each step."""
    for index, (step, ours, theirs) in enumerate(zip(program.all_steps, left.results, right.results, strict=True)):
        if step.call in OF_THE_PROCESS and ours > 0 < theirs:
            continue
        assert ours == theirs, f"step {index + 1}, {step}: {ours} by the runner, {theirs} by Python"
    reached = [[bool(at) for at in outcome.times_ns] for outcome in (left, right)]
    assert reached[0] == reached[1]
    assert (left.failed, left.errno, left.at, left.reaper_failed) == (right.failed, right.errno, right.at, right.reaper_failed)
    assert bool(left.pid) == bool(right.pid)


def both(program: Program, descriptors: Mapping[int, Fd] | None = None) -> Outcome:
    """The outcome of *program*, which is the same whoever executes it."""
    by_runner, code = launch.run(program, descriptors)
    by_python, other_code = launch.run_stepped(program, descriptors)
    same(program, by_runner, by_python)
    assert code == other_code
    return by_python


def test_results_slots_and_skipped_steps() -> None:
    steps = Program("slots")
    root = steps.call("openat", AT_FDCWD, "/", PATH_ONLY, 0, store="root", why="x")
    steps.call("fchdir", root, why="x")
    missing = steps.call("openat", AT_FDCWD, "/nonexistent", 0, 0, store="missing", tolerate=(errno.ENOENT,), why="x")
    steps.call("fchdir", missing, why="skipped")
    steps.call("umask", 0o22, why="x")
    steps.call("umask", 0o77, why="x")
    outcome = both(steps)
    assert outcome.results[-1] == 0o22
    assert outcome.failed is None


def test_the_first_failure_stops() -> None:
    steps = Program("fails")
    steps.call("getpid", why="x")
    steps.call("chdir", "/nonexistent", tolerate=(errno.EACCES,), why="x")
    steps.call("getpid", why="never")
    assert both(steps).failed == 1


def test_buffers_vectors_words_and_filters(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"0123456789")
    allow_all = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
    steps = Program("memory")
    source = steps.call("openat", AT_FDCWD, str(tmp_path / "from"), 0, 0, store="source", why="x")
    steps.call("read", source, Buffer("text", 8), 8, why="x")
    steps.call("write", 1, Buffer("text", 8, 4), 4, why="x")
    steps.call("prctl", Flags(("PR_SET_NO_NEW_PRIVS",)), 1, 0, 0, 0, why="x")
    steps.call("seccomp", Flags(("SECCOMP_SET_MODE_FILTER",)), 0, Filter(allow_all), why="x")
    steps.call("prlimit64", 0, Flags(("RLIMIT_NOFILE",)), Words(8, (64, 64)), 0, why="x")
    for number in (32, 33):  # posix_spawn(3) ignores the C library's own signals
        steps.call("rt_sigaction", number, Words(8, (0, 0, 0, 0)), 0, 8, why="x")
    script = b"ulimit -n; echo $A; grep -e Seccomp: -e SigIgn /proc/self/status"
    steps.call("execve", BUSYBOX, Vector((b"sh", b"-c", script)), Vector((b"A=b c",)), why="x")
    printed = []
    for run in (launch.run, launch.run_stepped):
        reader, writer = pipe()
        with writer:
            run(steps, {1: writer})
        with open(reader.detach(), "rb") as stream:
            printed.append(stream.read())
    assert printed[0] == printed[1]
    assert printed[1].startswith(b"456764\nb c\nSigIgn:")


@pytest.mark.requires("root")
def test_a_clone_and_the_parent_half() -> None:
    steps = Program("a container, nearly")
    steps.clone(("CLONE_NEWPID", "CLONE_NEWUTS", "CLONE_NEWNS"), cgroup=None, why="x")
    steps.call("sethostname", "inside", 6, why="x")
    steps.call("execve", BUSYBOX, Vector((b"sh", b"-c", b'[ "$(hostname) $$" = "inside 1" ] && exit 7')), Vector(()), why="x")
    steps.afterwards("waitid", Flags(("P_ALL",)), 0, Buffer("status", 128), Flags(("WEXITED",)), 0, why="x")
    steps.afterwards("write", 5, Buffer("status", 128), 128, why="x")
    for run in (launch.run, launch.run_stepped):
        reader, writer = pipe()
        with writer:
            outcome, code = run(steps, {5: writer})
        with open(reader.detach(), "rb") as stream:
            status = stream.read()
        assert (code, outcome.failed, outcome.reaper_failed) == (0, None, None)
        assert struct.unpack_from("<i", status, 24)[0] == 7
    both(_without_the_write(steps))


def _without_the_write(steps: Program) -> Program:
    steps.behind.pop()
    return steps


@pytest.mark.requires("root")
def test_a_failure_on_either_side_of_the_clone() -> None:
    for child, parent in (("/nonexistent", 1), (BUSYBOX, 99)):
        steps = Program("fails")
        steps.clone(("CLONE_NEWPID",), cgroup=None, why="x")
        steps.call("execve", child, Vector((b"true",)), Vector(()), why="x")
        steps.afterwards("waitid", Flags(("P_ALL",)), 0, Buffer("status", 128), Flags(("WEXITED",)), 0, why="x")
        steps.afterwards("write", parent, "", 0, why="x")
        outcome = both(steps)
        assert (outcome.failed, outcome.reaper_failed) == ((1, None) if parent == 1 else (None, 3))


def test_a_foreign_program_is_refused_and_an_exception_tells_nothing() -> None:
    def foreign() -> NoReturn:
        with memory("program", b"XXXX" + Program("x").pack()[4:]) as code:
            os.dup2(code.fileno(), PROGRAM_FD)
        stepper.main()

    steps = Program("x")
    steps.call("getpid", why="x")
    assert launch.run_stepped(steps, main=foreign)[1] == stepper.FOREIGN

    def broken() -> NoReturn:
        stepper.execute(b"short", 0)

    reader, writer = pipe()
    with writer:
        assert launch.run_stepped(steps, {2: writer}, main=broken)[1] == stepper.BROKEN
    with open(reader.detach(), "rb") as stream:
        assert stream.read() == b""


def test_it_is_started_as_the_runner_is() -> None:
    steps = Program("spawned")
    steps.call("openat", AT_FDCWD, "/", PATH_ONLY, 0, store="root", why="x")
    steps.call("fchdir", Slot("root"), why="x")
    steps.call("chdir", "/nonexistent", why="x")
    report = Report(3)
    with memory("program", steps.pack()) as code, code.duplicate(100) as lifted, report.memory.duplicate(100) as page:
        pid = stepper.spawn({PROGRAM_FD: lifted.fileno(), REPORT_FD: page.fileno()})
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == stepper.FAILED
    same(steps, launch.run(steps)[0], report.read())
    report.memory.close()


def test_a_program_goes_on_with_another() -> None:
    """The first puts the second, and its report, in the place of its own."""
    second = Program("second")
    second.call("umask", 0o27, why="x")
    second.call("umask", 0o22, why="x")
    first = Program("first")
    first.call("umask", 0, why="x")
    for number, place in ((60, PROGRAM_FD), (61, REPORT_FD)):
        first.call("dup3", number, place, 0, why="x")
    first.chain(why="x")
    for run in (launch.run, launch.run_stepped):
        report = Report(2)
        with memory("second", second.pack()) as code:
            outcome, status = run(first, {60: code, 61: report.memory})
        assert (status, outcome.failed, outcome.at) == (0, None, 3)
        assert report.read().results == (0, 0o27)
        report.memory.close()


# Nothing of the container's is imported.

PLANTED = "import os; os.write(2, b'planted')"
IMPORTS = ("planted_module", "json.tool", "encodings.idna")


def _visit_a_root(top: Path, pause: stepper.Pause, *, guarded: bool) -> bytes:
    """What is written when the root is changed to *top*, where modules are planted, and *pause* then imports them."""
    for place in {path for path in sys.path if path.startswith("/")}:
        for name in IMPORTS:
            file = Path(f"{top}{place}", *name.split(".")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(PLANTED)
            if file.parent.name in ("json", "encodings"):
                (file.parent / "__init__.py").write_text(PLANTED)
    steps = Program("another root")
    steps.call("chroot", str(top), why="x")
    steps.call("chdir", "/", why="x")

    def main() -> NoReturn:
        if not guarded:
            stepper.close_the_doors = lambda: None  # in this child alone
        for name in ("json", *IMPORTS):
            sys.modules.pop(name, None)
        program = os.pread(PROGRAM_FD, 1 << 20, 0)
        stepper.execute(program, stepper.map_shared(REPORT_FD, os.fstat(REPORT_FD).st_size), pause)

    reader, writer = pipe()
    with writer:
        outcome, code = launch.run_stepped(steps, {2: writer}, main)
    with open(reader.detach(), "rb") as stream:
        written = stream.read()
    assert outcome.failed is None, written
    assert code in (stepper.DONE, stepper.BROKEN)
    return written


def _try_to_import(index: int) -> None:
    if index != 1:
        return
    for name in ("planted_module", "json", "json.tool"):
        try:
            __import__(name)
        except ImportError:
            os.write(2, b"-")
    try:
        b"x".decode("idna")
    except LookupError:
        os.write(2, b"-")


@pytest.mark.requires("root")
def test_a_planted_module_never_runs(tmp_path: Path) -> None:
    assert _visit_a_root(tmp_path, _try_to_import, guarded=True) == b"----"


@pytest.mark.requires("root")
def test_without_the_guard_it_would(tmp_path: Path) -> None:
    assert b"planted" in _visit_a_root(tmp_path, _try_to_import, guarded=False)


@pytest.mark.requires("root")
def test_a_traceback_does_not_open_the_containers_files(tmp_path: Path) -> None:
    """A FIFO where our source is: to print a line of it would wait for a writer."""
    source = Path(f"{tmp_path}{stepper.__file__}")
    source.parent.mkdir(parents=True)
    os.mkfifo(source)

    def fail(index: int) -> None:
        if index == 1:
            raise ValueError("x")

    began = time.monotonic()
    steps = Program("another root")
    steps.call("chroot", str(tmp_path), why="x")
    steps.call("chdir", "/", why="x")

    def main() -> NoReturn:
        program = os.pread(PROGRAM_FD, 1 << 20, 0)
        stepper.execute(program, stepper.map_shared(REPORT_FD, os.fstat(REPORT_FD).st_size), fail)

    assert launch.run_stepped(steps, main=main)[1] == stepper.BROKEN
    assert time.monotonic() - began < 20


# Steps that are made one by one.


def test_it_waits_before_each_step_that_is_not_allowed() -> None:
    steps = Program("five")
    for _ in range(5):
        steps.call("getpid", why="x")
    control = stepper.SteppedReport(5)
    with memory("program", steps.pack()) as code, code.duplicate(100) as lifted, control.memory.duplicate(100) as page:
        pid = stepper.spawn({PROGRAM_FD: lifted.fileno(), REPORT_FD: page.fileno()})
    with Fd(os.pidfd_open(pid)) as process:

        def is_over() -> bool:
            return os.waitid(os.P_PIDFD, process.fileno(), os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

        assert control.wait(is_over) == 0
        assert control.read().times_ns == (0, 0, 0, 0, 0)
        control.allow(1)
        assert control.wait(is_over) == 1
        control.allow(4)
        assert control.wait(is_over) == 4
        assert [bool(at) for at in control.read().times_ns] == [True] * 4 + [False]
        control.allow(stepper.ALL)
        assert control.wait(is_over) is None
        os.waitpid(pid, 0)
    assert control.read().failed is None
    control.close()


# Any program of harmless calls.

PATHS = st.sampled_from(["/", "/proc", "/nonexistent", "/bin/busybox", "/etc/passwd", "", "/proc/self/fd"])
NUMBERS = st.sampled_from([-1, 0, 1, 2, 7, 97, 1 << 31, (1 << 63) - 1])
SLOTS = ("a", "b", "pidfd")
OPEN = st.sampled_from([(), ("O_PATH",), ("O_DIRECTORY",), ("O_CLOEXEC", "O_NOFOLLOW"), ("O_WRONLY",)]).map(Flags)
DESCRIPTORS: st.SearchStrategy[Argument] = st.one_of(st.sampled_from(SLOTS).map(Slot), st.sampled_from([AT_FDCWD, 60, -1]))
HOW = st.tuples(st.sampled_from([0, 0o10000000, 0o2000000]), NUMBERS, st.sampled_from([0, 2, 8, 16, 99])).map(
    lambda values: Words(8, values)
)
CALLS: dict[str, tuple[st.SearchStrategy[Argument], ...]] = {
    "openat": (DESCRIPTORS, PATHS, OPEN, st.just(0)),
    "openat2": (DESCRIPTORS, PATHS, HOW, st.sampled_from([0, 23, 24])),
    "fchdir": (DESCRIPTORS,),
    "chdir": (PATHS,),
    "umask": (NUMBERS,),
    "close": (st.sampled_from(("a", "b")).map(Slot),),
    "getcwd": (st.just(Buffer("where", 64)), st.sampled_from([0, 1, 64])),
    "read": (DESCRIPTORS, st.just(Buffer("text", 32)), st.sampled_from([0, 5, 32])),
    "prctl": (
        st.sampled_from([Flags(("PR_CAPBSET_READ",)), Flags(("PR_GET_SECCOMP",)), 9999]),
        NUMBERS,
        NUMBERS,
        NUMBERS,
        NUMBERS,
    ),
    "faccessat2": (DESCRIPTORS, PATHS, st.sampled_from([0, 1, 2, 4, 9]), st.sampled_from([0, 0x1000, 77])),
    "getpid": (),
    "clock_gettime": (st.sampled_from([0, 1, 99]), st.just(Buffer("time", 16))),
    "prlimit64": (
        st.just(0),
        st.sampled_from([Flags(("RLIMIT_NOFILE",)), Flags(("RLIMIT_CORE",)), 77]),
        st.just(0),
        st.just(Buffer("limit", 16)),
    ),
    "personality": (st.just(0xFFFFFFFF),),
    "dup3": (DESCRIPTORS, st.sampled_from([50, 60, -1]), st.sampled_from([0, 1, 0o2000000])),
    # Of no path that is there: these calls are made, and on the machine itself.
    "fchownat": (st.just(-1), st.sampled_from(["/nonexistent", "", "etc"]), NUMBERS, NUMBERS, st.just(0)),
}
ERRNOS = st.lists(
    st.sampled_from([errno.ENOENT, errno.EBADF, errno.EINVAL, errno.ENOTDIR, errno.EFAULT]), max_size=4, unique=True
)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    steps = Program("any")
    for name in SLOTS[:2]:  # what a later step asks for; the other half of the time it is not there
        place = draw(st.sampled_from(["/", "/nonexistent"]))
        steps.call("openat", AT_FDCWD, place, PATH_ONLY, 0, store=name, tolerate=(errno.ENOENT,), why="x")
    cloned_at = draw(st.integers(0, 12))
    for number in range(draw(st.integers(1, 12))):
        if number == cloned_at:
            steps.clone((), cgroup=None, why="x")
        name = draw(st.sampled_from(sorted(CALLS)))
        arguments = [draw(strategy) for strategy in CALLS[name]]
        store = draw(st.sampled_from([None, "a", "b"])) if name in ("openat", "openat2", "dup3") else None
        steps.call(name, *arguments, store=store, tolerate=draw(ERRNOS), why="x")
    if steps.clone_index is not None:
        steps.afterwards("waitid", Flags(("P_ALL",)), 0, Buffer("status", 128), Flags(("WEXITED",)), 0, why="x")
        steps.afterwards("fchdir", draw(DESCRIPTORS), why="x")
    return steps


@settings(max_examples=150)
@given(programs())
def test_any_program_goes_the_same_way(steps: Program) -> None:
    both(steps)


# And of calls that leave something behind.

HERE = 60
NAMES = st.sampled_from(["a", "b", "a/c", ".", "..", "", "a\\b"])
EFFECTS: dict[str, tuple[st.SearchStrategy[Argument], ...]] = {
    "mkdirat": (st.just(HERE), NAMES, st.sampled_from([0o700, 0o755])),
    "mknodat": (st.just(HERE), NAMES, st.sampled_from([0o010644, 0o100600, 0o020600]), st.just(0)),
    "symlinkat": (NAMES, st.just(HERE), NAMES),
    "linkat": (st.just(HERE), NAMES, st.just(HERE), NAMES, st.just(0)),
    "renameat2": (st.just(HERE), NAMES, st.just(HERE), NAMES, st.sampled_from([0, 1, 2])),
    "unlinkat": (st.just(HERE), NAMES, st.sampled_from([0, 0x200])),
    "fchmodat": (st.just(HERE), NAMES, st.sampled_from([0o600, 0o711])),
    "openat": (st.just(HERE), NAMES, st.sampled_from([("O_CREAT", "O_WRONLY"), ("O_PATH",)]).map(Flags), st.just(0o640)),
    "write": (st.just(Slot("file")), st.just("text"), st.sampled_from([0, 4])),
}


@st.composite
def effects(draw: st.DrawFn) -> Program:
    steps = Program("effects")
    creating = Flags(("O_CREAT", "O_WRONLY", "O_CLOEXEC"))
    steps.call("openat", HERE, draw(NAMES), creating, 0o600, store="file", tolerate=(errno.ENOENT, errno.EISDIR), why="x")
    for _ in range(draw(st.integers(1, 8))):
        name = draw(st.sampled_from(sorted(EFFECTS)))
        tolerated = draw(st.sampled_from([(), (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EINVAL)]))
        steps.call(name, *(draw(strategy) for strategy in EFFECTS[name]), tolerate=tolerated, why="x")
    return steps


def left_in(directory: Path) -> list[tuple[str, int, str]]:
    """All that is below *directory*: path, type and mode, and what is in it."""
    found = []
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if stat.S_ISLNK(mode) else path.read_text() if stat.S_ISREG(mode) and mode & 0o400 else ""
        found.append((str(path.relative_to(directory)), mode, content))
    return found


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(effects())
def test_any_program_leaves_the_same_behind(tmp_path: Path, steps: Program) -> None:
    outcomes, left = [], []
    for run in (launch.run, launch.run_stepped):
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        deep = directory.joinpath(*"123456789abc")  # more levels than its links can lead up
        deep.mkdir(parents=True)
        with open_path(deep, os.O_RDONLY | os.O_DIRECTORY) as here:
            outcomes.append(run(steps, {HERE: here})[0])
        left.append(left_in(directory))
        shutil.rmtree(directory)
    same(steps, *outcomes)
    assert left[0] == left[1]
