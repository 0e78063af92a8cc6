"""What is wrong with the ``linux`` of a document, as far as it can be said without asking a kernel.

Resources, settings and seccomp rules are checked where they are translated, which names their fields too.
"""

from __future__ import annotations

import re

from runtime.errors import InvalidSpec
from runtime.spec import schema
from runtime.spec.checks import (
    MAX_ID,
    check_absolute,
    check_all_of,
    check_count,
    check_mappings,
    check_one_of,
    check_range,
    check_unique,
    parse_numbers,
)

NAMESPACES = frozenset({"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"})
CLOCKS = frozenset({"monotonic", "boottime"})
PROPAGATIONS = frozenset({"shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"})
DOMAINS = frozenset({"LINUX", "LINUX32"})
SECCOMP_FLAGS = frozenset(f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))
#: Memory policies, and whether each goes with nodes: it must, it may, it must not.
MEMORY_MODES = {
    "MPOL_DEFAULT": "no",
    "MPOL_BIND": "yes",
    "MPOL_INTERLEAVE": "yes",
    "MPOL_WEIGHTED_INTERLEAVE": "yes",
    "MPOL_PREFERRED": "maybe",
    "MPOL_PREFERRED_MANY": "yes",
    "MPOL_LOCAL": "no",
}
MEMORY_FLAGS = frozenset({"MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"})
#: A network interface's name (dev_valid_name of the kernel).
_INTERFACE = re.compile(r"(?!\.{1,2}\Z)[^\s/:]{1,15}")


def check_linux(linux: schema.Linux) -> None:
    """Raise InvalidSpec naming the first wrong field."""
    _check_namespaces(linux)
    for name, entries in (
        ("devices", linux.devices),
        ("maskedPaths", linux.masked_paths),
        ("readonlyPaths", linux.readonly_paths),
        ("sysctl", linux.sysctl),
        ("netDevices", linux.net_devices),
        ("resources.devices", linux.resources.devices if linux.resources is not None else ()),
    ):
        check_count(entries, f"linux.{name}")
    for index, device in enumerate(linux.devices):
        _check_device(device, f"linux.devices[{index}]")
    for name, paths in (("maskedPaths", linux.masked_paths), ("readonlyPaths", linux.readonly_paths)):
        for index, path in enumerate(paths):
            check_absolute(path, f"linux.{name}[{index}]")
    if linux.rootfs_propagation:
        check_one_of(linux.rootfs_propagation, PROPAGATIONS, "linux.rootfsPropagation")
    if linux.personality is not None:
        check_one_of(linux.personality.domain, DOMAINS, "linux.personality.domain")
        if linux.personality.flags:
            raise InvalidSpec(f"linux.personality.flags: {linux.personality.flags[0]!r}, and no flag is known")
    if linux.memory_policy is not None:
        _check_memory_policy(linux.memory_policy, "linux.memoryPolicy")
    if linux.intel_rdt is not None:
        _check_intel_rdt(linux.intel_rdt, "linux.intelRdt")
    if linux.seccomp is not None:
        _check_seccomp(linux.seccomp, "linux.seccomp")
    _check_net_devices(linux)


def _check_namespaces(linux: schema.Linux) -> None:
    check_unique((namespace.type for namespace in linux.namespaces), "linux.namespaces", "type")
    for index, namespace in enumerate(linux.namespaces):
        if namespace.type not in NAMESPACES:
            raise InvalidSpec(f"linux.namespaces[{index}].type: Linux has no {namespace.type!r} namespace")
        if namespace.path:
            check_absolute(namespace.path, f"linux.namespaces[{index}].path")
    paths = {namespace.type: namespace.path for namespace in linux.namespaces}
    for name, mappings in (("uidMappings", linux.uid_mappings), ("gidMappings", linux.gid_mappings)):
        check_mappings(mappings, f"linux.{name}")
        if mappings and "user" not in paths:
            raise InvalidSpec(f"linux.{name}: the container has no user namespace for them in linux.namespaces")
        if not mappings and paths.get("user") == "":
            raise InvalidSpec(f"linux.{name}: the new user namespace of linux.namespaces needs them")
    _check_time_offsets(linux, paths)


