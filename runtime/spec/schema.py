"""config.json of the OCI runtime spec (1.3, Linux) as typed structures; unknown properties are ignored, as it asks.

Field names are the spec's; ``rename="camel"`` does the spelling.  None means "not given", which for
several fields is not the same as zero or empty.

Annotations are not postponed here: msgspec would evaluate 200 of them as text when it decodes its first document, 2 ms.
"""

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


class Scheduler(Model):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: list[str] = []
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IoPriority(Model):
    class_: str = msgspec.field(name="class")
    priority: int = 0


class CpuAffinity(Model):
    """Of an exec'd process: lists such as "0-3,7", before and after it enters the container's cgroup."""

    initial: str = ""
    final: str = ""


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
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    exec_cpu_affinity: CpuAffinity | None = msgspec.field(default=None, name="execCPUAffinity")


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


class NetDevice(Model):
    name: str = ""


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
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class Cpu(Model):
    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    burst: int | None = None
    idle: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""


class Pids(Model):
    limit: int | None = None


class HugepageLimit(Model):
    page_size: str
    limit: int


class WeightDevice(Model):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Model):
    major: int
    minor: int
    rate: int


class BlockIo(Model):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDevice] = []
    throttle_read_bps_device: list[ThrottleDevice] = []
    throttle_write_bps_device: list[ThrottleDevice] = []
    throttle_read_iops_device: list[ThrottleDevice] = msgspec.field(default=[], name="throttleReadIOPSDevice")
    throttle_write_iops_device: list[ThrottleDevice] = msgspec.field(default=[], name="throttleWriteIOPSDevice")


class NetworkPriority(Model):
    name: str
    priority: int


class Network(Model):
    class_id: int | None = msgspec.field(default=None, name="classID")
    priorities: list[NetworkPriority] = []


class Rdma(Model):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(Model):
    devices: list[DeviceRule] = []
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: list[HugepageLimit] = []
    network: Network | None = None
    rdma: dict[str, Rdma] = {}
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
    flags: list[str] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SyscallRule] = []


class Personality(Model):
    domain: str
    flags: list[str] = []


class TimeOffset(Model):
    secs: int = 0
    nanosecs: int = 0


class IntelRdt(Model):
    clos_id: str = msgspec.field(default="", name="closID")
    schemata: list[str] | None = None
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = ""
    enable_monitoring: bool = False


class MemoryPolicy(Model):
    mode: str = ""
    nodes: str = ""
    flags: list[str] = []


class Hook(Model):
    """A program of the node's; *timeout* in seconds, None for no limit."""

    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Hooks(Model):
    prestart: list[Hook] = []
    create_runtime: list[Hook] = []
    create_container: list[Hook] = []
    start_container: list[Hook] = []
    poststart: list[Hook] = []
    poststop: list[Hook] = []


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
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = {}
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    net_devices: dict[str, NetDevice] = {}


class Spec(Model):
    oci_version: str = "1.2.0"
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    process: Process | None = None
    mounts: list[Mount] = []
    linux: Linux = msgspec.field(default_factory=Linux)
    hooks: Hooks = msgspec.field(default_factory=Hooks)
    annotations: dict[str, str] = {}


class State(Model):
    """What the spec calls the state of a container: the answer to ``state``, and what hooks read.  *status* as it spells them."""

    oci_version: str
    id: str
    status: str
    bundle: str
    pid: int = 0
    annotations: dict[str, str] = {}
