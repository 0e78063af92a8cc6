"""A container's life: create, start, stop, remove.

Create does the work, so that start only lets a waiting process go on.  An intent is written before
the node is touched; what was made is undone in full when a step fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from kernel.cgroup import Cgroup
from kernel.fd import Fd
from runtime import history, image_files, pod_hooks, snapshot
from runtime.container import apparmor, device_filter, ground, init, resources
from runtime.container.complete import complete_spec
from runtime.container.config import ContainerConfig
from runtime.container.descriptors import Descriptor
from runtime.container.failure import command_failure, describe_failure
from runtime.container.ground_binds import require_shared
from runtime.container.identity import is_init_of
from runtime.container.reaper import read_exit
from runtime.container.relabel import relabel
from runtime.container.seccomp import compile_filter
from runtime.container.sketch import names_of
from runtime.container.state import Container, ContainerState
from runtime.context import Context
from runtime.errors import (
    ContainerNotFound,
    ContainerNotRunning,
    InvalidArgument,
    KerneletError,
    MonitorLost,
    SandboxNotReady,
    StartFailed,
    TimedOut,
    WrongState,
)
from runtime.log_opener import Log, LogAwaited, open_log, open_new_log
from runtime.monitor.client import Exited
from runtime.sandbox.state import Sandbox, SandboxState
from runtime.spec import schema

logger = logging.getLogger(__name__)

CREATE, REMOVE = "container.create", "container.remove"
START_ERROR_CODE = 128
KILL_SECONDS = 30.0
#: Nobody waits longer, and the clocks of C have an end.
LONGEST_SECONDS = 1e9


def create(context: Context, sandbox_id: str, config: ContainerConfig) -> str:
    """Make a container whose process is set up and waits; returns its id.

    The same (name, attempt) again, not yet started, is the retry of a caller that lost the answer: it gets the same id.
    """
    inventory = context.inventory
    sandbox = inventory.find_sandbox(sandbox_id)
    sandbox.require_ready(f"create container {config.name}")
    known = _find_attempt(context, sandbox.id, config)
    if known is not None:
        return known.id
    images = image_files.of(context, config)
    container = Container(
        id=inventory.new_id(), sandbox_id=sandbox.id, config=config, image_id=images[0].id, created_at_ns=inventory.now()
    )
    container.cgroup = f"{sandbox.cgroup_parent}/{container.id}"
    container.image_reference = next(iter(images[0].repo_digests), "")
    container.chain_ids = [chain_id for image in images for chain_id in image.chain_ids]
    context.journal.begin(container.id, CREATE)
    with context.unrecorded(container.id, lambda: take_over(context, container, settled=True)):
        try:
            with contextlib.ExitStack() as held:
                for image in images:
                    held.enter_context(context.images.hold(image))
                container.pid = _launch(context, sandbox, container, context.images.lower_directories(images[0]))
                inventory.save_container(container, finishes=CREATE)
        except BaseException:
            try:
                destroy(context, container.id, context.cgroup(container.cgroup))
                context.journal.undone(container.id, CREATE)
            except (KerneletError, OSError) as error:  # the caller is told why it failed; the open intent brings it back
                logger.warning("create container %s: what was made is undone at the next start: %s", container.id[:13], error)
            raise
    current = inventory.sandboxes.get(sandbox.id)
    if current is None or current.state is not SandboxState.READY or sandbox.id in context.stopping:
        remove(context, container.id)
        raise SandboxNotReady(f"create container {config.name}: sandbox {sandbox.config.name} was stopped meanwhile")
    return container.id


def start(context: Context, container_id: str) -> None:
    """Let the process go on to its program.  Raises StartFailed when that cannot be executed; the container has exited then."""
    container = context.inventory.find_container(container_id)
    with context.exclusive(container.id):
        container = context.inventory.find_container(container.id)
        container.require_created()
        context.starting[container.id] = []
        try:
            context.inventory.change_container(container.id, started_at_ns=context.inventory.now())
            launched = context.monitor.start(container.id)
            if launched.failed is not None:
                _fail_start(context, container, launched.errno)
            context.inventory.has_started(container.id)
        except ProcessLookupError:
            raise WrongState(f"start container {container.config.name}: it ended before it was started") from None
        finally:
            for exited in context.start_is_over(container.id):
                context.ended(exited)


def stop(context: Context, container_id: str, timeout_seconds: float) -> None:
    """Ask the process to end, and after *timeout_seconds* make it; returns when it has ended.

    Idempotent: an unknown or ended container is no error.  A second stop may only shorten the wait.
    """
    try:
        container = context.inventory.find_container(container_id)
    except ContainerNotFound:
        return
    if container.state is ContainerState.EXITED:
        return
    if container.state is ContainerState.RUNNING and timeout_seconds > 0:
        _ask_to_end(context, container, timeout_seconds)
    kill(context, container)


def remove(context: Context, container_id: str) -> None:
    """Remove the container, ending it first.  Idempotent: an unknown one is no error.  The log stays."""
    try:
        container = context.inventory.find_container(container_id)
    except ContainerNotFound:
        return
    stop(context, container.id, 0)
    with context.exclusive(container.id):
        if container.id not in context.inventory.containers:
            return
        context.journal.begin(container.id, REMOVE)
        destroy(context, container.id, context.cgroup(container.cgroup))
        context.inventory.drop_container(container.id, finishes=REMOVE)
    if any(context.images.find(image_id) is None for image_id in image_files.ids_of(container.config)):
        context.images.collect()  # it was removed before this container, which was the last to need its layers


def reopen_log(context: Context, container_id: str) -> None:
    """Go on in a new file at the log's path; when this returns nothing more goes to the old one."""
    container = context.inventory.find_container(container_id)
    container.require_running("reopen log")
    if not container.config.log_path:
        raise WrongState(f"reopen log: container {container.config.name} ({container.id[:13]}) has none")
    with open_log(container.config.log_path) as log:
        context.monitor.reopen_log(container.id, [log.file], log.device)


