"""After a restart: make memory, records and node agree again.

The kernel is asked what is there, the journal what was under way, the records what should be.  What
belongs to nobody is undone; what was begun is finished or undone; what lives is taken over.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from kernel.process import executable_of
from runtime import exec_process, lifecycle, snapshot, updates
from runtime.container.state import ContainerState
from runtime.context import Context
from runtime.errors import ContainerNotFound, KerneletError, MonitorLost
from runtime.journal import Intent
from runtime.log_opener import LOOK
from runtime.monitor.client import Exited
from runtime.monitor.launch import RUNNER_NAME
from runtime.sandbox import leftovers, namespaces
from runtime.sandbox import lifecycle as sandbox_lifecycle
from runtime.sandbox.state import Sandbox, SandboxState

logger = logging.getLogger(__name__)

LOG_IS_BEHIND = f"what it said last is written when that answers again; {LOOK}"


def recover(context: Context) -> None:
    """Bring the node in order, after ``take_over``; the ends that it returned are being recorded meanwhile."""
    _notice_reboot(context)
    _finish_acts(context)
    _sweep(context)


def take_over(context: Context) -> list[Exited]:
    """Tell the monitor what its reapers are for, and let requests to it go on.

    Returns the ends that nobody has recorded yet, for the caller to record.
    """
    ended = []
    for container in tuple(context.inventory.containers.values()):
        if container.state is not ContainerState.EXITED:
            exited = lifecycle.take_over(context, container)
            if exited is not None:
                ended.append(exited)
    for sandbox in tuple(context.inventory.sandboxes.values()):
        if sandbox.state is SandboxState.READY and (exited := sandbox_lifecycle.take_over(context, sandbox)) is not None:
            ended.append(exited)
    context.monitor.settle()
    return ended


def _notice_reboot(context: Context) -> None:
    """After a reboot, or when its pins are gone, a sandbox is not ready and never will be again."""
    boot = sandbox_lifecycle.boot_id()
    for sandbox in tuple(context.inventory.sandboxes.values()):
        if sandbox.state is SandboxState.READY and not _is_whole(context, sandbox, boot):
            logger.warning("sandbox %s did not survive: not ready", sandbox.id[:13])
            context.journal.begin(sandbox.id, sandbox_lifecycle.STOP)


def _is_whole(context: Context, sandbox: Sandbox, boot: str) -> bool:
    wanted = {"uts", *(("user",) if sandbox.config.uid_mappings else ())}
    if sandbox.config.namespaces.network == "pod":
        wanted.add("net")
    if sandbox.config.namespaces.ipc == "pod":
        wanted.add("ipc")
    if sandbox.config.namespaces.pid == "pod":
        wanted.add("pid")
        if not executable_of(sandbox.pause_pid).startswith(f"/memfd:{RUNNER_NAME}"):
            return False
    return sandbox.boot_id == boot and wanted <= set(namespaces.pinned(context.paths, sandbox.id))


def _finish_acts(context: Context) -> None:
    """Finish a removal or a stop that was begun; undo a creation."""
    for intent in context.journal.open_intents():
        with _going_on(f"{intent.act} of {intent.owner[:13]}, begun before the restart"):
            if _finish(context, intent):
                context.journal.undone(intent.owner, intent.act)
                logger.info("finished or undid %s of %s, begun before the restart", intent.act, intent.owner[:13])


def _finish(context: Context, intent: Intent) -> bool:
    """Finish or undo one act; False when that is left to others: those whose act it is, or a thread that goes on trying."""
    sandbox = context.inventory.sandboxes.get(intent.owner)
    container = context.inventory.containers.get(intent.owner)
    match intent.act:
        case lifecycle.CREATE | lifecycle.REMOVE:
            for cgroup in sandbox_lifecycle.cgroups_of(context, intent.owner):
                lifecycle.destroy(context, intent.owner, cgroup)
            if container is not None:
                context.inventory.drop_container(intent.owner, finishes=intent.act)
        case updates.UPDATE | updates.UPDATE_POD:
            updates.finish(context, intent.owner)
        case sandbox_lifecycle.STOP if sandbox is not None:
            with context.exclusive(sandbox.id):  # its pause may have been seen to end, too
                sandbox_lifecycle.finish_stop(context, sandbox)
        case sandbox_lifecycle.RUN:
            return leftovers.undo(context, intent.owner, lambda: sandbox_lifecycle.undo_run(context, intent.owner))
        case sandbox_lifecycle.STOP:
            sandbox_lifecycle.tear_down(context, intent.owner)
            sandbox_lifecycle.remove_files(context, intent.owner)
        case sandbox_lifecycle.REMOVE:
            sandbox_lifecycle.remove_files(context, intent.owner)
            context.inventory.drop_sandbox(intent.owner, finishes=intent.act)
        case _:
            return False  # the image store's own
    return True


@contextlib.contextmanager
def _going_on(what: str) -> Iterator[None]:
    """One thing that cannot be undone now must not keep the daemon from serving all others; the next start tries again."""
    try:
        yield
    except (KerneletError, OSError) as error:
        logger.warning("%s: could not be finished or undone yet: %s", what, error)


def _sweep(context: Context) -> None:
    """Take away what belongs to no record: found by name, since every name is an id."""
    paths, inventory = context.paths, context.inventory
    ready = [sandbox for sandbox in inventory.sandboxes.values() if sandbox.state is SandboxState.READY]
    context.network.sweep([sandbox for sandbox in ready if sandbox.config.namespaces.network == "pod"])
    alive = {sandbox.id for sandbox in ready}
    mine = {*inventory.containers, *alive}
    watched, unclaimed = context.monitor.known()
    for process_id in watched:
        if process_id not in mine:
            context.monitor.forget(process_id, paths.run_container(process_id))
    for run_dir in unclaimed:
        context.monitor.forget(f"unclaimed:{run_dir.name}"[:60], run_dir)
    for directory in _names(paths.run_containers):
        if directory not in mine:
            shutil.rmtree(paths.run_container(directory), ignore_errors=True)
        else:
            _sweep_execs(context, directory)
    for directory in _names(paths.containers):
        if directory not in inventory.containers:
            with _going_on(f"files of container {directory[:13]}"):
                snapshot.remove(paths, directory)
    for directory in _names(paths.run_sandboxes):
        if directory not in alive:
            with _going_on(f"sandbox {directory[:13]}"):
                sandbox_lifecycle.tear_down(context, directory)
    for directory in _names(paths.sandboxes):
        if directory not in inventory.sandboxes:
            with _going_on(f"files of sandbox {directory[:13]}"):
                sandbox_lifecycle.remove_files(context, directory)
    _sweep_cgroups(context, alive)


def _sweep_execs(context: Context, container_id: str) -> None:
    shutil.rmtree(context.paths.run_container(container_id) / "exec", ignore_errors=True)
    container = context.inventory.containers.get(container_id)
    if container is not None:
        cgroup = context.cgroup(container.cgroup)
        for child in cgroup.descendants() if cgroup.exists() else []:
            if child.path.name.startswith("exec-"):
                child.kill()
                child.remove()


def _sweep_cgroups(context: Context, alive: set[str]) -> None:
    for sandbox_id, cgroup in context.cgroups.pods():
        if sandbox_id not in alive:
            with _going_on(f"cgroup {cgroup.path}"):
                context.cgroups.remove(cgroup)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def record_exit(context: Context, exited: Exited) -> None:
    """Write down how a container ended, then give back what it held.  Anything else is somebody's exec."""
    if context.is_for_the_start(exited):
        return
    container = context.inventory.containers.get(exited.id)
    if exited.id in context.inventory.sandboxes:
        # Not here: it waits for the ends of the pod's containers to be recorded.
        threading.Thread(target=_stop_without_pause, args=(context, exited.id), name="pause ended").start()
        return
    if container is None:
        exec_process.record_exit(context, exited)
        return
    if container.state is ContainerState.EXITED:
        return
    cgroup = context.cgroup(container.cgroup)
    if exited.code is None:
        cgroup.kill()
    was_out_of_memory = cgroup.fields("memory.events").get("oom_kill", 0) > 0
    code = 255 if exited.code is None else exited.code
    reason = "OOMKilled" if was_out_of_memory else "Unknown" if exited.code is None else "Error" if code else "Completed"
    message = "its end was not seen: its reaper was killed" if exited.code is None else ""
    if exited.log_is_behind:
        message = "; ".join(filter(None, (message, f"the disk of its log {container.config.log_path} hangs: {LOG_IS_BEHIND}")))
        logger.warning("container %s has ended; %s", container.id[:13], message)
    with contextlib.suppress(ContainerNotFound):  # it was removed meanwhile
        context.inventory.change_container(
            container.id,
            finished_at_ns=max(exited.at_ns, container.started_at_ns, 1),
            exit_code=code,
            reason=reason,
            message=message,
            pid=0,
        )
    exec_process.record_container_exit(context, container.id, code)
    try:
        lifecycle.clean_up(context, container)
    except (OSError, MonitorLost) as error:
        logger.warning("container %s has ended, but not all of it could be given back: %s", container.id[:13], error)


def _stop_without_pause(context: Context, sandbox_id: str) -> None:
    """The first process of a pod's pid namespace ended, and all others there with it: nothing new can be made in the pod."""
    logger.warning("sandbox %s: its pause ended; not ready", sandbox_id[:13])
    try:
        sandbox_lifecycle.stop(context, sandbox_id)
    except (KerneletError, OSError) as error:
        logger.warning("sandbox %s: stopping it: %s", sandbox_id[:13], error)
