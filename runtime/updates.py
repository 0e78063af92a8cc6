"""Other resources for what runs: transactions, written down before the node is touched, and found again after a restart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kernel.cgroup import Cgroup
from runtime.container import update
from runtime.container.config import ContainerConfig
from runtime.container.resources import without_absent_sizes
from runtime.container.state import Container, ContainerState
from runtime.context import Context
from runtime.errors import ContainerNotRunning, KerneletError, Unsupported
from runtime.sandbox.state import Sandbox, SandboxState
from runtime.spec import schema

UPDATE, UPDATE_POD = "container.update", "sandbox.update"


def resources_of(container: Container) -> schema.Resources:
    """What holds for the container: the last update's, or what it was made with."""
    return container.resources or container.config.spec.linux.resources or schema.Resources()


def update_container(
    context: Context, container_id: str, resources: schema.Resources, *, oom_score_adj: int | None, attachment: bytes
) -> None:
    """Let *resources* hold for a container that is created or runs, and *oom_score_adj* for those of its processes that
    have what it was made with.

    All or nothing.  Raises ContainerNotRunning for one that has ended, and what ``resources.apply`` raises.
    """
    container = context.inventory.find_container(container_id)
    with context.exclusive(container.id):
        container = context.inventory.find_container(container.id)
        if container.state not in (ContainerState.CREATED, ContainerState.RUNNING):
            raise ContainerNotRunning(f"update container {container.config.name} ({container.id[:13]}): it is {container.state}")
        cgroup = context.cgroup(container.cgroup)
        resources = without_absent_sizes(resources, context.tree) or resources
        # Rules of devices are no limits; they stay.
        resources = msgspec.structs.replace(resources, devices=resources_of(container).devices)
        changes: dict[str, object] = {"resources": resources, "resources_attachment": attachment}
        scores = _scores(container, oom_score_adj)
        if scores is not None:
            changes["config"] = _with_score(container.config, scores[1])
        context.journal.begin(container.id, UPDATE)
        try:
            with _still_there(cgroup, container), update.all_or_nothing(cgroup, resources), _scored(cgroup, scores):
                context.cgroups.limit(cgroup, update.careful(cgroup, resources))
                context.inventory.change_container(container.id, **changes)
        finally:
            context.journal.undone(container.id, UPDATE)


def update_sandbox(context: Context, sandbox_id: str, resources: schema.Resources, *, attachment: bytes) -> None:
    """Let *resources* hold for a pod as a whole.  All or nothing.

    A cgroup that the pod's maker named is his, and so are its limits: they are only written down.
    """
    sandbox = context.inventory.find_sandbox(sandbox_id)
    with context.exclusive(sandbox.id):
        sandbox = context.inventory.find_sandbox(sandbox.id)
        sandbox.require_ready(f"update sandbox {sandbox.config.name}")
        resources = without_absent_sizes(resources, context.tree) or resources
        changed = _changed(sandbox, resources, attachment)
        if sandbox.config.cgroup_parent:
            context.inventory.save_sandbox(changed)
            return
        cgroup = context.cgroup(sandbox.cgroup_parent)
        context.journal.begin(sandbox.id, UPDATE_POD)
        try:
            with update.all_or_nothing(cgroup, resources):
                context.cgroups.limit(cgroup, update.careful(cgroup, resources))
                context.inventory.save_sandbox(changed)
        finally:
            context.journal.undone(sandbox.id, UPDATE_POD)


def finish(context: Context, owner: str) -> None:
    """After a restart in the middle of an update: what is recorded holds."""
    container, sandbox = context.inventory.containers.get(owner), context.inventory.sandboxes.get(owner)
    if container is not None and container.state in (ContainerState.CREATED, ContainerState.RUNNING):
        _settle(context, context.cgroup(container.cgroup), resources_of(container))
    elif sandbox is not None and sandbox.state is SandboxState.READY and not sandbox.config.cgroup_parent:
        _settle(context, context.cgroup(sandbox.cgroup_parent), sandbox.resources or schema.Resources())


def _settle(context: Context, cgroup: Cgroup, resources: schema.Resources) -> None:
    if cgroup.exists():
        update.settle(cgroup, context.tree, resources)


def _changed(sandbox: Sandbox, resources: schema.Resources, attachment: bytes) -> Sandbox:
    return msgspec.structs.replace(sandbox, resources=resources, resources_attachment=attachment)


@contextlib.contextmanager
def _still_there(cgroup: Cgroup, container: Container) -> Iterator[None]:
    """A failure because the container ended meanwhile is told as that."""
    try:
        yield
    except (KerneletError, OSError) as error:
        if cgroup.exists():
            raise
        raise ContainerNotRunning(f"update container {container.config.name} ({container.id[:13]}): it has just ended") from error


def _scores(container: Container, wanted: int | None) -> tuple[int, int] | None:
    """The score that the container's processes were given, and the one that they are to have; None when it stays."""
    process = container.config.spec.process
    old = process.oom_score_adj if process is not None else None
    return None if wanted is None or old is None or wanted == old else (old, wanted)


def _with_score(config: ContainerConfig, score: int) -> ContainerConfig:
    assert config.spec.process is not None
    process = msgspec.structs.replace(config.spec.process, oom_score_adj=score)
    return msgspec.structs.replace(config, spec=msgspec.structs.replace(config.spec, process=process))


@contextlib.contextmanager
def _scored(cgroup: Cgroup, scores: tuple[int, int] | None) -> Iterator[None]:
    """For a block that needs the processes in *cgroup* to have the second score instead of the first; undone when it fails.

    One that is started meanwhile has its parent's, the old or the new: hence a second look.
    """
    old, new = scores or (0, 0)
    try:
        for _ in range(2 if scores else 0):
            _exchange(cgroup, old, new)
        yield
    except BaseException:
        if scores:
            _exchange(cgroup, new, old)
        raise


def _exchange(cgroup: Cgroup, old: int, new: int) -> None:
    """Give those who have the score *old*, by which the kernel chooses whom to kill (proc(5)), the score *new*."""
    for pid in cgroup.all_processes():
        file = Path(f"/proc/{pid}/oom_score_adj")
        try:
            if int(file.read_text()) == old:
                file.write_text(str(new))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError as error:
            raise Unsupported(
                f"oom_score_adj {new}: lower than it was takes CAP_SYS_RESOURCE, which this daemon does not have"
            ) from error
