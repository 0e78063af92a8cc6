"""The container's cgroup: where config.json says, or below a directory of ours."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from kernel.cgroup import Cgroup
from runtime.errors import InvalidSpec, WrongState
from runtime.spec import schema

#: Where containers go that name no place, or none from the top of the tree.
HOME = "kernelet-oci"


def find_place(tree: Path, container_id: str, cgroups_path: str) -> Cgroup:
    """The cgroup that linux.cgroupsPath means, which is a path here; ``scopes`` has what it is for systemd.

    Raises WrongState when somebody lives there already, or below: a kill of the container would be theirs too.  So it is
    asked here, before anything is noted down that an undoing would kill.
    """
    if cgroups_path.count(":") == 2 and not cgroups_path.startswith("/"):
        raise InvalidSpec(f"linux.cgroupsPath {cgroups_path!r}: slice:prefix:name is for systemd; a path is wanted here")
    wanted = cgroups_path if cgroups_path.startswith("/") else f"/{HOME}/{cgroups_path or container_id}"
    path = os.path.normpath("/" + wanted.lstrip("/"))  # ".." ends at the top
    if path == "/":
        raise InvalidSpec(f"linux.cgroupsPath {cgroups_path!r}: the top of the tree is the host's own")
    cgroup = Cgroup(Path(f"{tree}{path}"))
    others = sum(len(group.processes()) for group in (cgroup, *cgroup.descendants()))
    if others:
        raise WrongState(f"cgroup {cgroup.path}: container's cgroup is not empty: {others} process(es) found")
    if _is_frozen(cgroup):
        raise WrongState(f"cgroup {cgroup.path}: container's cgroup unexpectedly frozen: nothing in it would run")
    return cgroup


def _is_frozen(cgroup: Cgroup) -> bool:
    try:
        return cgroup.read("cgroup.freeze").strip() == "1"
    except OSError:  # it is not there, or this user may not look: then it is not one to live in either
        return False


def make_place(cgroup: Cgroup) -> None:
    """Make it.

    One that is there and empty is made anew: where cgroup.kill was ever written, the kernel (6.18) kills what CLONE_INTO_CGROUP
    puts there, as if it had been forked under the kill.
    """
    with contextlib.suppress(OSError):
        cgroup.path.rmdir()
    cgroup.create()


def do_without(linux: schema.Linux, error: OSError) -> None:
    """Raise InvalidSpec if *linux* needs a cgroup, of which *error* says that this user may not make it."""
    from runtime.container.rootless import needs_cgroup

    if needs_cgroup(linux):
        raise InvalidSpec(
            "linux.cgroupsPath, linux.resources: rootless needs no limits + no cgrouppath when no permission is granted "
            f"for cgroups: {error.filename}: {(error.strerror or '').lower()}"
        ) from error


def apply_limits(cgroup: Cgroup, tree: Path, linux: schema.Linux) -> None:
    """Resources and rules of devices, before anything runs there."""
    from runtime.container import device_filter, resources

    resources.apply(cgroup, tree, linux.resources)
    device_filter.apply(cgroup, linux)


def give_away(cgroup: Cgroup, spec: schema.Spec) -> None:
    """Let the container have its cgroup, if *spec* makes it so: once its process is there, which only the owner may put there."""
    if any(namespace.type == "cgroup" for namespace in spec.linux.namespaces):
        from runtime.container import resources

        resources.delegate(cgroup, spec)
