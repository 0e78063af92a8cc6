"""Pods' cgroups as directories that we make ourselves: the driver "cgroupfs"."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from kernel.cgroup import Cgroup
from runtime.cgroups import Name
from runtime.container import resources as limits
from runtime.errors import InvalidArgument
from runtime.spec import schema

#: Letters of a sandbox's id.
ID_LENGTH = 64


class FilesystemDriver:
    """In the v2 tree at *tree*; pods that ask for no place go into *home*, a path in it."""

    name: Name = "cgroupfs"

    def __init__(self, tree: Path, home: str) -> None:
        self._tree, self._home = tree, home

    def prepare(self) -> None:
        self._at(self._home).create()

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(self._at(self._home).path)

    def pod_path(self, asked: str, sandbox_id: str) -> str:
        if asked and not asked.startswith("/"):
            raise InvalidArgument(f"linux.cgroup_parent {asked!r}: a slice is for the cgroup driver systemd; ours is cgroupfs")
        return asked.rstrip("/") or f"{self._home}/{sandbox_id}"

    def make_pod(self, path: str) -> None:
        self._at(path).create()

    def limit(self, cgroup: Cgroup, resources: schema.Resources) -> None:
        limits.apply(cgroup, self._tree, resources)

    def remove(self, cgroup: Cgroup) -> None:
        cgroup.kill()
        cgroup.remove()

    def pods(self) -> list[tuple[str, Cgroup]]:
        home = self._at(self._home)
        with contextlib.suppress(FileNotFoundError):
            names = [name for name in os.listdir(home.path) if len(name) == ID_LENGTH and (home / name).exists()]
            return [(name, home / name) for name in names]
        return []

    def _at(self, path: str) -> Cgroup:
        return Cgroup(self._tree / path.lstrip("/"))
