"""A further process in a running container, waited for: ExecSync."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kernel.capability import last_capability, read_sets
from kernel.cgroup import Cgroup
from kernel.fd import Fd, memory, open_path
from kernel.process import open_pidfd
from kernel.procfs import share_procfs
from runtime.container import filter, join
from runtime.container.complete import with_home, with_open_files
from runtime.container.descriptors import Descriptor
from runtime.container.failure import command_failure, describe_failure
from runtime.container.identity import is_init_of
from runtime.container.seccomp import compile_filter
from runtime.container.state import Container
from runtime.context import Context
from runtime.errors import Cancelled, ContainerNotRunning, ExecTimedOut, KerneletError, MonitorLost, StartFailed
from runtime.spec import schema

logger = logging.getLogger(__name__)

#: What fits one answer: stdout and stderr together stay below the kubelet's 16 MiB for a message.
OUTPUT_LIMIT = 7 * 1024 * 1024
CANCEL_SECONDS = 0.5
#: In place of an exit code and a time: nobody can say.
LOST = (-1, 0)
KINDS = ("CLONE_NEWPID", "CLONE_NEWNS", "CLONE_NEWNET", "CLONE_NEWIPC", "CLONE_NEWUTS", "CLONE_NEWCGROUP")


@dataclass(frozen=True, slots=True)
class ExecResult:
    stdout: bytes
    stderr: bytes
    exit_code: int


def exec_sync(
    context: Context, container_id: str, arguments: list[str], timeout_seconds: float, cancelled: threading.Event | None = None
) -> ExecResult:
    """Run *arguments* in the container and return what came of it; 0 seconds is no limit.

    When *cancelled* is set nobody waits any more: the process is ended.

    The process gets a cgroup of its own below the container's, so that a time-out ends exactly it and
    what it started.  Raises ExecTimedOut, Cancelled, ContainerNotRunning, StartFailed.
    """
    container = context.inventory.find_container(container_id)
    container.require_running("exec")
    exec_id = secrets.token_hex(8)
    process_id = f"{container.id[:40]}.{exec_id}"
    run_dir = context.paths.run_container(container.id) / "exec" / exec_id
    cgroup = context.cgroup(f"{container.cgroup}/exec-{exec_id}")
    context.executing.add(process_id)
    try:
        _make_place(container, run_dir, cgroup)
        with memory("stdout", b"", seal=False) as stdout, memory("stderr", b"", seal=False) as stderr:
            with _told_when_gone(container):
                _launch(context, container, process_id, arguments, run_dir, cgroup, (stdout, stderr))
            code = _wait(context, process_id, timeout_seconds, cancelled)
            if code is None and cancelled is not None and cancelled.is_set():
                raise Cancelled(f"exec {arguments[0]} in {container.config.name}: the caller went away; killed")
            if code is None:
                raise ExecTimedOut(
                    f"exec {arguments[0]} in {container.config.name}: not done after {timeout_seconds:g} s; killed"
                )
            return ExecResult(_content(stdout), _content(stderr), code)
    finally:
        with context.awaited:
            context.executing.discard(process_id)
            context.exec_exits.pop(process_id, None)
        _clean_up(context, process_id, run_dir, cgroup)


def _clean_up(context: Context, process_id: str, run_dir: Path, cgroup: Cgroup) -> None:
    """End what is left of an exec.

    What fails keeps neither the rest from being done nor the caller from its answer: the container's removal takes it along.
    """
    steps = (cgroup.kill, lambda: context.monitor.forget(process_id, run_dir), cgroup.remove, lambda: shutil.rmtree(run_dir))
    for step in steps:
        try:
            step()
        except FileNotFoundError:
            continue
        except (KerneletError, OSError) as error:
            logger.warning("exec %s: not all of it could be given back: %s", process_id[-16:], error)


def give_up(context: Context) -> None:
    """The monitor died: whoever waits for an exec is told, for its output went with it."""
    with context.awaited:
        context.exec_exits.update(dict.fromkeys(context.executing - set(context.exec_exits), LOST))
        context.awaited.notify_all()


def _make_place(container: Container, run_dir: Path, cgroup: Cgroup) -> None:
    """Make the exec's directory and cgroup in those of the container, which are not made again if they have gone."""
    try:
        run_dir.parent.mkdir(mode=0o700, exist_ok=True)
        run_dir.mkdir(mode=0o700)
        cgroup.path.mkdir(mode=0o755)
    except FileNotFoundError:
        raise ContainerNotRunning(f"exec: container {container.config.name} has just ended") from None


