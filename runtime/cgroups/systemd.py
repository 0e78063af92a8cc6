"""Pods' cgroups as units of systemd: the driver "systemd".  A pod is a transient scope in the slice that is asked for.

A scope begins with a process and goes with its last.  A pod may have none for a while, so a process of ours stays in it
(``keeper``), in a cgroup of its own, for where processes sit no controller is handed down.  It is no child of the
daemon's service: the pod outlives that, and what systemctl does to it.
"""

from __future__ import annotations

import contextlib
import os
from functools import cached_property
from pathlib import Path

from kernel import process
from kernel.cgroup import Cgroup
from runtime.cgroups import Name, keeper, properties, scope_of
from runtime.cgroups.bus import SYSTEM
from runtime.cgroups.units import Manager, scope_properties, slice_path, slice_properties
from runtime.container import limits
from runtime.container import resources as files
from runtime.errors import InvalidArgument, Unsupported
from runtime.spec import schema

#: Where pods go that name no slice.
HOME = "kernelet.slice"
#: The cgroup in a pod's where its keeper is.
KEEPER = "keeper"
_PREFIX, _SUFFIX = scope_of("\0").split("\0")


class SystemdDriver:
    """By the manager that listens at *socket*, in the v2 tree at *tree*."""

    name: Name = "systemd"

    def __init__(self, tree: Path, socket: Path = SYSTEM) -> None:
        self._tree, self._manager = tree, Manager(socket)
        self._keepers: dict[Path, int] = {}

    @cached_property
    def _top(self) -> str:
        return self._manager.top()

    def prepare(self) -> None:
        """Raises Unsupported where systemd does not manage the tree."""
        if not self._manager.is_active(HOME):
            self._manager.start(HOME, slice_properties("pods of kernelet"))
        if not self._home().exists():
            raise Unsupported(f"cgroup driver systemd: {HOME} is not in {self._tree}: systemd has another tree; use cgroupfs")

    def release(self) -> None:
        if not self.pods():
            self._manager.stop(HOME)

    def pod_path(self, asked: str, sandbox_id: str) -> str:
        """In the slice that is asked for: a kubelet says "/kubepods.slice/kubepods-pod1.slice", others its last part alone."""
        name = asked.rstrip("/").rpartition("/")[2] or HOME
        try:
            return f"{self._top}{slice_path(name)}/{scope_of(sandbox_id)}"
        except InvalidArgument as error:
            raise InvalidArgument(f"linux.cgroup_parent {asked!r}: {error}; the cgroup driver is systemd") from None

    def make_pod(self, path: str) -> None:
        cgroup = self._at(path)
        if cgroup.exists():
            return
        pid = self._keepers[cgroup.path] = keeper.start_lasting()
        try:
            wanted = scope_properties("pod", os.path.basename(os.path.dirname(path)), pid)
            self._manager.start(cgroup.path.name, wanted)
            own = cgroup / KEEPER
            own.create()
            own.write("cgroup.procs", str(pid))
        except BaseException:
            self.remove(cgroup)
            raise

    def limit(self, cgroup: Cgroup, resources: schema.Resources) -> None:
        """Files first, so that systemd hears of nothing that does not hold; and after it, which rounds some, once more."""
        files.apply(cgroup, self._tree, resources)
        if _is_unit(cgroup):
            self._manager.set_properties(cgroup.path.name, properties.of(limits.writes(resources)))
            files.apply(cgroup, self._tree, resources)

    def remove(self, cgroup: Cgroup) -> None:
        cgroup.kill()
        keeper_pid = self._keepers.pop(cgroup.path, 0)
        if keeper_pid:
            process.end(keeper_pid)
        if _is_unit(cgroup):
            self._manager.stop(cgroup.path.name)
        cgroup.remove()

    def pods(self) -> list[tuple[str, Cgroup]]:
        home = self._home()
        with contextlib.suppress(FileNotFoundError):
            names = [name for name in os.listdir(home.path) if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
            return [(name.removeprefix(_PREFIX).removesuffix(_SUFFIX), home / name) for name in names]
        return []

    def _home(self) -> Cgroup:
        return self._at(self._top + slice_path(HOME))

    def _at(self, path: str) -> Cgroup:
        return Cgroup(self._tree / path.lstrip("/"))


def _is_unit(cgroup: Cgroup) -> bool:
    """Whether it is, by its name: a container's is a directory and no more, and so is what the other driver made."""
    return cgroup.path.suffix in (".scope", ".slice")
