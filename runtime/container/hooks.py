"""Hooks: programs that the spec asks to be run around a container's life, each with the container's state on stdin.

| kind | when | program and namespaces | a failure |
|---|---|---|---|
| prestart, createRuntime | namespaces and mounts are made, before the pivot | the runtime's | ends create: tear down |
| createContainer | after them, before the pivot | the program the runtime's, the namespaces the container's | ends create |
| startContainer | at start, before the user's program | the container's, as the container's user | ends start: tear down |
| poststart | at start, after the user's program was executed | the runtime's | kill, run poststop, fail |
| poststop | at delete, after the container is gone | the runtime's | a warning; the next one runs |

What a hook writes is kept for the message of its failure.  One that outlives its time-out is killed with
all of its process group.  Nobody waits for the end of the output: a hook may leave a daemon behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kernel.fd import Fd, memory, open_path, pipe
from kernel.process import is_running, open_pidfd, send_signal
from kernel.program import Flags, Program, Vector, Words
from kernel.report import Report
from kernel.spawn import spawn
from runtime.container import entrance, join
from runtime.container.descriptors import Descriptor
from runtime.container.entrance import kinds_of
from runtime.container.failure import describe_failure
from runtime.container.filter import SystemCallFilter
from runtime.container.process import LAST
from runtime.errors import ContainerNotRunning, HookFailed
from runtime.spec import schema

#: The status that a hook of each kind reads, in the order in which the kinds run.
#: The specification would have "creating" during create, as runc says.  runtime-tools' hooks_stdin asks for "created",
#: as crun says, and so do hooks that were written against either of them: by then there is a process to speak of, and a
#: pid is what a state that says "created" must have.
STATUS = {
    "prestart": "created",
    "createRuntime": "created",
    "createContainer": "created",
    "startContainer": "created",
    "poststart": "running",
    "poststop": "stopped",
}
#: What is kept of a hook's output, in bytes: the beginning, where the first error stands.
OUTPUT_LIMIT = 4096
#: crun's annotations that name files to append a hook's output to.
ANNOTATIONS = {Descriptor.STDOUT: "run.oci.hooks.stdout", Descriptor.STDERR: "run.oci.hooks.stderr"}


def run(kind: str, hooks: Sequence[schema.Hook], state: schema.State) -> None:
    """Run *hooks* in order in the runtime's namespaces; *state*'s status is set here, by *kind*.

    Raises HookFailed for the first that fails, which names it and holds what it said; those after it are not run.
    """
    for index, hook in enumerate(hooks):
        _run(_Hook(kind, index, hook, state), program(kind, index, hook, state.bundle), {})


def run_every(kind: str, hooks: Sequence[schema.Hook], state: schema.State) -> list[str]:
    """As ``run``, but a failure keeps no other from being run (poststop); what failed, as warnings for people."""
    warnings = []
    for index, hook in enumerate(hooks):
        try:
            _run(_Hook(kind, index, hook, state), program(kind, index, hook, state.bundle), {})
        except HookFailed as failure:
            warnings.append(str(failure))
    return warnings


def run_in_namespaces(kind: str, hooks: Sequence[schema.Hook], state: schema.State, init: Fd, rootfs: str) -> None:
    """As ``run``, in the namespaces of the container (createContainer): *init* is the pidfd of *state*.pid.

    Before the pivot its mount namespace still shows the host's tree, in which the hook's program is found, with the
    container's mounts added.  The working directory is *rootfs*, as runc has it (crun has the bundle, the
    specification says nothing): what such a hook is for, adding files and mounts, is done there.
    """
    kinds = kinds_of(state.pid)
    seen = _seen_inside(state)
    if not is_running(init):
        raise ContainerNotRunning(f"{kind} hooks: the container has just ended")
    for index, hook in enumerate(hooks):
        steps = program(kind, index, hook, rootfs, kinds)
        _run(_Hook(kind, index, hook, seen), steps, {join.CONTAINER: init})


def run_in_container(
    kind: str,
    hooks: Sequence[schema.Hook],
    state: schema.State,
    init: Fd,
    process: schema.Process,
    filter_code: bytes | None,
    cgroup: Fd | None,
) -> None:
    """As ``run``, inside the container as its user, with what *process* may do and nothing more (startContainer).

    A hook without an environment gets that of *process*: what startContainer hooks have always had from runc, which
    executes them in the init itself.
    """
    user = msgspec.structs.replace(process, terminal=False)
    system_calls = None if filter_code is None else SystemCallFilter(filter_code)
    opened = entrance.prepare(user, state.pid, None if cgroup is None else cgroup.duplicate(), has_reaper=False)
    try:
        seen = _seen_inside(state)
        if not is_running(init):  # else what was opened by its number might be another's
            raise ContainerNotRunning(f"{kind} hooks: the container has just ended")
        for index, hook in enumerate(hooks):
            steps = join.enter(_title(kind, index), user, opened.entrance, system_calls)
            _execute(steps, hook, hook.env or process.env)
            _run(_Hook(kind, index, hook, seen), steps, {**opened.descriptors, join.CONTAINER: init})
    finally:
        opened.close()


def _seen_inside(state: schema.State) -> schema.State:
    """*state* with the pid "as seen by the container", which hooks in its namespaces are told (runtime.md, state)."""
    lines = Path(f"/proc/{state.pid}/status").read_text().splitlines()
    pids = next(line for line in lines if line.startswith("NSpid:")).split()
    return msgspec.structs.replace(state, pid=int(pids[-1]))


def program(kind: str, index: int, hook: schema.Hook, directory: str, kinds: tuple[str, ...] = ()) -> Program:
    """The steps of *hook*, with its working directory; in the namespaces *kinds* of the process at CONTAINER."""
    steps = Program(_title(kind, index))
    for number in (32, 33):
        default = Words(8, (0, 0, 0, 0), label="{SIG_DFL}")
        steps.call("rt_sigaction", number, default, 0, 8, why="the C library's own signal, which its posix_spawn ignores")
    rest = tuple(each for each in kinds if each != "CLONE_NEWUSER")
    if rest:
        steps.call("setns", join.CONTAINER, Flags(rest), why="the container's namespaces", hint="the container is gone")
    why = "where hooks begin (ENOENT: it is gone by now); before the user namespace, whose root may not come here"
    steps.call("chdir", directory, tolerate=(errno.ENOENT,), why=why)
    if kinds:
        _be_in_the_container(steps, has_users="CLONE_NEWUSER" in kinds)
    steps.call("setsid", why="a process group of its own, to be killed as a whole when its time is over")
    steps.call("close_range", 3, LAST, Flags(("CLOSE_RANGE_CLOEXEC",)), why="a hook has its three streams and no other file")
    _execute(steps, hook, hook.env or _default_environment())
    return steps


def _title(kind: str, index: int) -> str:
    return f"{kind} hook #{index}"


def _be_in_the_container(steps: Program, *, has_users: bool) -> None:
    """Become a process of the container, the child of who started the runner; root of its user namespace if it has one."""
    if has_users:
        why = "the user namespace after the others, for it takes away the rights over those that are not its own"
        steps.call("setns", join.CONTAINER, Flags(("CLONE_NEWUSER",)), why=why)
    steps.clone(("CLONE_PARENT",), cgroup=None, why="a process that is in the container's pid namespace as well")
    if has_users:
        steps.call("setgroups", 0, 0, tolerate=(errno.EPERM,), why="no group of root's (EPERM: the namespace forbids setgroups)")
        steps.call("setresgid", 0, 0, 0, why="root of the container")
        steps.call("setresuid", 0, 0, 0, why="root of the container")


def _execute(steps: Program, hook: schema.Hook, environment: Sequence[str]) -> None:
    """Become *hook*'s program: by its path alone, with exactly its arguments."""
    arguments = Vector(tuple(os.fsencode(argument) for argument in hook.args or [hook.path]))
    variables = Vector(tuple(os.fsencode(entry) for entry in environment))
    steps.call("execve", hook.path, arguments, variables, why="become the hook", hint="the hook's program must be an executable")