@contextlib.contextmanager
def _told_when_gone(container: Container) -> Iterator[None]:
    """What a launch misses because the container ended, and took its directory and cgroup along, is told as that."""
    try:
        yield
    except (OSError, KerneletError):
        _pidfd_of(container).close()
        raise


def _launch(
    context: Context,
    container: Container,
    process_id: str,
    arguments: list[str],
    run_dir: Path,
    cgroup: Cgroup,
    sinks: tuple[Fd, Fd],
) -> None:
    process = _process_of(container, arguments)
    seccomp = container.config.spec.linux.seccomp
    code = compile_filter(seccomp) if seccomp else None
    with _pidfd_of(container) as pidfd, cgroup.open() as into, share_procfs() as procfs:
        has_users = bool(context.inventory.find_sandbox(container.sandbox_id).config.uid_mappings)
        kinds = ("CLONE_NEWUSER", *KINDS) if has_users else KINDS
        entrance = join.Entrance(kinds, last_capability(), grantable=~0 if has_users else read_sets()[1])
        program = join.program(f"exec in {container.config.name}", process, entrance, filter.of(seccomp, code))
        launched, report = context.monitor.launch(
            process_id,
            "exec",
            program,
            run_dir=run_dir,
            name="kernelet:exec",
            descriptors={join.CONTAINER: pidfd, join.PROCFS: procfs, Descriptor.CGROUP: into},
            sinks=sinks,
            output="capture",
            limit=OUTPUT_LIMIT,
        )
    if launched.failed is not None:
        if program.all_steps[launched.failed].call == "execve":
            with open_path(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY) as root:
                raise StartFailed(f"exec in {container.config.name}: {command_failure(process, launched.errno, root)}")
        reason = describe_failure(program, launched.failed, launched.errno, report.read().results)
        raise StartFailed(f"exec in {container.config.name}: {reason}")


def _process_of(container: Container, arguments: list[str]) -> schema.Process:
    process = container.config.spec.process or schema.Process()
    copy = msgspec.convert(msgspec.to_builtins(process), schema.Process)
    copy.args, copy.terminal = arguments, False
    copy.user = container.user or schema.User()
    copy.env = with_home(copy.env, container.home)
    copy.rlimits = with_open_files(copy.rlimits)
    return copy


def _pidfd_of(container: Container) -> Fd:
    """A pidfd of the container's init, seen to be that and no later process of the same number."""
    with contextlib.suppress(ProcessLookupError), open_pidfd(container.pid) as pidfd:
        if is_init_of(container):
            return Fd(pidfd.detach())
    raise ContainerNotRunning(f"exec: container {container.config.name} has just ended")


def _wait(context: Context, process_id: str, timeout_seconds: float, cancelled: threading.Event | None) -> int | None:
    """The exit code, or None when the time is over or the caller went away."""
    deadline = time.monotonic() + timeout_seconds if timeout_seconds else float("inf")
    with context.awaited:
        while process_id not in context.exec_exits:
            left = deadline - time.monotonic()
            if left <= 0 or (cancelled is not None and cancelled.is_set()):
                return None
            # An event cannot be waited for together with a condition; for who went away half a second is soon enough.
            context.awaited.wait(min(left, CANCEL_SECONDS))
        ended = context.exec_exits[process_id]
    if ended == LOST:
        raise MonitorLost("exec: the monitor that had its output was killed; try again")
    return ended[0]


def _content(file: Fd) -> bytes:
    return os.pread(file.fileno(), OUTPUT_LIMIT, 0)
