"""What a container gets that nobody asked for: mounts, devices, hidden paths, capabilities, PATH.

The lists are containerd's, because images and the kubelet's own defaults are written against them;
CRI-O's are shorter (nine capabilities, without NET_RAW and SYS_CHROOT).  Everything here is a new
value on each call: a spec is changed after it was made.
"""

from __future__ import annotations

from runtime.spec import schema, standard_dev

#: The environment's PATH where neither the image nor the request has one.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: The fourteen capabilities of an ordinary container, in the order of their numbers.
CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)

#: Paths that tell about the host or let one crash it; files are covered by /dev/null, directories by an empty tmpfs.
MASKED_PATHS: tuple[str, ...] = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)

READONLY_PATHS: tuple[str, ...] = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


def mounts(*, privileged: bool = False) -> list[schema.Mount]:
    """The mounts every container has, parents first; /dev/shm is the sandbox's and not among them.

    A *privileged* container may write to /sys and to its cgroup.
    """
    access = "rw" if privileged else "ro"
    return [
        schema.Mount(
            destination="/proc",
            type="proc",
            source="proc",
            options=["nosuid", "noexec", "nodev"],
        ),
        schema.Mount(
            destination="/dev",
            type="tmpfs",
            source="tmpfs",
            options=list(standard_dev.TMPFS_OPTIONS),
        ),
        schema.Mount(
            destination="/dev/pts",
            type="devpts",
            source="devpts",
            options=list(standard_dev.DEVPTS_OPTIONS),
        ),
        schema.Mount(
            destination="/dev/mqueue",
            type="mqueue",
            source="mqueue",
            options=["nosuid", "noexec", "nodev"],
        ),
        schema.Mount(
            destination="/sys",
            type="sysfs",
            source="sysfs",
            options=["nosuid", "noexec", "nodev", access],
        ),
        schema.Mount(
            destination="/sys/fs/cgroup",
            type="cgroup2",
            source="cgroup",
            options=["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]


def devices() -> list[schema.Device]:
    """The device nodes every container has; /dev/console, /dev/ptmx and the links to /proc/self/fd are not nodes."""
    return [
        schema.Device(path=path, type="c", major=major, minor=minor, file_mode=standard_dev.DEVICE_MODE)
        for path, major, minor in standard_dev.DEVICES
    ]


def device_rules(*, privileged: bool = False) -> list[schema.DeviceRule]:
    """The cgroup's device rules, last match wins: nothing may be opened but what is listed.

    mknod of any node is allowed, opening it is not: packages that bring device nodes can be unpacked.
    """
    if privileged:
        return [schema.DeviceRule(allow=True)]
    allowed = [schema.DeviceRule(allow=True, type="c", major=major, minor=minor) for _, major, minor in standard_dev.DEVICES]
    return [
        schema.DeviceRule(allow=False),
        schema.DeviceRule(allow=True, type="c", access="m"),
        schema.DeviceRule(allow=True, type="b", access="m"),
        *allowed,
        schema.DeviceRule(allow=True, type="c", major=5, minor=1),  # /dev/console
        schema.DeviceRule(allow=True, type="c", major=5, minor=2),  # /dev/ptmx
        schema.DeviceRule(allow=True, type="c", major=136),  # /dev/pts/*
    ]
