"""Hooks of a pod's container, which vendors of devices ask for (CDI): run while the container's set-up waits for them.

Those before the pivot: prestart and createRuntime in the daemon's namespaces, createContainer in the container's.  They find
the container's document in a bundle, as every other runtime has one, and its root at the place that the document says;
in the container's mount namespace, which has of the host's mounts those that the monitor kept.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from kernel.process import open_pidfd
from runtime import document
from runtime.container import hooks
from runtime.container.state import Container
from runtime.paths import Paths
from runtime.spec import schema

#: As the document of a CDI device spells them, and the fields that hold them.
KINDS = {"prestart": "prestart", "createRuntime": "create_runtime", "createContainer": "create_container"}
#: A hook without a time-out must not keep a pod from ever being told why it does not start.
SECONDS = 120


def are_in(spec: schema.Spec) -> bool:
    """Whether there are hooks to wait for."""
    return any(getattr(spec.hooks, field) for field in KINDS.values())


def run(paths: Paths, container: Container, spec: schema.Spec, pid: int) -> None:
    """Run the hooks of *container*, whose process *pid* waits for that.  Raises HookFailed for the first that fails."""
    bundle = paths.run_container(container.id)
    shown = msgspec.structs.replace(spec, root=schema.Root(path=os.fspath(paths.attach_point)))
    _write(bundle / "config.json", shown)
    state = schema.State(
        oci_version=spec.oci_version,
        id=container.id,
        status="",
        pid=pid,
        bundle=os.fspath(bundle),
        annotations=spec.annotations,
    )
    hooks.run("prestart", spec.hooks.prestart, state)
    hooks.run("createRuntime", spec.hooks.create_runtime, state)
    if spec.hooks.create_container:
        with open_pidfd(pid) as init:
            found = spec.hooks.create_container
            hooks.run_in_namespaces("createContainer", found, state, init, os.fspath(paths.attach_point))


def _write(path: Path, spec: schema.Spec) -> None:
    """The document, for root alone: the environment in it may hold secrets."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(document.encode(spec))