def _check_time_offsets(linux: schema.Linux, paths: dict[str, str]) -> None:
    if linux.time_offsets and paths.get("time") != "":
        raise InvalidSpec("linux.timeOffsets: there is no new time namespace for them in linux.namespaces")
    for clock, offset in linux.time_offsets.items():
        check_one_of(clock, CLOCKS, "linux.timeOffsets")
        check_range(offset.secs, -(2**63), 2**63 - 1, f"linux.timeOffsets.{clock}.secs")
        check_range(offset.nanosecs, 0, 999_999_999, f"linux.timeOffsets.{clock}.nanosecs")


def _check_device(device: schema.Device, where: str) -> None:
    check_absolute(device.path, f"{where}.path")
    if device.type not in {"c", "b", "u", "p"}:
        raise InvalidSpec(f"{where}.type: {device.type!r} is none of c, b, u, p")
    check_range(device.major, 0, 2**32 - 1, f"{where}.major")
    check_range(device.minor, 0, 2**32 - 1, f"{where}.minor")
    if device.file_mode is not None:
        check_range(device.file_mode, 0, 2**32 - 1, f"{where}.fileMode")  # with or without the bits of the type
    check_range(device.uid, 0, MAX_ID, f"{where}.uid")
    check_range(device.gid, 0, MAX_ID, f"{where}.gid")


def _check_memory_policy(policy: schema.MemoryPolicy, where: str) -> None:
    check_one_of(policy.mode, MEMORY_MODES, f"{where}.mode: invalid memory policy mode")
    check_all_of(policy.flags, MEMORY_FLAGS, f"{where}.flags: invalid memory policy flag")
    nodes = parse_numbers(policy.nodes, f"{where}.nodes: invalid memory policy nodes") if policy.nodes else []
    with_nodes = MEMORY_MODES[policy.mode]
    if nodes and with_nodes == "no":
        raise InvalidSpec(f"{where}.nodes: {policy.mode} mode requires 0 nodes but got {len(nodes)}")
    if not nodes and with_nodes == "yes":
        raise InvalidSpec(f"{where}.nodes: {policy.mode} mode requires at least 1 node but got 0")
    if {"MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"} <= set(policy.flags):
        raise InvalidSpec(f"{where}.flags: MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES exclude each other")


def _check_intel_rdt(group: schema.IntelRdt, where: str) -> None:
    if "/" in group.clos_id or group.clos_id in (".", ".."):
        raise InvalidSpec(f"{where}.closID: {group.clos_id!r} is not the name of a directory")
    lines = [(f"schemata[{index}]", line) for index, line in enumerate(group.schemata or ())]
    for field, line in (*lines, ("l3CacheSchema", group.l3_cache_schema), ("memBwSchema", group.mem_bw_schema)):
        if "\n" in line:
            raise InvalidSpec(f"{where}.{field}: more than one line")


def _check_seccomp(profile: schema.Seccomp, where: str) -> None:
    check_all_of(profile.flags or (), SECCOMP_FLAGS, f"{where}.flags")
    if profile.listener_metadata and not profile.listener_path:
        raise InvalidSpec(f"{where}.listenerMetadata: there is no listenerPath to send it to")
    if profile.listener_path:
        check_absolute(profile.listener_path, f"{where}.listenerPath")
    for index, rule in enumerate(profile.syscalls):
        if not rule.names:
            raise InvalidSpec(f"{where}.syscalls[{index}].names: empty, the rule is for no call")


def _check_net_devices(linux: schema.Linux) -> None:
    names: list[str] = []
    for device, wish in linux.net_devices.items():
        if not _INTERFACE.fullmatch(device):
            raise InvalidSpec(f"linux.netDevices: {device!r} is not the name of a network interface")
        if wish.name and not _INTERFACE.fullmatch(wish.name):
            raise InvalidSpec(f"linux.netDevices.{device}.name: {wish.name!r} is not the name of a network interface")
        names.append(wish.name or device)
        if names.count(names[-1]) > 1:
            raise InvalidSpec(f"linux.netDevices.{device}.name: {names[-1]!r} is given twice")
    if linux.net_devices and not any(namespace.type == "network" for namespace in linux.namespaces):
        raise InvalidSpec("linux.netDevices: the container has no network namespace of its own to move them to")
