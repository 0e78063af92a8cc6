"""The drivers by their names."""

from __future__ import annotations

from pathlib import Path

from runtime.cgroups import Driver, Name
from runtime.cgroups.filesystem import FilesystemDriver


def driver(name: Name, tree: Path, home: str) -> Driver:
    """The driver *name* for the v2 tree at *tree*; *home* is where directories for pods go that ask for no place."""
    if name == "cgroupfs":
        return FilesystemDriver(tree, home.rstrip("/"))
    from runtime.cgroups.systemd import SystemdDriver

    return SystemdDriver(tree)
