"""What is known of a sandbox: ready until it is stopped or the node restarts, and never again after that."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runtime.errors import SandboxNotReady
from runtime.sandbox.config import SandboxConfig
from runtime.spec import schema


class SandboxState(StrEnum):
    READY = "ready"
    NOT_READY = "not ready"


class Sandbox(msgspec.Struct, kw_only=True):
    """A sandbox's record; written to the store before anybody is told."""

    id: str
    config: SandboxConfig
    state: SandboxState = SandboxState.READY
    created_at_ns: int = 0
    ip: str = ""
    additional_ips: list[str] = []
    cgroup_parent: str = ""
    hostname: str = ""
    pause_pid: int = 0
    boot_id: str = ""
    resources: schema.Resources | None = None
    """What an update let hold for the pod as a whole."""
    resources_attachment: bytes = b""
    """The caller's own account of that; opaque here."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes it unique."""
        return self.config.namespace, self.config.name, self.config.uid, self.config.attempt

    def require_ready(self, act: str) -> None:
        """Raises SandboxNotReady unless *act* can be done in it."""
        if self.state is not SandboxState.READY:
            raise SandboxNotReady(f"{act}: sandbox {self.config.name} ({self.id[:13]}) is {self.state}")
