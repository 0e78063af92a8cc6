"""A further process in a running container: its place, its launch, its end.  What ``execution`` and ``session`` share.

It has a cgroup of its own below the container's, so that it can be ended with all that it started and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kernel.capability import last_capability, read_sets
from kernel.cgroup import Cgroup
from kernel.fd import Fd, open_path
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
from runtime.errors import ContainerNotRunning, KerneletError, StartFailed
from runtime.monitor.client import Exited
from runtime.spec import schema

logger = logging.getLogger(__name__)

#: How often what was forked meanwhile is looked for, when processes are moved from one cgroup to another.
HAND_OVERS = 10
KINDS = ("CLONE_NEWPID", "CLONE_NEWNS", "CLONE_NEWNET", "CLONE_NEWIPC", "CLONE_NEWUTS", "CLONE_NEWCGROUP")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an exec'd process lives, and by what id the monitor knows it; *ended* gets its exit code.

    That is None when nobody can say: the monitor died.
    """

    id: str
    run_dir: Path
    cgroup: Cgroup
    ended: Future[int | None]


@dataclass(frozen=True, slots=True)
class Output:
    """Where a process's output goes: to the *sinks* that the monitor fills up to a *limit*, or to *streams*, its own.

    *streams* are by the number that they have in the process; those that are left out are the null device.
    """

    sinks: Sequence[Fd] = ()
    limit: int = 0
    streams: Mapping[int, Fd] | None = None


def make_place(context: Context, container: Container) -> Place:
    """A place for one process; give it back with ``clean_up``, whatever comes of it.  Raises ContainerNotRunning.

    Its directory and cgroup lie in those of the container, which are not made again if they have gone.
    """
    exec_id = secrets.token_hex(8)
    run_dir = context.paths.run_container(container.id) / "exec" / exec_id
    place = Place(f"{container.id[:40]}.{exec_id}", run_dir, context.cgroup(f"{container.cgroup}/exec-{exec_id}"), Future())
    try:
        run_dir.parent.mkdir(mode=0o700, exist_ok=True)
        run_dir.mkdir(mode=0o700)
        place.cgroup.path.mkdir(mode=0o755)
    except OSError as error:
        shutil.rmtree(run_dir, ignore_errors=True)
        if isinstance(error, FileNotFoundError):
            raise ContainerNotRunning(f"exec: container {container.config.name} has just ended") from None
        raise
    context.executing[place.id] = place.ended
    return place


def clean_up(context: Context, place: Place, *, kills: bool = True) -> None:
    """Forget a process, and end what is left of it; without *kills*, what it has left behind goes on in the container.

    What fails keeps neither the rest from being done nor the caller from its answer: the container's removal takes it along.
    """
    context.executing.pop(place.id, None)
    leave = place.cgroup.kill if kills else lambda: _hand_to_container(place.cgroup)
    steps = (
        leave,
        lambda: context.monitor.forget(place.id, place.run_dir),
        place.cgroup.remove,
        lambda: shutil.rmtree(place.run_dir),
    )
    for step in steps:
        try:
            step()
        except FileNotFoundError:
            continue
        except (KerneletError, OSError) as error:
            logger.warning("exec %s: not all of it could be given back: %s", place.id[-16:], error)


def record_exit(context: Context, exited: Exited) -> None:
    """Tell who waits for an exec'd process that it has ended; of one that nobody waits for, nothing is kept."""
    ended = context.executing.get(exited.id)
    if ended is not None:
        with contextlib.suppress(InvalidStateError):  # it has been given up
            ended.set_result(255 if exited.code is None else exited.code)


def record_container_exit(context: Context, container_id: str, code: int) -> None:
    """Tell who is attached to a container that it has ended."""
    for ended in tuple(context.attached.pop(container_id, ())):
        with contextlib.suppress(InvalidStateError):  # it has been given up
            ended.set_result(code)