def _default_environment() -> list[str]:
    """PATH and no more, for a hook that names no environment: it needs to find programs, not what whoever called us may hold.

    runc and crun hand down all of theirs, and hooks are written that way.
    """
    path = os.environ.get("PATH")
    return [] if path is None else [f"PATH={path}"]


@dataclass(frozen=True, slots=True)
class _Hook:
    kind: str
    index: int
    hook: schema.Hook
    state: schema.State

    def document(self) -> bytes:
        """What the hook reads.  After the end there is no pid: the number may be somebody else's by now."""
        pid = 0 if self.kind == "poststop" else self.state.pid
        return msgspec.json.encode(msgspec.structs.replace(self.state, status=STATUS[self.kind], pid=pid))

    def failure(self, reason: str, output: bytes = b"") -> HookFailed:
        said = output.decode(errors="backslashreplace").strip()
        return HookFailed(
            f"error running {self.kind} hook #{self.index}: {self.hook.path}: {reason}" + (f": {said}" if said else "")
        )


def _run(hook: _Hook, steps: Program, files: dict[int, Fd]) -> None:
    """Run *steps* to the end of the hook that they become, and raise HookFailed unless it ends well."""
    with ExitStack() as opened:
        state = opened.enter_context(memory("state", hook.document()))
        os.lseek(state.fileno(), 0, os.SEEK_SET)
        reader, writer = pipe()
        opened.enter_context(reader)
        with writer, ExitStack() as sinks:
            streams: dict[int, Fd] = {Descriptor.STDIN: state, Descriptor.STDOUT: writer, Descriptor.STDERR: writer}
            for number, annotation in ANNOTATIONS.items():
                if path := hook.state.annotations.get(annotation):
                    streams[number] = sinks.enter_context(open_path(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o700))
            pid, report = spawn(steps, "kernelet:hook", {**streams, **files})
        opened.enter_context(report.memory)
        if steps.clone_index is not None:
            os.waitpid(pid, 0)
            pid = report.read().pid
        status, output = (0, b"") if pid == 0 else _wait(hook, pid, reader)
        outcome = report.read()
        if outcome.failed is not None:
            raise hook.failure(_step_failure(steps, report))
        if status != 0:
            reason = _signal(-status) if status < 0 else f"{hook.kind} hook failed with exit code {status}"
            raise hook.failure(reason, output)


