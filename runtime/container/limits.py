"""OCI resources as writes to the files of cgroup v2: pure, and in the order in which the kernel takes them.

Version 2 lacks some of what version 1 had.  Where that would limit something it is refused by name, as crun does,
and not passed over, as runc does; where the value asks for what version 2 does anyhow, nothing is written.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema

DEFAULT_PERIOD = 100_000
#: Of the tree's own files those that limit or count; cgroup.procs, say, would move processes.
OF_CGROUP = frozenset({"cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"})
_PAGE_SIZE = re.compile(r"[1-9][0-9]*[KMG]B", re.ASCII)
_DEVICE_NAME = re.compile(r"[^\s/]+")
_WHERE = "linux.resources"


class Write(NamedTuple):
    """One write: *value* to *file*, because the document has *field*."""

    file: str
    value: str
    field: str
    instead: tuple[Write, ...] | None = None
    """What to write where the kernel has no such file: None when there is nothing that would do, () when nothing need be."""
    is_attempt: bool = False
    """The kernel may refuse the value as long as another is not written: it comes again later."""


def writes(resources: schema.Resources) -> list[Write]:
    """What to write, in order; ``unified`` comes last and wins.

    Raises InvalidSpec for a value that cannot be, Unsupported for a limit that version 2 does not have.
    """
    return [
        *_pids(resources.pids),
        *_memory(resources.memory),
        *_block_io(resources.block_io),
        *_cpu(resources.cpu),
        *_hugepages(resources.hugepage_limits),
        *_rdma(resources.rdma),
        *_network(resources.network),
        *_unified(resources.unified),
    ]


def weight_of(shares: int) -> int:
    """cpu.weight for *shares*, on the curve that keeps 1024 at the kernel's default of 100.

    The formula of opencontainers/cgroups#20, which runc 1.3.2 and crun of 2025-06 took up; the older
    linear one made 1024 shares a weight of 39.
    """
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    logarithm = math.log2(shares)
    return math.ceil(10 ** ((logarithm**2 + 125 * logarithm) / 612 - 7 / 34))


def io_weight_of(weight: int) -> int:
    """io.weight (1 to 10000) for a blkio weight (10 to 1000), as runc and crun convert it."""
    return 1 + (weight - 10) * 9999 // 990


def _pids(pids: schema.Pids | None) -> list[Write]:
    """A limit of no process at all is written as one: the container's own must be, and fork is refused by either."""
    if pids is None or pids.limit is None:
        return []
    return [Write("pids.max", "max" if pids.limit < 0 else str(max(pids.limit, 1)), "pids.limit")]


def _memory(memory: schema.Memory | None) -> list[Write]:
    if memory is None:
        return []
    _refuse("memory.kernel", memory.kernel is not None and memory.kernel > 0, "memory.limit counts the kernel's as well")
    _refuse("memory.kernelTCP", memory.kernel_tcp is not None and memory.kernel_tcp > 0, "memory.limit counts it as well")
    _refuse("memory.swappiness", memory.swappiness is not None, "leave it away, or limit memory.swap")
    _refuse("memory.disableOOMKiller", bool(memory.disable_oom_killer), "look at memory.high in unified")
    written = []
    if memory.limit:
        written.append(Write("memory.max", _amount(memory.limit), "memory.limit"))
    swap = _swap(memory)
    if swap is not None:
        # A kernel without accounting of swap has no such file; none and any amount are as they are there.
        written.append(Write("memory.swap.max", swap, "memory.swap", () if swap in ("0", "max") else None))
    if memory.reservation:
        written.append(Write("memory.low", _amount(memory.reservation), "memory.reservation"))
    return written


def _swap(memory: schema.Memory) -> str | None:
    """OCI counts memory and swap together, v2 swap alone; None is to leave it as it is."""
    limit, swap = memory.limit or 0, memory.swap or 0
    if limit < 0 and memory.swap == 0:
        return "max"  # version 1 would have set both free
    if swap == 0:
        return None
    if swap < 0:
        return "max"
    if limit < 0:
        return str(swap)
    if limit == 0:
        raise InvalidSpec(f"{_WHERE}.memory.swap: a limit of swap needs memory.limit, which it includes")
    if swap < limit:
        raise InvalidSpec(f"{_WHERE}.memory.swap: {swap} is less than memory.limit, which it includes: {limit}")
    return str(swap - limit)


def _cpu(cpu: schema.Cpu | None) -> list[Write]:
    if cpu is None:
        return []
    for name, value in (("realtimeRuntime", cpu.realtime_runtime), ("realtimePeriod", cpu.realtime_period)):
        _refuse(f"cpu.{name}", bool(value), "real-time processes are not limited there")
    written = []
    if cpu.idle is not None:
        if cpu.idle not in (0, 1):
            raise InvalidSpec(f"{_WHERE}.cpu.idle: {cpu.idle} is neither 0 nor 1")
        written.append(Write("cpu.idle", str(cpu.idle), "cpu.idle"))
    if cpu.shares and cpu.idle != 1:  # an idle group has no weight: writing one is refused
        written.append(Write("cpu.weight", str(weight_of(cpu.shares)), "cpu.shares"))
    written += _quota(cpu)
    if cpu.cpus:
        written.append(Write("cpuset.cpus", cpu.cpus, "cpu.cpus"))
    if cpu.mems:
        written.append(Write("cpuset.mems", cpu.mems, "cpu.mems"))
    return written