def give_up(context: Context) -> None:
    """The monitor died: whoever waits for a process, or is attached to one, is told, for it will say nothing more."""
    attached = [ended for waiting in tuple(context.attached.values()) for ended in tuple(waiting)]
    for ended in (*tuple(context.executing.values()), *attached):
        with contextlib.suppress(InvalidStateError):  # it has ended before
            ended.set_result(None)


def launch(context: Context, container: Container, place: Place, process: schema.Process, output: Output) -> None:
    """Start *process*; returns when it has become its program.  Raises ContainerNotRunning, StartFailed."""
    with _told_when_gone(container):
        _launch(context, container, place, process, output)


def process_of(container: Container, arguments: list[str], *, terminal: bool = False) -> schema.Process:
    """The container's own process with other *arguments*."""
    process = container.config.spec.process or schema.Process()
    copy = msgspec.convert(msgspec.to_builtins(process), schema.Process)
    copy.args, copy.terminal = arguments, terminal
    copy.user = container.user or schema.User()
    copy.env = with_home(copy.env, container.home)
    if terminal and not any(entry.startswith("TERM=") for entry in copy.env):
        copy.env.append("TERM=xterm")
    copy.rlimits = with_open_files(copy.rlimits)
    return copy


@contextlib.contextmanager
def _told_when_gone(container: Container) -> Iterator[None]:
    """What a launch misses because the container ended, and took its directory and cgroup along, is told as that."""
    try:
        yield
    except (OSError, KerneletError):
        _pidfd_of(container).close()
        raise


def _launch(context: Context, container: Container, place: Place, process: schema.Process, output: Output) -> None:
    seccomp = container.config.spec.linux.seccomp
    code = compile_filter(seccomp) if seccomp else None
    with _pidfd_of(container) as pidfd, place.cgroup.open() as into, share_procfs() as procfs:
        has_users = bool(context.inventory.find_sandbox(container.sandbox_id).config.uid_mappings)
        kinds = ("CLONE_NEWUSER", *KINDS) if has_users else KINDS
        entrance = join.Entrance(kinds, last_capability(), grantable=~0 if has_users else read_sets()[1])
        program = join.program(f"exec in {container.config.name}", process, entrance, filter.of(seccomp, code))
        descriptors = {join.CONTAINER: pidfd, join.PROCFS: procfs, Descriptor.CGROUP: into}
        launched, report = context.monitor.launch(
            place.id,
            "exec",
            program,
            run_dir=place.run_dir,
            name="kernelet:exec",
            descriptors={**descriptors, **(output.streams or {})},
            sinks=output.sinks,
            output="capture" if output.streams is None else "given",
            limit=output.limit,
        )
    if launched.failed is not None:
        if program.all_steps[launched.failed].call == "execve":
            with open_path(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY) as root:
                raise StartFailed(f"exec in {container.config.name}: {command_failure(process, launched.errno, root)}")
        reason = describe_failure(program, launched.failed, launched.errno, report.read().results)
        raise StartFailed(f"exec in {container.config.name}: {reason}")


def _pidfd_of(container: Container) -> Fd:
    """A pidfd of the container's init, seen to be that and no later process of the same number."""
    with contextlib.suppress(ProcessLookupError), open_pidfd(container.pid) as pidfd:
        if is_init_of(container):
            return Fd(pidfd.detach())
    raise ContainerNotRunning(f"exec: container {container.config.name} has just ended")


def _hand_to_container(cgroup: Cgroup) -> None:
    """Move what lives in *cgroup* into the container's own; where that takes no process, it ends with the exec."""
    for _ in range(HAND_OVERS):
        pids = cgroup.processes()
        if not pids:
            break
        for pid in pids:
            try:
                Cgroup(cgroup.path.parent).write("cgroup.procs", str(pid))
            except ProcessLookupError:
                continue
            except OSError:  # the container has handed its controllers on
                cgroup.kill()
                return
    cgroup.kill()  # what has made cgroups of its own below, or forks faster than it can be moved
