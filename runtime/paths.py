"""Where everything lives.

The *root dir* survives a reboot (images, records, writable layers); the *run dir* does not (pins,
sockets, what runs now).  Every path of an object is derived from its id, so that after a crash
"what is mine" can be answered by looking.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    root_dir: Path = Path("/var/lib/kernelet")
    run_dir: Path = Path("/run/kernelet")

    def prepare(self) -> None:
        """Make the directories of the daemon, closed to other users (CVE-2024-25621)."""
        for directory in (
            self.root_dir,
            self.blobs,
            self.layers,
            self.staging,
            self.containers,
            self.sandboxes,
            self.run_dir,
            self.run_containers,
            self.run_sandboxes,
            self.attach_point,
        ):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(directory, 0o700)

    # Kept over a reboot.
    @cached_property
    def database(self) -> Path:
        return self.root_dir / "state.db"

    @cached_property
    def blobs(self) -> Path:
        """Content by digest: ``blobs/sha256/<hex>``."""
        return self.root_dir / "blobs" / "sha256"

    @cached_property
    def layers(self) -> Path:
        """Unpacked layers by chain id: ``layers/<hex>``; a name here is whole, staging is elsewhere."""
        return self.root_dir / "layers"

    @cached_property
    def staging(self) -> Path:
        """Downloads and unpacks under way; what is found here at start is swept."""
        return self.root_dir / "staging"

    @cached_property
    def containers(self) -> Path:
        return self.root_dir / "containers"

    @cached_property
    def sandboxes(self) -> Path:
        return self.root_dir / "sandboxes"

    def container(self, container_id: str) -> Path:
        """Kept files of one container: the writable layer (``upper``, ``work``)."""
        return self.containers / container_id

    def sandbox(self, sandbox_id: str) -> Path:
        """Kept files of one sandbox: hosts, hostname, resolv.conf."""
        return self.sandboxes / sandbox_id

    # Gone at reboot.
    @cached_property
    def socket(self) -> Path:
        return self.run_dir / "kernelet.sock"

    @cached_property
    def lock(self) -> Path:
        return self.run_dir / "kernelet.lock"

    @cached_property
    def monitor_socket(self) -> Path:
        return self.run_dir / "monitor.sock"

    @cached_property
    def monitor_lock(self) -> Path:
        return self.run_dir / "monitor.lock"

    @cached_property
    def attach_point(self) -> Path:
        """An empty directory on which a container's init attaches its root, in its own mount namespace."""
        return self.run_dir / "rootfs"

    @cached_property
    def run_containers(self) -> Path:
        return self.run_dir / "containers"

    @cached_property
    def run_sandboxes(self) -> Path:
        return self.run_dir / "sandboxes"

    @cached_property
    def failures(self) -> Path:
        """Starts that failed, for ``kernelet explain``; made when the first one does."""
        return self.run_dir / "failures"

    def run_container(self, container_id: str) -> Path:
        """What a reaper leaves behind: ``exit``."""
        return self.run_containers / container_id

    def run_sandbox(self, sandbox_id: str) -> Path:
        """Pinned namespaces (``net``, ``ipc``, ``uts``, ``user``, ``pid``) and the shared ``shm``."""
        return self.run_sandboxes / sandbox_id
