"""A pod sandbox's life: run, stop, remove.  No pause container: namespaces are pinned, and only a shared
pid namespace needs a process to live in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from kernel import mount
from kernel.cgroup import Cgroup
from kernel.fd import Fd, open_path
from runtime import history, lifecycle
from runtime.cgroups import names_of
from runtime.container import userns
from runtime.container.descriptors import Descriptor
from runtime.container.failure import describe_failure
from runtime.container.init import NOBODY, USER_NAMESPACE, pause_program
from runtime.context import Context
from runtime.errors import SandboxNotFound, StartFailed, WrongState
from runtime.monitor.client import Exited
from runtime.sandbox import files, leftovers, namespaces
from runtime.sandbox.config import SandboxConfig
from runtime.sandbox.state import Sandbox, SandboxState

RUN, STOP, REMOVE = "sandbox.run", "sandbox.stop", "sandbox.remove"


def run(context: Context, config: SandboxConfig) -> str:
    """Make a sandbox and return its id, ready: its namespaces are there and it has its address.

    The same attempt again, ready already, is the retry of a caller that lost the answer: it gets the same id.
    Raises WrongState for a port of the host that another pod has.
    """
    known = _find_attempt(context, config)
    if known is not None:
        return known.id
    inventory = context.inventory
    sandbox = Sandbox(id=inventory.new_id(), config=config, created_at_ns=inventory.now(), boot_id=boot_id())
    sandbox.cgroup_parent = context.cgroups.pod_path(config.cgroup_parent, sandbox.id)
    sandbox.hostname = config.hostname or socket.gethostname()
    context.journal.begin(sandbox.id, RUN)
    with context.unrecorded(sandbox.id, lambda: take_over(context, sandbox, settled=True)):
        try:
            _make(context, sandbox)
            inventory.save_sandbox(sandbox, finishes=RUN)
        except BaseException:
            leftovers.undo(context, sandbox.id, lambda: undo_run(context, sandbox.id))
            raise
    return sandbox.id


def undo_run(context: Context, sandbox_id: str) -> None:
    """Take back all that a ``run`` which failed, or was interrupted, has left, and its intent."""
    tear_down(context, sandbox_id)
    remove_files(context, sandbox_id)
    context.journal.undone(sandbox_id, RUN)


def stop(context: Context, sandbox_id: str) -> None:
    """End everything in the sandbox at once.  Idempotent: an unknown or stopped one is no error, and cheap."""
    sandbox_id = _full_id(context, sandbox_id)
    with context.exclusive(sandbox_id):
        _stop(context, sandbox_id)


def _stop(context: Context, sandbox_id: str) -> None:
    sandbox = context.inventory.sandboxes.get(sandbox_id)
    if sandbox is None or sandbox.state is SandboxState.NOT_READY:
        return
    context.journal.begin(sandbox.id, STOP)
    finish_stop(context, sandbox)


def finish_stop(context: Context, sandbox: Sandbox) -> None:
    """The work of ``stop``, also of one that was interrupted."""
    context.stopping.add(sandbox.id)
    try:
        _end_all(context, sandbox)
    finally:
        context.stopping.discard(sandbox.id)


def _end_all(context: Context, sandbox: Sandbox) -> None:
    for container in context.inventory.containers_of(sandbox.id):
        lifecycle.stop(context, container.id, 0)
    tear_down(context, sandbox.id)
    stopped = Sandbox(
        id=sandbox.id,
        config=sandbox.config,
        state=SandboxState.NOT_READY,
        created_at_ns=sandbox.created_at_ns,
        cgroup_parent=sandbox.cgroup_parent,
        hostname=sandbox.hostname,
        boot_id=sandbox.boot_id,
    )
    context.inventory.save_sandbox(stopped, finishes=STOP)


def remove(context: Context, sandbox_id: str) -> None:
    """Remove the sandbox with its containers, stopping it first.  Idempotent: an unknown one is no error."""
    sandbox_id = _full_id(context, sandbox_id)
    with context.exclusive(sandbox_id):
        _stop(context, sandbox_id)
        if sandbox_id not in context.inventory.sandboxes:
            return
        for container in context.inventory.containers_of(sandbox_id):
            lifecycle.remove(context, container.id)
        context.journal.begin(sandbox_id, REMOVE)
        remove_files(context, sandbox_id)
        context.inventory.drop_sandbox(sandbox_id, finishes=REMOVE)


def take_over(context: Context, sandbox: Sandbox, *, settled: bool = False) -> Exited | None:
    """Tell a monitor that did not start the sandbox's pause what it is; returns its end, if it has ended."""
    if not sandbox.pause_pid:
        return None
    run_dir = context.paths.run_container(sandbox.id)
    standing = context.monitor.adopt(sandbox.id, "pause", run_dir=run_dir, settled=settled)
    return None if standing.state == "running" else Exited(sandbox.id, standing.code, standing.at_ns)


def tear_down(context: Context, sandbox_id: str) -> None:
    """Give back all that lives in the kernel; all of it is found from the id, and what is gone already is no error."""
    context.network.detach(sandbox_id)
    context.monitor.forget(sandbox_id, context.paths.run_container(sandbox_id))
    shutil.rmtree(context.paths.run_container(sandbox_id), ignore_errors=True)
    history.forget_failures(context.paths.failures, sandbox_id)
    namespaces.remove(context.paths, sandbox_id)
    files.remove_shm(context.paths, sandbox_id)
    for cgroup in cgroups_of(context, sandbox_id):
        context.cgroups.remove(cgroup)


