"""What is known of a container, and the states it goes through.

```
    created ── start ──> running ── the process ends ──> exited
       └────── start failed (exit code 128, StartError) ───┘
    unknown: after a restart nobody could say; stopping it makes it exited
```

The state is derived from what happened, so that no fourth field can disagree with three times.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runtime.container.config import ContainerConfig
from runtime.errors import ContainerNotRunning, WrongState
from runtime.spec import schema


class ContainerState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


class Container(msgspec.Struct, kw_only=True):
    """A container's record; written to the store before anybody is told."""

    id: str
    sandbox_id: str
    config: ContainerConfig
    image_id: str
    image_reference: str = ""
    """The image's name with its digest, as people and scanners look it up, if it had one when the container was made."""
    chain_ids: list[str] = []
    """The layers below its own, which must stay as long as it does."""
    user: schema.User | None = None
    """Who its process is, once its image's files have been read."""
    home: str = "/"
    cgroup: str = ""
    pid: int = 0
    created_at_ns: int = 0
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    resources: schema.Resources | None = None
    """What an update let hold instead of what the spec says."""
    resources_attachment: bytes = b""
    """The caller's own account of that; opaque here."""
    is_lost: bool = False

    @property
    def state(self) -> ContainerState:
        if self.finished_at_ns:
            return ContainerState.EXITED
        if self.is_lost:
            return ContainerState.UNKNOWN
        return ContainerState.RUNNING if self.started_at_ns else ContainerState.CREATED

    def require_created(self) -> None:
        """Raises WrongState unless it can be started."""
        if self.state is not ContainerState.CREATED:
            raise WrongState(
                f"container {self.config.name} ({self.id[:13]}) is {self.state}: only a created container can be started"
            )

    def require_running(self, act: str) -> None:
        """Raises ContainerNotRunning unless *act* can be done to it."""
        if self.state is not ContainerState.RUNNING:
            raise ContainerNotRunning(f"{act}: container {self.config.name} ({self.id[:13]}) is {self.state}, not running")
