"""What is done around a container's life from outside: its hooks, network devices of the node's, its class of service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kernel.fd import open_path
from kernel.process import open_pidfd
from runtime.spec import schema

if TYPE_CHECKING:
    from runtime.oci.directory import Container

#: Where the record keeps the process in whose namespace the node's network devices are.
MOVED = "net_devices"


def late_hooks(hooks: schema.Hooks) -> list[str]:
    """The kinds of hooks, as the document spells them, that there are after create."""
    kinds = {"startContainer": hooks.start_container, "poststart": hooks.poststart, "poststop": hooks.poststop}
    return [kind for kind, found in kinds.items() if found]


def run_create_hooks(container: Container, spec: schema.Spec, pid: int) -> None:
    """Before the pivot: first *pid* is given what it is to have, then prestart and createRuntime hooks run here, and
    createContainer hooks in its namespaces.

    Raises HookFailed, or what comes of ``net_devices`` and ``intel_rdt``.
    """
    from runtime.container import hooks

    if spec.linux.intel_rdt is not None:
        _join_class(container, spec.linux.intel_rdt, pid)
    if spec.linux.net_devices:
        from runtime.container import net_devices

        net_devices.move_all(spec.linux.net_devices, pid)
        container.record.extra[MOVED] = str(pid)
    state = container.hook_state()
    state.pid = pid
    hooks.run("prestart", spec.hooks.prestart, state)
    hooks.run("createRuntime", spec.hooks.create_runtime, state)
    if spec.hooks.create_container:
        with open_pidfd(pid) as init:
            rootfs = container.record.rootfs
            hooks.run_in_namespaces("createContainer", spec.hooks.create_container, state, init, rootfs)


def _join_class(container: Container, wanted: schema.IntelRdt, pid: int) -> None:
    from runtime.container import intel_rdt

    group = intel_rdt.join(wanted, container.id, pid)
    container.record.extra[intel_rdt.RECORDED] = str(group.path)
    container.record.extra[intel_rdt.RECORDED_MADE] = "\n".join(map(str, group.made))
    container.save()


def give_devices_back(container: Container, spec: schema.Spec) -> None:
    """Before a container that could not be made is ended: the node has its network devices again."""
    pid = container.record.extra.pop(MOVED, "")
    if pid:
        from runtime.container import net_devices

        net_devices.move_back(spec.linux.net_devices, int(pid))


def leave_class(container: Container) -> None:
    """Remove the class of service that was made for *container*, if one was."""
    if not container.record.extra:
        return
    from runtime.container import intel_rdt

    made = container.record.extra.get(intel_rdt.RECORDED_MADE, "")
    intel_rdt.leave(tuple(map(Path, made.splitlines())))


def run_start_hooks(container: Container) -> None:
    """startContainer: in the container, as its user, before its program.  Raises HookFailed."""
    from runtime.container import filter, hooks
    from runtime.oci.home import environment_of

    spec = container.spec()
    process = spec.process or schema.Process()
    cgroup = container.cgroup
    opened = None if cgroup is None else cgroup.open()
    with container.open_init() as init:
        with open_path(f"/proc/{container.record.pid}/root", os.O_PATH | os.O_DIRECTORY) as root:
            process.env = environment_of(process, root)
        hooks.run_in_container(
            "startContainer",
            spec.hooks.start_container,
            container.hook_state(),
            init,
            process,
            filter.compiled(spec.linux.seccomp),
            opened,
        )


def run_poststart_hooks(container: Container) -> None:
    """poststart: here, after the program was executed.  Raises HookFailed."""
    from runtime.container import hooks

    hooks.run("poststart", container.spec().hooks.poststart, container.hook_state())


def run_poststop_hooks(container: Container) -> list[str]:
    """poststop: here, after the end; returns what failed."""
    from runtime.container import hooks

    return hooks.run_every("poststop", container.spec().hooks.poststop, container.hook_state())
