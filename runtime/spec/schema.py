"""config.json of the OCI runtime spec (1.3, Linux) as typed structures; unknown properties are ignored, as it asks.

Field names are the spec's; ``rename="camel"`` does the spelling.  None means "not given", which for
several fields is not the same as zero or empty.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Model(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base of every structure here."""


class User(Model):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: list[int] = []


class Capabilities(Model):
    bounding: list[str] = []
    effective: list[str] = []
    inheritable: list[str] = []
    permitted: list[str] = []
    ambient: list[str] = []


class Rlimit(Model):
    type: str
    soft: int
    hard: int


class Box(Model):
    height: int = 0
    width: int = 0


class Process(Model):
    terminal: bool = False
    console_size: Box | None = None
    user: User = msgspec.field(default_factory=User)
    args: list[str] = []
    env: list[str] = []
    cwd: str = "/"
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = []
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    selinux_label: str = ""
    oom_score_adj: int | None = None


class Root(Model):
    path: str
    readonly: bool = False


class IdMapping(Model):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class Mount(Model):
    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = []
    uid_mappings: list[IdMapping] = []
    gid_mappings: list[IdMapping] = []


class Namespace(Model):
    type: str
    path: str = ""


class Device(Model):
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int = 0
    gid: int = 0


class DeviceRule(Model):
    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class Memory(Model):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None


class Cpu(Model):
    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    burst: int | None = None
    idle: int | None = None
    cpus: str = ""
    mems: str = ""


class Pids(Model):
    limit: int | None = None


class HugepageLimit(Model):
    page_size: str
    limit: int


class Resources(Model):
    devices: list[DeviceRule] = []
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    hugepage_limits: list[HugepageLimit] = []
    unified: dict[str, str] = {}


class SeccompArg(Model):
    index: int
    value: int
    value_two: int = 0
    op: str = "SCMP_CMP_EQ"


class SyscallRule(Model):
    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SeccompArg] = []


class Seccomp(Model):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] = []
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SyscallRule] = []


class Linux(Model):
    namespaces: list[Namespace] = []
    uid_mappings: list[IdMapping] = []
    gid_mappings: list[IdMapping] = []
    devices: list[Device] = []
    cgroups_path: str = ""
    resources: Resources | None = None
    sysctl: dict[str, str] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    mount_label: str = ""


class Spec(Model):
    oci_version: str = "1.2.0"
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    process: Process | None = None
    mounts: list[Mount] = []
    linux: Linux = msgspec.field(default_factory=Linux)
    hooks: dict[str, Any] | None = None
    annotations: dict[str, str] = {}
