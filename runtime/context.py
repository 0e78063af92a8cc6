"""What the operations of this package work with, put together once by ``node.Node``."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from kernel.cgroup import Cgroup
from runtime.image.store import ImageStore
from runtime.inventory import Inventory
from runtime.journal import Journal
from runtime.monitor.client import MonitorClient
from runtime.network import Network
from runtime.paths import Paths


@dataclass(slots=True)
class Context:
    paths: Paths
    inventory: Inventory
    journal: Journal
    images: ImageStore
    network: Network
    monitor: MonitorClient
    tree: Path
    """Where the cgroup v2 tree is mounted."""
    default_parent: str = "/kernelet"
    """The cgroup under which sandboxes go that name none."""
    stop_deadlines: dict[str, float] = field(default_factory=dict)
    """When a container that is being stopped is killed; a second stop may bring it forward."""
    starting: set[str] = field(default_factory=set)
    """Containers whose start is under way: if it fails, the start itself says so, not the exit."""
    exec_exits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Exit code and time of exec'd processes that somebody waits for."""
    awaited: threading.Condition = field(default_factory=threading.Condition)

    def cgroup(self, path: str) -> Cgroup:
        """The cgroup at *path*, which begins with "/"."""
        return Cgroup(self.tree / path.lstrip("/"))