def take_over(context: Context, container: Container, *, settled: bool = False) -> Exited | None:
    """Ask a monitor that did not make it how *container* stands, and bring the record to that; returns an end to be recorded.

    With *settled*, it is one that the monitor's replacement could not know of.
    """
    run_dir = context.paths.run_container(container.id)
    with contextlib.ExitStack() as opened:
        sinks: list[Fd] = []
        device, awaited = 0, False
        if container.config.log_path:
            try:
                log = opened.enter_context(open_log(container.config.log_path, partial(_bring_log, context, container.id)))
                # A kill in the middle of an entry, a rotation, and now: the beginning is in a file of another name.
                sinks, device = [log.file, log.directory], log.device
            except LogAwaited:
                awaited = True
            except OSError:  # its directory is gone: drain without a log
                pass
        standing = context.monitor.adopt(
            container.id,
            "container",
            run_dir=run_dir,
            sinks=sinks,
            terminal=container.config.tty,
            settled=settled,
            device=device,
            awaited=awaited,
        )
    if standing.state == "ended":
        return Exited(container.id, standing.code, standing.at_ns, standing.log_is_behind)
    if standing.state is None:
        return _end_without_reaper(container, run_dir)
    if standing.state == "running" and not container.started_at_ns:
        context.inventory.change_container(container.id, started_at_ns=context.inventory.now())
    if standing.state == "created" and container.started_at_ns and container.id not in context.starting:
        # The start was written down and not done: the daemon was killed between the two, and nobody was told.
        context.inventory.change_container(container.id, started_at_ns=0)
    return None


def _bring_log(context: Context, container_id: str, log: Log) -> None:
    """Its disk answers again: let the output of a container go on that has waited since it was taken over."""
    with contextlib.suppress(ProcessLookupError, MonitorLost, OSError):
        context.monitor.reopen_log(container_id, [log.file, log.directory], log.device)


def _end_without_reaper(container: Container, run_dir: Path) -> Exited | None:
    """Nobody holds it: the reaper's last word decides, or else it is lost."""
    try:
        code, at_ns = read_exit((run_dir / "exit").read_bytes())
        return Exited(container.id, code, at_ns)
    except (OSError, ValueError):
        return Exited(container.id, None, time.time_ns())


