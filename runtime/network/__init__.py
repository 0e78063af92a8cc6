"""How a pod gets its network: the promise that each kind of network keeps.

``bridge.BridgeNetwork`` serves where the cluster brings no network of its own, ``cni.CniNetwork`` where it does, and
``selection`` decides which.  A pod on the node's
network (hostNetwork) has nothing to do with this package; whoever makes the pod leaves the call out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.sandbox.state import Sandbox


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a pod is reached by: its first address, further ones (of the other family, say), and its way out."""

    ip: str
    additional: tuple[str, ...] = ()
    gateway: str | None = None


class Network(Protocol):
    """Calls for different sandboxes may overlap; those for one sandbox are the caller's to put in order."""

    def attach(self, sandbox: Sandbox, netns_path: Path) -> Addresses:
        """Connect the pinned network namespace, and open the ports of the host that the pod asks for.

        Again, it returns the same addresses.  On failure nothing is left.
        """

    def detach(self, sandbox_id: str) -> None:
        """Take back all that ``attach`` gave, also when the namespace is gone; again, it does nothing."""

    def addresses(self, sandbox_id: str) -> Addresses | None:
        """What ``attach`` returned, or None when the sandbox is not attached."""

    def sweep(self, alive: Collection[Sandbox]) -> None:
        """After a restart, before the first ``attach``: know those that are *alive*, take back what belongs to no one."""

    def shutdown(self) -> None:
        """Take back what is there for all pods, once there are none; while there are, do nothing."""
