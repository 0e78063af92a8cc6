"""What is asked of a sandbox: the request that RunPodSandbox makes, in the runtime's own words.

It is stored with the sandbox and never changes.  A stored record outlives the release that wrote
it: fields are added with a default, never renamed.
"""

from __future__ import annotations

from typing import Literal, Self

import msgspec

from runtime.spec.schema import IdMapping

#: Whose namespace: the sandbox's, the container's own, the host's, or another container's.
Mode = Literal["pod", "container", "node", "target"]


class NamespaceModes(msgspec.Struct, kw_only=True, frozen=True):
    """The namespaces that the containers of a sandbox get; ``target_id`` belongs to pid "target"."""

    network: Mode = "pod"
    pid: Mode = "pod"
    ipc: Mode = "pod"
    target_id: str = ""


class PortMapping(msgspec.Struct, kw_only=True, frozen=True):
    """A port of the sandbox that answers on the host; an empty ``host_ip`` is every address of the host."""

    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    container_port: int
    host_port: int
    host_ip: str = ""


class SandboxConfig(msgspec.Struct, kw_only=True):
    """One attempt at a pod's sandbox; (name, namespace, uid, attempt) is what makes it unique.

    An empty ``hostname`` is the host's.  The three dns lists are None together, for a copy of the
    host's resolv.conf, or lists together, written as they are.  An empty ``cgroup_parent`` leaves
    the place to the runtime.  ``port_mappings`` holds those with a host port only.
    """

    name: str
    namespace: str
    uid: str
    attempt: int = 0
    hostname: str = ""
    log_directory: str = ""
    dns_servers: list[str] | None = None
    dns_searches: list[str] | None = None
    dns_options: list[str] | None = None
    port_mappings: list[PortMapping] = []
    cgroup_parent: str = ""
    sysctls: dict[str, str] = {}
    namespaces: NamespaceModes = NamespaceModes()
    #: The user namespace that the pod's containers share, and that owns the pod's other namespaces; empty for the host's.
    uid_mappings: list[IdMapping] = []
    gid_mappings: list[IdMapping] = []
    privileged: bool = False
    runtime_handler: str = ""
    annotations: dict[str, str] = {}
    #: The caller's own account of the request; opaque here.
    attachment: bytes = b""

    def is_asked_again_by(self, other: Self) -> bool:
        """Whether *other* is the same request: what it means here may have changed since, with a device or a release of ours."""
        return self.attachment == other.attachment if self.attachment and other.attachment else self == other
