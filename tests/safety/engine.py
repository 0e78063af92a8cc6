"""Who runs a bundle in these tests: the core itself, as the daemon composes it.

``Core`` does what the daemon and its monitor do for one container (ground, program, runner, reaper) with
nothing in between, so that a test can also run a *weakened* program: the same steps with one defence taken
out.  An attack that does not come through then would prove nothing about the defence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from kernel import mount, namespace, process
from kernel.capability import last_capability
from kernel.cgroup import Cgroup
from kernel.fd import Fd, eventfd, memory, open_path, pipe
from kernel.procfs import open_procfs
from kernel.program import Flags, Program, Step, Words, runner_image
from kernel.report import Outcome, Report
from runtime.container import device_filter, ground, init, join, resources
from runtime.container.descriptors import EXIT_FILE, Descriptor
from runtime.container.failure import describe_failure
from runtime.container.filter import SystemCallFilter
from runtime.container.reaper import read_exit
from runtime.container.seccomp import compile_filter
from runtime.errors import KerneletError
from runtime.monitor import ready_dev
from runtime.monitor.launch import open_null
from runtime.spec import load, schema
from tests.safety.bundle import Bundle
from tests.support import cgroup

ABOVE = 400
OUTPUT_LIMIT = 1 << 22

Change = Callable[[Step], Step | None]

_numbers = itertools.count(1)


class Refused(Exception):
    """The runtime said no, in words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What came of a container: why there was none, or how it ended and what it said."""

    refusal: str
    code: int | None
    output: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


class Held(Protocol):
    """A created container, held until its context is left."""

    pid: int

    def start(self) -> None: ...

    def finish(self, seconds: float = 20) -> Result: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Engine(Protocol):
    """Who runs bundles: ``Core``, or ``tests.safety.oci.Oci``."""

    name: str

    def create(self, bundle: Bundle) -> Held:
        """The container of *bundle*, up to the wait for its start.  Raises Refused."""

    def run(self, bundle: Bundle) -> Result:
        """Create, start, and wait for the end."""


class Core:
    """Runs bundles through ``runtime.container``; *changes* are made to every step of a program before it is packed."""

    name = "core"

    def __init__(self, directory: Path, *changes: Change, begins_empty: bool = False) -> None:
        """*begins_empty*: as a monitor launches ordinary containers, in a mount namespace with nothing of the node's in it."""
        self._directory = directory
        self._changes = changes
        self._begins_empty = begins_empty

    def weakened(self, *changes: Change) -> Core:
        """The same, with programs whose steps were changed."""
        return Core(self._directory, *changes)

    def create(self, bundle: Bundle) -> Container:
        """The container of *bundle*, up to the wait for its start.  Raises Refused."""
        try:
            return self._create(bundle)
        except (KerneletError, OSError) as error:
            raise Refused(f"{error}") from error

    def run(self, bundle: Bundle) -> Result:
        """Create, start, and wait for the end."""
        try:
            with self.create(bundle) as container:
                container.start()
                return container.finish()
        except Refused as refusal:
            return Result(str(refusal), None, "")

    def _create(self, bundle: Bundle) -> Container:
        spec = bundle.spec
        load.validate(spec)
        name = f"safety-{next(_numbers)}"
        run_dir = self._directory / name
        run_dir.mkdir(mode=0o700, parents=True)
        attach_point = self._directory / "attach"
        attach_point.mkdir(exist_ok=True)
        group = Cgroup(cgroup.ROOT / name)
        group.create()
        with contextlib.ExitStack() as undo:
            undo.callback(_forget, group, run_dir)
            resources.apply(group, cgroup.ROOT, spec.linux.resources)
            device_filter.apply(group, spec.linux)
            root = mount.clone_tree(bundle.rootfs)
            prepared = ground.prepare(spec, root, attach_point=attach_point, in_cgroup=True, by_monitor=self._begins_empty)
            undo.callback(prepared.close)
            code = compile_filter(spec.linux.seccomp) if spec.linux.seccomp else None
            program = self._changed(init.program(name, spec, prepared.facts, code))
            files = dict(prepared.descriptors)
            files[Descriptor.CGROUP] = undo.enter_context(group.open())
            if self._begins_empty:
                files[Descriptor.VOID] = undo.enter_context(namespace.new_empty_mounts())
                files |= ready_dev.make()
            terminal = (prepared.terminal.slave, prepared.terminal.master) if prepared.terminal else None
            started = Started(program, files, run_dir, terminal)
            undo.callback(started.close)
            container = Container(self, bundle, started, group, run_dir)
            container.expect_created()
            undo.pop_all()
            prepared.close()
            for number in (Descriptor.CGROUP, Descriptor.VOID, Descriptor.DEV, Descriptor.DEVPTS, Descriptor.EMPTY):
                if number in files:
                    files[number].close()
        return container

    def _changed(self, program: Program) -> Program:
        if not self._changes:
            return program
        return changed(program, *self._changes)

    def execute(self, container: Container, spec_process: schema.Process, code: bytes | None = None) -> Result:
        """Run *spec_process* in *container*, as an exec does."""
        kinds = ("CLONE_NEWPID", "CLONE_NEWNS", "CLONE_NEWNET", "CLONE_NEWIPC", "CLONE_NEWUTS", "CLONE_NEWCGROUP")
        run_dir = container.run_dir / f"exec-{next(_numbers)}"
        run_dir.mkdir(mode=0o700)
        try:
            system_calls = None if code is None else SystemCallFilter(code)
            program = self._changed(join.program("exec", spec_process, join.Entrance(kinds, last_capability()), system_calls))
        except KerneletError as error:
            return Result(str(error), None, "")
        with process.open_pidfd(container.pid) as pidfd, container.group.open() as group, open_procfs() as own:
            started = Started(program, {join.CONTAINER: pidfd, join.PROCFS: own, Descriptor.CGROUP: group}, run_dir)
            with contextlib.closing(started):
                started.wait_ready(b"")
                if (outcome := started.outcome()).failed is not None:
                    return Result(describe_failure(program, outcome.failed, outcome.errno), None, "")
                return Result("", started.wait_exit(20), started.output())


