"""A bundle's start, step by step: the second executor makes the steps, and waits between them for whoever watches.

```
    us ── posix_spawn ──> python -m kernel.stepper ── clone3(CLONE_PARENT) ──> the container's init, a child of ours
       <── shared words: where it waits; up to where it may go (kernel.stepper.SteppedReport) ──>
```

Everything else is as ``create`` and ``start`` do it: cgroup, ground, program, hooks.  What was made is undone in
full when the ``Stepping`` is closed, wherever it stands then.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernel import stepper
from kernel.cgroup import find_tree
from kernel.fd import Fd, eventfd, memory, open_path, pipe
from kernel.process import open_pidfd, send_signal
from kernel.report import SKIPPED
from runtime.container import filter, ground, init
from runtime.container.descriptors import Descriptor
from runtime.container.failure import describe_failure
from runtime.container.observation import Observation, observe
from runtime.container.plan import Plan, describe
from runtime.container.sketch import names_of
from runtime.errors import InvalidArgument, StartFailed, Unsupported
from runtime.oci import place
from runtime.oci.around import late_hooks, run_create_hooks, run_poststart_hooks, run_start_hooks
from runtime.oci.bundle import Bundle, load_bundle, make_attach_point
from runtime.oci.console import Relay
from runtime.oci.delete import destroy
from runtime.oci.directory import CONFIG, Container, Record, make_container, start_time, write_whole
from runtime.oci.home import environment_of
from runtime.oci.launch import null_streams, open_null
from runtime.oci.log import timestamp
from runtime.oci.wait import Waiting

#: All that a spawn needs of ours lies above what the program's descriptors are numbered.
ABOVE = 1 << 8
GO = (1).to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class Made:
    """One step that was made, and what the kernel answered.  Not how long it took: it was waited for (see ``explain``)."""

    index: int
    result: int

    @property
    def is_skipped(self) -> bool:
        return self.result == SKIPPED


def open_stepping(path: Path) -> Stepping:
    """The start of the bundle at *path* (or of its config.json), before its first step; for a with statement.

    Raises InvalidSpec, Unsupported, HostPathNotFound or OSError, and leaves nothing then.
    """
    if os.geteuid() != 0:
        raise InvalidArgument("step: making containers step by step takes the rights of root; plan needs none")
    directory, config = (path, "") if path.is_dir() else (path.parent, path.name)
    bundle = load_bundle(os.fspath(directory), config)
    if bundle.spec.linux.seccomp is not None and bundle.spec.linux.seccomp.listener_path:
        raise Unsupported("linux.seccomp.listenerPath: nobody would listen while steps are made one by one")
    if bundle.spec.process is not None:
        with open_path(bundle.rootfs, os.O_PATH | os.O_DIRECTORY) as image:
            bundle.spec.process.env = environment_of(bundle.spec.process, image)
    with contextlib.ExitStack() as undo:
        root = Path(tempfile.mkdtemp(prefix="kernelet-step-", dir="/run"))
        undo.callback(shutil.rmtree, root, ignore_errors=True)
        stepping = Stepping(bundle, root, undo)
        stepping.undo = undo.pop_all()
        return stepping


class Stepping:
    """A start under way.  ``at`` is the step before which it waits; ``advance`` makes it."""

    def __init__(self, bundle: Bundle, root: Path, undo: contextlib.ExitStack) -> None:
        """Make everything that comes before the program; *undo* gets what will have to be undone."""
        self.undo = undo
        container_id = root.name
        self.container = make_container(root, _record(container_id, bundle))
        undo.callback(self.container.close)
        undo.callback(_destroy, self.container)
        self._spec, self._bundle = bundle.spec, bundle
        write_whole(self.container.path / CONFIG, bundle.document)
        cgroup = undo.enter_context(self._open_cgroup(container_id))
        self.prepared = self._prepare()
        undo.callback(self.prepared.close)
        self.program = init.program(
            f"the start of {bundle.path.name}", self._spec, self.prepared.facts, filter.compiled(self._spec.linux.seccomp)
        )
        self.plan: Plan = describe(self.program, names_of(self._spec, self.prepared.facts))
        self._filtered_from = next((i for i, step in enumerate(self.program.steps) if step.call == "seccomp"), stepper.ALL)
        self._report = stepper.SteppedReport(len(self.program.all_steps))
        undo.callback(self._report.close)
        self._ready, self._start = self._spawn(cgroup)
        self._init: Fd | None = None
        self._said = ""
        self.at = self._report.wait(self._is_over)

    def __enter__(self) -> Stepping:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Undo everything that was made."""
        self._end(self._executor)
        if self._init is not None:
            self._end(self._init)
        self.undo.close()

    @property
    def attach_point(self) -> str:
        """Where the container's root is attached before it becomes "/"."""
        return self.prepared.facts.attach_point

    @property
    def pid(self) -> int:
        """The process that makes the next step: the executor, and from the clone on the container's first."""
        return self._report.read().pid or self._executor_pid

    def observe(self) -> Observation | None:
        """That process, from outside; None when it is gone."""
        return observe(self.pid)

    def advance(self) -> Made:
        """Make the next step, with what is done from outside before it.  Raises StartFailed naming it when it fails."""
        index = self.at
        assert index is not None, "there is no further step"
        self._prepare_step(index)
        if self._is_stopped(index):
            self._signal(signal.SIGCONT)
        self._report.allow(index + 1)
        self.at = self._report.wait(self._is_over)
        self._note_clone()
        outcome = self._report.read()
        if outcome.failed is not None:
            with self._bundle.open_root() as root:
                raise StartFailed(describe_failure(self.program, outcome.failed, outcome.errno, outcome.results, root))
        if self.at is None and not self.has_become_program:
            raise StartFailed(describe_failure(self.program, index, 0))
        if self.at is not None and self._is_stopped(self.at):
            self._signal(signal.SIGSTOP)  # it waits without a system call, because its filter may forbid any
        elif self.at is None:
            self._finish()
        return Made(index, outcome.results[index])

    @property
    def has_become_program(self) -> bool:
        """Whether execve(2) happened: its end of the ready pipe is closed, and it lives, or ended as the program it became."""
        return self._hangs_up() and self._report.read().failed is None and self._report.read().at >= self._first_execve()

    def wait(self) -> int:
        """Wait for the program, with its terminal served and signals passed on; its exit code, 128 + a signal's number."""
        assert self._init is not None, "there is no program yet"
        with _handlers_restored(), Waiting() as waiting, Relay(self.prepared.terminal) as relay:
            self.prepared.close()  # our copy of its terminal: its end is seen when nobody has it
            return waiting.wait(self._report.read().pid, self._init, relay)

    def _open_cgroup(self, container_id: str) -> Fd:
        tree = find_tree()
        wanted = self._spec.linux.cgroups_path
        cgroup = place.find_place(tree, container_id, wanted if wanted.startswith("/") else f"/{container_id}")
        self.container.record.cgroup, self.container.record.tree = os.fspath(cgroup.path), os.fspath(tree)
        place.make_place(cgroup)
        place.apply_limits(cgroup, tree, self._spec.linux)
        return cgroup.open()

    def _prepare(self) -> ground.Ground:
        return ground.prepare(
            self._spec,
            self._bundle.open_root(),
            attach_point=make_attach_point(self._bundle, self.container.path),
            in_cgroup=True,
            has_reaper=False,
            can_pause=True,
            in_order=True,
            bundle=self._bundle.path,
            rootfs=self._bundle.rootfs,
            cgroup=Path(self.container.record.cgroup),
        )

    def _spawn(self, cgroup: Fd) -> tuple[Fd, Fd]:
        """Start the executor; our end of what it says, and what it waits for at its last step but one."""
        ready, speaking = pipe()
        start = self.undo.enter_context(eventfd())
        self.undo.enter_context(ready)
        with (
            speaking,
            memory("kernelet-program", self.program.pack()) as code,
            open_null() as null,
            contextlib.ExitStack() as opened,
        ):
            theirs: dict[int, Fd] = {**null_streams(opened), **self.prepared.descriptors}
            theirs |= {Descriptor.STDIN: null, Descriptor.CGROUP: cgroup}
            theirs |= {Descriptor.PROGRAM: code, Descriptor.REPORT: self._report.memory, Descriptor.READY: speaking}
            theirs[Descriptor.START] = start
            if self.prepared.terminal is not None:
                theirs |= dict.fromkeys((0, 1, 2), self.prepared.terminal.slave)
            lifted = {number: file.duplicate(ABOVE) for number, file in theirs.items()}
            try:
                self._executor_pid = stepper.spawn({number: file.fileno() for number, file in lifted.items()})
            finally:
                for file in lifted.values():
                    file.close()
        self._executor = self.undo.enter_context(open_pidfd(self._executor_pid))
        return ready, start

    def _prepare_step(self, index: int) -> None:
        """What has to happen outside before the step: hooks, and the word that lets a waiting process go on."""
        step = self.program.steps[index]
        if step.call != "read" or step.arguments[0] != Descriptor.START:
            return
        self._hear()
        if self._said.endswith("h"):
            run_create_hooks(self.container, self._spec, self.pid)
        else:
            run_start_hooks(self.container)
        os.write(self._start.fileno(), GO)

    def _hear(self) -> None:
        while _has_come(self._ready, select.POLLIN):
            word = os.read(self._ready.fileno(), 1).decode()
            if not word:
                return
            self._said += word

    def _note_clone(self) -> None:
        pid = self._report.read().pid
        if pid and self._init is None:
            self._init = self.undo.enter_context(open_pidfd(pid))
            self.container.record.pid, self.container.record.start_time = pid, start_time(pid)
            if self.container.cgroup is not None:
                place.give_away(self.container.cgroup, self._spec)

    def _finish(self) -> None:
        if self.has_become_program:
            run_poststart_hooks(self.container)

    def _is_over(self) -> bool:
        """Whether no step will come any more: it has failed, has ended, or is another program by now."""
        self._note_clone()
        if self._init is not None:
            return _has_come(self._init, select.POLLIN) or self._hangs_up()
        return _has_come(self._executor, select.POLLIN)

    def _hangs_up(self) -> bool:
        self._hear()
        return _has_come(self._ready, select.POLLHUP)

    def _first_execve(self) -> int:
        return next(index for index, step in enumerate(self.program.steps) if step.call == "execve")

    def _is_stopped(self, index: int) -> bool:
        return index > self._filtered_from

    def _signal(self, number: int) -> None:
        if self._init is not None:
            send_signal(self._init, number)

    @staticmethod
    def _end(pidfd: Fd) -> None:
        send_signal(pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED)


def _destroy(container: Container) -> None:
    destroy(container)


def _record(container_id: str, bundle: Bundle) -> Record:
    return Record(
        id=container_id,
        bundle=os.fspath(bundle.path),
        rootfs=os.fspath(bundle.rootfs),
        oci_version=bundle.spec.oci_version,
        created=timestamp(),
        annotations=bundle.spec.annotations,
        owner=os.getuid(),
        late_hooks=late_hooks(bundle.spec.hooks),
    )


@contextlib.contextmanager
def _handlers_restored() -> Iterator[None]:
    """What ``Waiting`` does with signals is for commands that end with it; a stepper may go on."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _has_come(file: Fd, event: int) -> bool:
    poller = select.poll()
    poller.register(file, event)
    return any(events & event for _, events in poller.poll(0))