def kill(context: Context, container: Container) -> None:
    """End everything in the container now; returns when its end is recorded."""

    def is_over() -> bool:
        current = context.inventory.containers.get(container.id)
        return current is None or current.state is ContainerState.EXITED

    with contextlib.suppress(ProcessLookupError, MonitorLost):  # the cgroup's kill needs no monitor
        context.monitor.signal(container.id, signal.SIGKILL)
    context.cgroup(container.cgroup).kill()
    if container.is_lost and not is_over():
        at_ns, message = max(time.time_ns(), container.started_at_ns), "its end was not seen"
        context.inventory.change_container(
            container.id, finished_at_ns=at_ns, exit_code=255, reason="Unknown", message=message, pid=0
        )
    if not context.inventory.wait_until(is_over, KILL_SECONDS):
        raise TimedOut(f"stop container {container.config.name}: process {container.pid} survived SIGKILL {KILL_SECONDS:.0f} s")


def destroy(context: Context, container_id: str, cgroup: Cgroup) -> None:
    """Undo all that a container may have left on the node; what is gone already is no error."""
    run_dir = context.paths.run_container(container_id)
    context.monitor.forget(container_id, run_dir)
    cgroup.kill()
    cgroup.remove()
    snapshot.remove(context.paths, container_id)
    context.scribe.forget(run_dir)
    shutil.rmtree(run_dir, ignore_errors=True)


def _find_attempt(context: Context, sandbox_id: str, config: ContainerConfig) -> Container | None:
    for container in context.inventory.containers_of(sandbox_id):
        if (container.config.name, container.config.attempt) == (config.name, config.attempt):
            if container.state is ContainerState.CREATED and container.config.is_asked_again_by(config):
                return container
            raise WrongState(
                f"create container {config.name}: attempt {config.attempt} exists as {container.id[:13]} "
                f"and is {container.state}; remove it or use another attempt number"
            )
    return None


def _launch(context: Context, sandbox: Sandbox, container: Container, lower: list[Path]) -> int:
    """Prepare the ground, compose the program, and have the monitor run it up to the wait; returns the pid."""
    paths, cgroup = context.paths, _make_place(context, container)
    with contextlib.ExitStack() as opened:
        root = opened.enter_context(image_files.mount_root(context, sandbox, container, lower))
        target = _find_target(context, container)
        spec = complete_spec(paths, sandbox, container, root, target.pid if target else None)
        for mount in spec.mounts:
            require_shared(mount)
        for path in container.config.relabelled:
            relabel(path, spec.linux.mount_label)
        made = image_files.mount_volumes(context, sandbox, container, spec.mounts)
        has_hooks = pod_hooks.are_in(spec)
        prepared = ground.prepare(
            spec, root, attach_point=paths.attach_point, in_cgroup=True, can_pause=has_hooks, by_monitor=True, made=made
        )
        opened.callback(prepared.close)
        if target is not None and not is_init_of(target):  # its pid namespace was opened by number: was it still it?
            raise ContainerNotRunning(f"create container {container.config.name}: {target.config.name} has just ended")
        code = compile_filter(spec.linux.seccomp) if spec.linux.seccomp else None
        config = container.config
        facts = dataclasses.replace(prepared.facts, lets_go_of_input=config.stdin_once and config.stdin and not config.tty)
        program = init.program(f"init of {config.name}", spec, facts, code)
        descriptors = dict(prepared.descriptors)
        descriptors[Descriptor.CGROUP] = opened.enter_context(cgroup.open())
        if prepared.terminal is not None:
            slave, master = prepared.terminal.slave, prepared.terminal.master
            descriptors |= {
                Descriptor.STDIN: slave,
                Descriptor.STDOUT: slave,
                Descriptor.STDERR: slave,
                Descriptor.OUTPUT: master,
            }
        log = opened.enter_context(open_new_log(container)) if container.config.log_path else None
        names = names_of(spec, prepared.facts)
        launched, report = context.monitor.launch(
            container.id,
            "container",
            program,
            run_dir=paths.run_container(container.id),
            name="kernelet:init",
            descriptors=descriptors,
            sinks=[log.file] if log else [],
            device=log.device if log else 0,
            terminal=container.config.tty,
            input_pipe=container.config.stdin and not container.config.tty,
        )
        if has_hooks and launched.failed is None:
            pod_hooks.run(paths, container, spec, launched.pid)
            launched = context.monitor.start(container.id)  # on to where a container waits for its start
        if launched.failed is not None:
            outcome = report.read()
            reason = describe_failure(program, launched.failed, launched.errno, outcome.results)
            steps = history.records(program, outcome, history.in_words(program, names))
            history.save_failure(paths.failures, sandbox.id, container.config.name, reason, steps)
            raise StartFailed(f"create container {container.config.name}: {reason}")
        context.scribe.note(paths.run_container(container.id), program, report.read(), names)
    return launched.pid