class Started:
    """A runner that was spawned with a program, and our ends of what it holds."""

    def __init__(self, program: Program, files: dict[int, Fd], run_dir: Path, terminal: tuple[Fd, Fd] | None = None) -> None:
        self._program, self._run_dir = program, run_dir
        slave = terminal[0] if terminal else None
        self._master = terminal[1].duplicate() if terminal else None
        self._report = Report(len(program.all_steps))
        self._output = memory("output", b"", seal=False)
        self._ready, ready_writer = pipe()
        self._start, self._done = eventfd(), eventfd()
        null = open_null()
        with ready_writer, null, open_path(run_dir, os.O_DIRECTORY) as run, memory("program", program.pack()) as code:
            theirs = {
                Descriptor.STDIN: slave or null, Descriptor.STDOUT: slave or self._output,
                Descriptor.STDERR: slave or self._output, Descriptor.PROGRAM: code,
                Descriptor.REPORT: self._report.memory, Descriptor.READY_READ: self._ready,
                Descriptor.READY: ready_writer, Descriptor.START: self._start, Descriptor.DONE: self._done,
                Descriptor.RUN_DIR: run, Descriptor.OUTPUT: null, Descriptor.ERRORS: null, Descriptor.INPUT: null, **files,
            }  # fmt: skip
            lifted = {number: file.duplicate(ABOVE) for number, file in theirs.items()}
            with memory("kernelet-runner", runner_image()) as image, image.duplicate(ABOVE) as runner:
                numbers = {int(number): file.fileno() for number, file in lifted.items()}
                self.runner_pid = process.spawn(runner.fileno(), "kernelet:init", numbers)
            for file in lifted.values():
                file.close()

    def outcome(self) -> Outcome:
        return self._report.read()

    def wait_ready(self, awaited: bytes, seconds: float = 20) -> bytes:
        """What the program says on its ready pipe: *awaited*, or nothing when it has gone or become something else."""
        readable, _, _ = select.select([self._ready], [], [], seconds)
        assert readable, f"nothing said in {seconds} s; at {self._program.all_steps[self.outcome().at]}"
        said = os.read(self._ready.fileno(), 1)
        assert said in (awaited, b""), said
        return said

    def start(self) -> None:
        os.eventfd_write(self._start.fileno(), 1)

    def wait_exit(self, seconds: float) -> int:
        """The exit code, as the reaper has left it."""
        readable, _, _ = select.select([self._done], [], [], seconds)
        assert readable, f"the container has not ended in {seconds} s"
        return read_exit((self._run_dir / EXIT_FILE).read_bytes())[0]

    def output(self) -> str:
        if self._master is not None:
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                return os.read(self._master.fileno(), 4096).decode(errors="replace")
            return ""
        return os.pread(self._output.fileno(), OUTPUT_LIMIT, 0).decode(errors="replace")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.runner_pid, signal.SIGKILL)
        os.waitpid(self.runner_pid, 0)
        for file in (self._ready, self._start, self._done, self._output, self._report.memory, self._master):
            if file is not None:
                file.close()


