"""Where pods' cgroups come from: directories that we make (``filesystem``), or units that systemd makes (``systemd``).

One interface; which of the two is the node's to say, and a kubelet's to know (RuntimeConfig), for both of them name the
same cgroups.  A pod's is recorded as its path in the v2 tree: what was made by one driver is found and removed by the other.

```
cgroupfs   /kubepods/burstable/pod1                                         ┐    /<id of a container>
systemd    /kubepods.slice/kubepods-pod1.slice/kernelet-<id of the pod>.scope ┘
```

Containers' cgroups are directories in it by either: systemd lets a scope's owner divide it (Delegate), and lets be what
the owner did.  A scope of its own for each would cost two calls and a move of a process, and go with the last process
before anybody has read there whether the kernel killed it for want of memory.
"""

from __future__ import annotations

from typing import Literal, Protocol

from kernel.cgroup import Cgroup
from runtime.spec import schema

Name = Literal["cgroupfs", "systemd"]
DRIVERS: tuple[Name, ...] = ("cgroupfs", "systemd")


class Driver(Protocol):
    """Makes and removes pods' cgroups; *path* begins with "/", the top of the v2 tree."""

    name: Name

    def prepare(self) -> None:
        """Have what pods go into that name no cgroup of their own."""
        ...

    def release(self) -> None:
        """Give that back, if nothing is in it."""
        ...

    def pod_path(self, asked: str, sandbox_id: str) -> str:
        """The path of a pod's cgroup, which its maker may have *asked* for.  Raises InvalidArgument."""
        ...

    def make_pod(self, path: str) -> None:
        """Make it, if it is not there."""
        ...

    def limit(self, cgroup: Cgroup, resources: schema.Resources) -> None:
        """Let *resources* hold for a pod's cgroup, or a container's.  Raises what ``resources.apply`` raises."""
        ...

    def remove(self, cgroup: Cgroup) -> None:
        """End what is in it, and remove it and all below; one that is gone is no error."""
        ...

    def pods(self) -> list[tuple[str, Cgroup]]:
        """The cgroups of pods that asked for none: id of the sandbox, and cgroup."""
        ...


def names_of(owner: str) -> frozenset[str]:
    """What *owner*'s cgroup may be called, by whichever driver."""
    return frozenset((owner, scope_of(owner)))


def scope_of(sandbox_id: str) -> str:
    """The unit that holds a pod's processes."""
    return f"kernelet-{sandbox_id}.scope"