def _quota(cpu: schema.Cpu) -> list[Write]:
    """Quota and burst: the burst may not exceed the quota at any time, so it is tried before, and written after."""
    limited = []
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        field = "cpu.quota" if cpu.quota else "cpu.period"
        limited.append(Write("cpu.max", f"{quota} {cpu.period or DEFAULT_PERIOD}", field))
    if cpu.burst is None:
        return limited
    burst = Write("cpu.max.burst", str(cpu.burst), "cpu.burst")
    return [burst._replace(is_attempt=True), *limited, burst] if limited else [burst]


def _block_io(block_io: schema.BlockIo | None) -> list[Write]:
    if block_io is None:
        return []
    _refuse("blockIO.leafWeight", bool(block_io.leaf_weight), "blockIO.weight is what there is")
    written = []
    if block_io.weight:
        written.append(_io_weight("", block_io.weight, "blockIO.weight"))
    for index, device in enumerate(block_io.weight_device):
        where = f"blockIO.weightDevice[{index}]"
        _refuse(f"{where}.leafWeight", bool(device.leaf_weight), "weight is what there is")
        if device.weight:
            written.append(_io_weight(f"{_device(device, where)} ", device.weight, f"{where}.weight"))
    for name, key, throttles in (
        ("throttleReadBpsDevice", "rbps", block_io.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "wbps", block_io.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "riops", block_io.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "wiops", block_io.throttle_write_iops_device),
    ):
        for index, throttle in enumerate(throttles):
            where = f"blockIO.{name}[{index}]"
            _check(throttle.rate >= 0, f"{where}.rate", throttle.rate)
            written.append(Write("io.max", f"{_device(throttle, where)} {key}={throttle.rate or 'max'}", where))
    return written


def _io_weight(device: str, weight: int, field: str) -> Write:
    """The weight for BFQ where that schedules, which has the old range; else for the kernel's own model of costs."""
    if not 10 <= weight <= 1000:
        raise InvalidSpec(f"{_WHERE}.{field}: {weight} is not between 10 and 1000")
    default = Write("io.weight", f"{device}{io_weight_of(weight)}", field)
    return Write("io.bfq.weight", f"{device}{weight}", field, (default,))


def _device(device: schema.WeightDevice | schema.ThrottleDevice, where: str) -> str:
    _check(device.major >= 0, f"{where}.major", device.major)
    _check(device.minor >= 0, f"{where}.minor", device.minor)
    return f"{device.major}:{device.minor}"


def _hugepages(limits: list[schema.HugepageLimit]) -> list[Write]:
    written = []
    for index, item in enumerate(limits):
        field = f"hugepageLimits[{index}]"
        if not _PAGE_SIZE.fullmatch(item.page_size):
            raise InvalidSpec(f"{_WHERE}.{field}.pageSize: {item.page_size!r} is no size such as 64KB, 2MB or 1GB")
        written.append(Write(f"hugetlb.{item.page_size}.max", _amount(item.limit), field))
        # What is reserved, and would end in SIGBUS when it is used; since Linux 5.7.
        written.append(Write(f"hugetlb.{item.page_size}.rsvd.max", _amount(item.limit), field, ()))
    return written


def _rdma(devices: dict[str, schema.Rdma]) -> list[Write]:
    written = []
    for name, item in devices.items():
        field = f"rdma[{name!r}]"
        if not _DEVICE_NAME.fullmatch(name):
            raise InvalidSpec(f"{_WHERE}.{field}: not the name of a device")
        given = (("hca_handle", item.hca_handles), ("hca_object", item.hca_objects))
        parts = [f"{key}={value}" for key, value in given if value is not None]
        if not parts or "=-" in "".join(parts):
            raise InvalidSpec(f"{_WHERE}.{field}: needs hcaHandles or hcaObjects, not below zero")
        written.append(Write("rdma.max", " ".join((name, *parts)), field))
    return written


def _network(network: schema.Network | None) -> list[Write]:
    if network is not None:
        _refuse("network.classID", bool(network.class_id), "classify by cgroup path, with nftables or BPF")
        _refuse("network.priorities", bool(network.priorities), "classify by cgroup path, with nftables or BPF")
    return []


def _unified(files: dict[str, str]) -> list[Write]:
    """The files as they are named; of a value with several lines each is a write of its own, as the kernel wants it."""
    written = []
    for name, value in files.items():
        controller, dot, rest = name.partition(".")
        if "/" in name or not (controller and dot and rest):
            raise InvalidSpec(f"{_WHERE}.unified: the specified key has not the form CONTROLLER.VALUE `{name}`")
        if controller == "cgroup" and name not in OF_CGROUP:
            raise InvalidSpec(f"{_WHERE}.unified: {name} is the runtime's own: it does not limit anything")
        for line in value.splitlines() or [""]:
            written.append(Write(name, line, f"unified[{name!r}]"))
    return written


def _refuse(field: str, is_asked: bool, instead: str) -> None:
    if is_asked:
        raise Unsupported(f"{_WHERE}.{field}: cgroup v2 has no such limit; {instead}")


def _check(holds: bool, field: str, value: int) -> None:
    if not holds:
        raise InvalidSpec(f"{_WHERE}.{field}: {value} is below zero")


def _amount(value: int) -> str:
    return "max" if value < 0 else str(value)