class Container:
    """A created container; leaving it as a context ends it and all that is in its cgroup."""

    def __init__(self, engine: Core, bundle: Bundle, started: Started, group: Cgroup, run_dir: Path) -> None:
        self.engine, self.bundle, self.group, self.run_dir = engine, bundle, group, run_dir
        self._started = started
        self.pid = 0

    @property
    def reaper_pid(self) -> int:
        return self._started.runner_pid

    @property
    def outcome(self) -> Outcome:
        return self._started.outcome()

    def expect_created(self) -> None:
        if not self._started.wait_ready(b"c"):
            raise KerneletError(self._failure())
        self.pid = self._started.outcome().pid

    def _failure(self) -> str:
        outcome = self._started.outcome()
        failed = outcome.at if outcome.failed is None else outcome.failed
        return describe_failure(self._started._program, failed, outcome.errno, outcome.results)

    def start(self) -> None:
        """Let it go on to execve.  Raises Refused when that failed."""
        self._started.start()
        self._started.wait_ready(b"")
        if self._started.outcome().failed is not None:
            raise Refused(self._failure())

    def finish(self, seconds: float = 20) -> Result:
        """How it ended, and what it said."""
        code = self._started.wait_exit(seconds)
        return Result("", code, self._started.output())

    def wait_output(self, text: str, seconds: float = 10) -> str:
        """What it has said so far, as soon as *text* is in it."""
        end = time.monotonic() + seconds
        while text not in (said := self._started.output()):
            assert time.monotonic() < end, f"{text!r} was not said: {said!r}"
            time.sleep(0.002)
        return said

    def execute(self, *arguments: str, **more: Any) -> Result:
        """Run *arguments* in it as its own user, with *more* fields of the process changed."""
        own = self.bundle.process
        fields: dict[str, Any] = {each: getattr(own, each) for each in own.__struct_fields__}
        return self.engine.execute(self, schema.Process(**{**fields, "args": list(arguments), "terminal": False, **more}))

    def close(self) -> None:
        self._started.close()
        _forget(self.group, self.run_dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _forget(group: Cgroup, run_dir: Path) -> None:
    group.kill()
    group.remove()
    for place in sorted(run_dir.rglob("*"), reverse=True):
        place.rmdir() if place.is_dir() else place.unlink()
    run_dir.rmdir()


def changed(program: Program, *changes: Change) -> Program:
    """*program* with each step changed, or left out where a change returns None."""
    kept: list[Step] = []
    clone_index = program.clone_index
    for index, original in enumerate(program.steps):
        step: Step | None = original
        for change in changes:
            step = change(step) if step is not None else None
        if step is not None:
            kept.append(step)
        elif program.clone_index is not None and index < program.clone_index:
            assert clone_index is not None
            clone_index -= 1
    return Program(program.title, kept, program.behind, clone_index)


# Ways to weaken a program: each takes one defence out.


def following_all_links(step: Step) -> Step:
    """Paths are resolved as open(2) does: links lead where they say, the root is the process's own."""
    if step.call != "openat2":
        return step
    directory, path, how, size = step.arguments
    assert isinstance(how, Words)
    flags = how.values[0] & ~os.O_NOFOLLOW
    path = f".{path}" if isinstance(path, str) and not isinstance(directory, Flags) else path
    return step._replace(arguments=(directory, path, Words(8, (flags, 0, 0), label="{weakened}"), size))


def without(*calls: str) -> Change:
    """Steps that begin with one of *calls*, as printed, are left out."""
    return lambda step: None if str(step).startswith(calls) else step


@contextlib.contextmanager
def watched(*directories: Path | str) -> Iterator[Callable[[], set[str]]]:
    """Tells what has come to or gone from *directories* meanwhile."""

    def look() -> set[str]:
        return {f"{directory}/{name}" for directory in directories for name in os.listdir(directory)}

    before = look()
    yield lambda: look() ^ before