def remove_files(context: Context, sandbox_id: str) -> None:
    """Remove the sandbox's files."""
    files.remove(context.paths, sandbox_id)


def cgroups_of(context: Context, owner: str) -> list[Cgroup]:
    """Every cgroup named after *owner*, wherever its pod's parent is: the name is the record."""
    sandbox = context.inventory.sandboxes.get(owner)
    if sandbox is not None:
        own = context.cgroup(sandbox.cgroup_parent)
        return [own / owner, *([own] if own.path.name in names_of(owner) else [])]
    default = context.cgroup(context.cgroups.pod_path("", owner))
    found = [Cgroup(Path(top) / name) for top, below, _ in os.walk(context.tree) for name in names_of(owner) & set(below)]
    return sorted({cgroup.path: cgroup for cgroup in (*found, default)}.values(), key=lambda cgroup: -len(cgroup.path.parts))


def boot_id() -> str:
    """What tells this boot of the kernel from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _full_id(context: Context, prefix: str) -> str:
    try:
        return context.inventory.find_sandbox(prefix).id
    except SandboxNotFound:
        return prefix


def _find_attempt(context: Context, config: SandboxConfig) -> Sandbox | None:
    key = (config.namespace, config.name, config.uid, config.attempt)
    for sandbox in tuple(context.inventory.sandboxes.values()):
        if sandbox.key == key:
            if sandbox.state is SandboxState.READY and sandbox.config.is_asked_again_by(config):
                return sandbox
            raise WrongState(
                f"run sandbox {config.namespace}/{config.name}: attempt {config.attempt} exists as {sandbox.id[:13]} and is "
                f"{sandbox.state}; remove it or use another attempt number"
            )
    return None


def _make(context: Context, sandbox: Sandbox) -> None:
    """Make the pod's namespaces, network, files, cgroup and, for a shared pid namespace, its first process."""
    config, paths = sandbox.config, context.paths
    owner = owner_of(config)
    has_network, has_ipc = config.namespaces.network == "pod", config.namespaces.ipc == "pod"
    with _user_namespace(config) as user:
        namespaces.create(
            paths,
            sandbox.id,
            network=has_network,
            ipc=has_ipc,
            hostname=sandbox.hostname,
            sysctls=config.sysctls,
            user=user,
        )
    if has_network:
        addresses = context.network.attach(sandbox, paths.run_sandbox(sandbox.id) / "net")
        sandbox.ip, sandbox.additional_ips = addresses.ip, list(addresses.additional)
    dns = None
    if config.dns_servers is not None:
        dns = files.Dns(config.dns_servers, config.dns_searches or [], config.dns_options or [])
    ips = [sandbox.ip, *sandbox.additional_ips] if sandbox.ip else []
    files.write(paths, sandbox.id, hostname=sandbox.hostname, addresses=ips, dns=dns, owner=owner)
    if has_ipc:
        files.mount_shm(paths, sandbox.id, owner)
    context.cgroups.make_pod(sandbox.cgroup_parent)
    if config.namespaces.pid == "pod":
        sandbox.pause_pid = _start_pause(context, sandbox)


@contextlib.contextmanager
def _user_namespace(config: SandboxConfig) -> Iterator[namespaces.UserNamespace | None]:
    """The pod's own user namespace, made with its maps; None when it is to be in the host's."""
    if not config.uid_mappings:
        yield None
        return
    with userns.make(config.uid_mappings, config.gid_mappings, where="userns_options") as user:
        yield namespaces.UserNamespace(user, sum(each.size for each in config.gid_mappings))


def owner_of(config: SandboxConfig) -> tuple[int, int]:
    """Who is root of the pod, on the host: user and group."""
    return userns.host_id(config.uid_mappings, 0) or 0, userns.host_id(config.gid_mappings, 0) or 0


def _start_pause(context: Context, sandbox: Sandbox) -> int:
    run_dir = context.paths.run_container(sandbox.id)
    run_dir.mkdir(mode=0o700)
    cgroup = context.cgroup(f"{sandbox.cgroup_parent}/{sandbox.id}")
    cgroup.create()
    mappings = [*sandbox.config.uid_mappings, *sandbox.config.gid_mappings]
    nobody = min([NOBODY, *(each.container_id + each.size - 1 for each in mappings)])
    program = pause_program(f"pause of {sandbox.config.name}", in_cgroup=True, has_users=bool(mappings), nobody=nobody)
    with contextlib.ExitStack() as held:
        descriptors: dict[int, Fd] = {Descriptor.CGROUP: held.enter_context(cgroup.open())}
        if mappings:
            descriptors[USER_NAMESPACE] = held.enter_context(open_path(context.paths.run_sandbox(sandbox.id) / "user"))
        launched, _ = context.monitor.launch(
            sandbox.id, "pause", program, run_dir=run_dir, name="kernelet:pause", descriptors=descriptors
        )
    if launched.failed is not None:
        raise StartFailed(f"run sandbox {sandbox.config.name}: {describe_failure(program, launched.failed, launched.errno)}")
    pin = context.paths.run_sandbox(sandbox.id) / "pid"
    with contextlib.closing(open(pin, "x")):
        pass
    mount.bind(f"/proc/{launched.pid}/ns/pid", pin, recursive=False)
    return launched.pid