def _signal(number: int) -> str:
    return f"killed by signal {number}, {(signal.strsignal(number) or 'which has no name').lower()}"


def _step_failure(steps: Program, report: Report) -> str:
    outcome = report.read()
    assert outcome.failed is not None
    if steps.all_steps[outcome.failed].call == "execve":
        return f"cannot execute: {os.strerror(outcome.errno).lower()}"
    return describe_failure(steps, outcome.failed, outcome.errno, outcome.results)


def _wait(hook: _Hook, pid: int, reader: Fd) -> tuple[int, bytes]:
    """The exit code of the hook *pid* (minus the signal that ended it), reaped, and the beginning of what it said.

    Raises HookFailed when it is not done in time; it is killed then.
    """
    timeout = hook.hook.timeout
    output = bytearray()
    os.set_blocking(reader.fileno(), False)
    with open_pidfd(pid) as pidfd:
        try:
            is_done = _listen(pidfd, reader, output, None if timeout is None else time.monotonic() + timeout)
        except BaseException:
            _kill(pid, pidfd)
            raise
        if not is_done:
            _kill(pid, pidfd)
            raise hook.failure(f"not done after {timeout} s, killed", bytes(output))
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), bytes(output)


def _listen(pidfd: Fd, reader: Fd, output: bytearray, deadline: float | None) -> bool:
    """Add what is said to *output* until the process behind *pidfd* ends, or the *deadline* passes: then False."""
    poll = select.poll()
    poll.register(pidfd.fileno(), select.POLLIN)
    poll.register(reader.fileno(), select.POLLIN)
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = {number for number, _ in poll.poll(left)}
        if pidfd.fileno() in ready:
            break
        if reader.fileno() in ready and not _take(reader, output):
            poll.unregister(reader.fileno())
        if deadline is not None and time.monotonic() >= deadline:
            return False
    while len(output) < OUTPUT_LIMIT and _take(reader, output):
        pass  # what it said last; not all that a daemon of its says from now on
    return True


def _kill(pid: int, pidfd: Fd) -> None:
    """End the hook and all of its process group, and reap it."""
    with contextlib.suppress(ProcessLookupError):  # it has not come to setsid(2) yet
        os.killpg(pid, signal.SIGKILL)
    send_signal(pidfd, signal.SIGKILL)
    os.waitpid(pid, 0)


def _take(reader: Fd, output: bytearray) -> bool:
    """Read what is there, keep what there is room for; False when there is nothing (more)."""
    try:
        piece = os.read(reader.fileno(), 65536)
    except BlockingIOError:
        return False
    output += piece[: OUTPUT_LIMIT - len(output)]
    return bool(piece)
