"""``--systemd-cgroup``: the container's cgroup is a scope that systemd makes, the node's or the calling user's.

A scope begins with a process.  A ``Keeper`` is the first, and ends when the container's own has been cloned into the
cgroup.  That needs rights on what is above both cgroups, which a user has only below its own manager: there the caller
goes first, in a scope of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kernel.cgroup import Cgroup
from runtime.cgroups import properties
from runtime.cgroups.bus import private_socket
from runtime.cgroups.keeper import Keeper
from runtime.cgroups.units import Manager, check_unit_name, scope_properties, slice_path
from runtime.container import limits
from runtime.errors import InvalidArgument, InvalidSpec, Unsupported
from runtime.oci.unit_annotations import properties_of
from runtime.spec import schema

if TYPE_CHECKING:
    from runtime.oci.directory import Container

#: Where the record keeps the scope's name.
RECORDED = "systemd_scope"
#: What a scope's name begins with, and the slice that it goes into, where the document says nothing.
PREFIX, SLICE, USERS_SLICE = "kernelet", "system.slice", "user.slice"


def parse(cgroups_path: str, container_id: str, *, user: bool) -> tuple[str, str]:
    """Slice and scope of linux.cgroupsPath, "slice:prefix:name", each of which may be left away; raises InvalidSpec."""
    parts = cgroups_path.split(":") if cgroups_path else ["", "", ""]
    if len(parts) != 3:
        raise InvalidSpec(
            f'linux.cgroupsPath: expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            f'got "{cgroups_path}" instead'
        )
    slice_name = parts[0] or (USERS_SLICE if user else SLICE)
    name = parts[2] or container_id
    if name.endswith(".slice"):
        raise Unsupported(f"linux.cgroupsPath {cgroups_path!r}: a container in a slice of its own; leave .slice away: a scope")
    try:
        slice_path(slice_name)
        return slice_name, check_unit_name(f"{parts[1]}-{name}.scope" if parts[1] else f"{PREFIX}-{name}.scope")
    except InvalidArgument as error:
        raise InvalidSpec(f"linux.cgroupsPath {cgroups_path!r}: {error}") from None


def start(container: Container, tree: Path, linux: schema.Linux) -> tuple[Cgroup, Callable[[], None]]:
    """Make the container's scope, with its limits as far as systemd knows them; returns its cgroup, and what ends the keeper.

    Raises InvalidSpec, Unsupported where no systemd listens, UnitFailed.
    """
    manager, slice_name, name = find(container, linux)
    top = manager.top()
    container.record.extra[RECORDED] = name
    cgroup = Cgroup(Path(f"{tree}{top}{slice_path(slice_name)}/{name}"))
    container.record.cgroup, container.record.tree = os.fspath(cgroup.path), os.fspath(tree)
    container.save()
    if container.record.owner:
        come_below(manager, top)
    asked = properties.of(limits.writes(linux.resources)) if linux.resources is not None else []
    asked += properties_of(container.record.annotations)
    keeper = Keeper()
    try:
        manager.start(name, scope_properties(f"container {container.id}", slice_name, keeper.pid, asked))
        if not cgroup.exists():
            raise Unsupported(f"--systemd-cgroup: {name} is not at {cgroup.path}: systemd has another tree than {tree}")
    except BaseException:
        keeper.close()
        raise
    return cgroup, keeper.close


def find(container: Container, linux: schema.Linux) -> tuple[Manager, str, str]:
    """The manager that makes the scope of *container*, the slice, the scope."""
    user = bool(container.record.owner)
    return manager_of(container), *parse(linux.cgroups_path, container.id, user=user)


def manager_of(container: Container) -> Manager:
    """The manager of the node, or of the user that the container is."""
    return Manager(private_socket(container.record.owner))


def come_below(manager: Manager, top: str) -> None:
    """Have *manager*, at *top*, put this process into a scope, if it is not somewhere below already."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    here = next((line[3:] for line in lines if line.startswith("0::")), "")
    if not f"{here}/".startswith(f"{top}/"):
        manager.start(f"kernelet-oci-{os.getpid()}.scope", scope_properties("kernelet-oci", "app.slice", os.getpid()))


def come_to(container: Container) -> None:
    """Before a process is cloned into the cgroup of *container*, a user's: be below the manager that both then are."""
    if container.record.owner and RECORDED in container.record.extra:
        manager = manager_of(container)
        come_below(manager, manager.top())


def limit(container: Container, resources: schema.Resources) -> None:
    """Let systemd know of *resources*, which are written to the cgroup as well."""
    name = container.record.extra.get(RECORDED)
    if name is not None:
        manager_of(container).set_properties(name, properties.of(limits.writes(resources)))


def stop(container: Container) -> None:
    """Have its scope forgotten, if it has one; what is in it is ended."""
    name = container.record.extra.get(RECORDED)
    if name is not None:
        manager_of(container).stop(name)