def _make_place(context: Context, container: Container) -> Cgroup:
    """The container's run dir, its writable layer, and its cgroup, with limits and none of its processes yet."""
    process, linux = container.config.spec.process, container.config.spec.linux
    apparmor.see_to(process.apparmor_profile if process else "")
    context.paths.run_container(container.id).mkdir(mode=0o700)
    cgroup = context.cgroup(container.cgroup)
    cgroup.create()
    resources.apply(cgroup, context.tree, resources.without_absent_sizes(linux.resources, context.tree))
    device_filter.apply(cgroup, linux, context.device_programs)
    snapshot.prepare(context.paths, container.id)
    return cgroup


def _find_target(context: Context, container: Container) -> Container | None:
    if container.config.pid_mode != "target":
        return None
    target = context.inventory.find_container(container.config.pid_target)
    if target.sandbox_id != container.sandbox_id:
        raise InvalidArgument(
            f"create container {container.config.name}: target_id: {target.config.name} ({target.id[:13]}) is in another pod"
        )
    target.require_running(f"create container {container.config.name}: join the processes of {target.config.name}")
    return target


def _fail_start(context: Context, container: Container, errno: int) -> None:
    process = container.config.spec.process or schema.Process()
    with _files_of(context, container) as root:
        message = command_failure(process, errno, root)
    context.scribe.settle(context.paths.run_container(container.id))
    history.note_failure(context.paths.run_container(container.id), errno)
    at_ns = context.inventory.now()  # later than its start, whatever became of the clock
    context.inventory.change_container(
        container.id, finished_at_ns=at_ns, exit_code=START_ERROR_CODE, reason="StartError", message=message, pid=0
    )
    clean_up(context, container)
    raise StartFailed(f"start container {container.config.name}: {message}")


@contextlib.contextmanager
def _files_of(context: Context, container: Container) -> Iterator[Fd | None]:
    """Another mount of a container's root, to look for what was missing; None when that cannot be had."""
    image = context.images.find(container.image_id)
    root = None
    try:
        if image is not None:
            snapshot.prepare(context.paths, container.id)
            root = snapshot.mount(context.paths, container.id, context.images.lower_directories(image))
    except (KerneletError, OSError) as error:  # the failure that is told is another one
        logger.warning("container %s: its files cannot be looked at: %s", container.id[:13], error)
    with root or contextlib.nullcontext():
        yield root


def clean_up(context: Context, container: Container) -> None:
    """After the end: end what the process left behind, and give back all but the files."""
    cgroup = context.cgroup(container.cgroup)
    cgroup.kill()
    with contextlib.suppress(MonitorLost):
        context.monitor.forget(container.id, context.paths.run_container(container.id))
    cgroup.remove()


def _ask_to_end(context: Context, container: Container, timeout_seconds: float) -> None:
    inventory, deadlines = context.inventory, context.stop_deadlines

    def is_over() -> bool:
        current = inventory.containers.get(container.id)
        return current is None or current.state is ContainerState.EXITED

    mine = time.monotonic() + min(timeout_seconds, LONGEST_SECONDS)
    deadlines[container.id] = min(mine, deadlines.get(container.id, mine))
    inventory.touch()
    try:
        with contextlib.suppress(ProcessLookupError):
            context.monitor.signal(container.id, container.config.stop_signal)
        while not is_over() and (left := deadlines.get(container.id, 0) - time.monotonic()) > 0:
            seen = deadlines.get(container.id)
            inventory.wait_until(lambda: is_over() or deadlines.get(container.id) != seen, left)  # noqa: B023
    finally:
        deadlines.pop(container.id, None)  # also when it failed: it would be the next stop's, and over long ago
