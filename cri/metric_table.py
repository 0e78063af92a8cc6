"""The metrics by which cAdvisor is known, and how each is found in what the node counted.

Values are whole numbers, as the CRI has them, in the unit of the name: seconds are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cri.api import api_pb2 as api
from runtime.container.limits import DEFAULT_PERIOD
from runtime.container.statistics import MemoryUse, Statistics
from runtime.network.traffic import LinkUse
from runtime.usage import ContainerUse, Disk, Processes

#: What every metric is labelled with; a pod's own have no container and no image.
BASE_LABELS = ("pod", "namespace", "container", "id", "image")
NETWORK_LABELS = ("interface",)
#: cpu.weight of a cgroup that nothing is asked of, in shares.
DEFAULT_SHARES = 1024

NOTHING = Statistics(None, None, None, None, {})

COUNTER, GAUGE = api.COUNTER, api.GAUGE
#: Values of the labels of its own, and the value.
Found = tuple[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one container at a time."""

    use: ContainerUse
    processes: Processes | None
    disk: Disk
    limits: api.LinuxContainerResources

    @property
    def counted(self) -> Statistics:
        return self.use.use.statistics or NOTHING


@dataclass(frozen=True, slots=True)
class Metric:
    """*labels* come after those that all have.  Without the cgroup's *file* that it comes from there is no such metric."""

    name: str
    help: str
    kind: api.MetricType
    find: Callable[[Sample], Iterable[Found]]
    labels: tuple[str, ...] = ()
    file: str = ""


@dataclass(frozen=True, slots=True)
class NetworkMetric:
    """One of a pod's links."""

    name: str
    help: str
    find: Callable[[LinkUse], int]


def _one(find: Callable[[Sample], int | None]) -> Callable[[Sample], Iterable[Found]]:
    """A metric without labels of its own, which may not be known."""

    def found(sample: Sample) -> Iterable[Found]:
        value = find(sample)
        return () if value is None else (((), max(0, value)),)

    return found


def _cpu(field: str, divisor: int = 1) -> Callable[[Sample], Iterable[Found]]:
    return _one(lambda sample: None if sample.counted.cpu is None else getattr(sample.counted.cpu, field) // divisor)


def _memory(find: Callable[[MemoryUse], int | None]) -> Callable[[Sample], Iterable[Found]]:
    return _one(lambda sample: None if sample.counted.memory is None else find(sample.counted.memory))


def _failures(sample: Sample) -> Iterable[Found]:
    details = {} if sample.counted.memory is None else sample.counted.memory.details
    return [((name, "container"), details[name]) for name in ("pgfault", "pgmajfault") if name in details]


def _kernel_memory(memory: MemoryUse) -> int | None:
    """One figure since Linux 5.18; before, the sum of those that there are."""
    parts = ("slab", "kernel_stack", "pagetables", "percpu", "sock")
    return memory.details.get("kernel", sum(memory.details.get(part, 0) for part in parts))


def _devices(key: str) -> Callable[[Sample], Iterable[Found]]:
    def found(sample: Sample) -> Iterable[Found]:
        devices = () if sample.counted.io is None else sample.counted.io.devices
        return [((f"{each.major}:{each.minor}",), each.counters[key]) for each in devices if key in each.counters]

    return found


def _operations(sample: Sample) -> Iterable[Found]:
    for each in () if sample.counted.io is None else sample.counted.io.devices:
        for key, operation in (("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")):
            if key in each.counters:
                yield (f"{each.major}:{each.minor}", str(each.major), str(each.minor), operation), each.counters[key]


def _disk(find: Callable[[Sample, Disk], int | None]) -> Callable[[Sample], Iterable[Found]]:
    def found(sample: Sample) -> Iterable[Found]:
        value = find(sample, sample.disk)
        return () if value is None else (((sample.disk.device,), value),)

    return found


def _layer_bytes(sample: Sample, _disk: Disk) -> int | None:
    return None if sample.use.writable is None else sample.use.writable.bytes


def _processes(field: str) -> Callable[[Sample], Iterable[Found]]:
    return _one(lambda sample: None if sample.processes is None else getattr(sample.processes, field))


def _limit(field: str, default: int = 0) -> Callable[[Sample], Iterable[Found]]:
    """Of the request; no limit is zero, as cAdvisor has it."""
    return _one(lambda sample: getattr(sample.limits, field) or default)


def _quota(sample: Sample) -> Iterable[Found]:
    return (((), sample.limits.cpu_quota),) if sample.limits.cpu_quota > 0 else ()


def _open_files(sample: Sample) -> Iterable[Found]:
    limit = None if sample.processes is None else sample.processes.open_files_limit
    return () if limit is None else ((("max_open_files",), limit),)


def _huge(sample: Sample) -> Iterable[Found]:
    return [((size,), use.usage_bytes) for size, use in sample.counted.hugepages.items()]


def _pressure(group: str, kind: str) -> Callable[[Sample], Iterable[Found]]:
    def find(sample: Sample) -> int | None:
        counted = getattr(sample.counted, group)
        line = None if counted is None or counted.pressure is None else getattr(counted.pressure, kind)
        return None if line is None else line.total_usec // 1_000_000

    return _one(find)


_NS = 1_000_000_000

TABLE: tuple[Metric, ...] = (
    Metric("container_last_seen", "Last time this container was seen", GAUGE, _one(lambda each: each.use.use.at_ns // _NS)),
    Metric(
        "container_start_time_seconds",
        "Start time of the container since the epoch in seconds",
        GAUGE,
        _one(lambda each: each.use.container.started_at_ns // _NS),
    ),
    # cpu.stat is there in every cgroup; what of it is about quotas comes with the controller.
    Metric("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds", COUNTER, _cpu("total_ns", _NS)),
    Metric("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds", COUNTER, _cpu("user_ns", _NS)),
    Metric(
        "container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds", COUNTER, _cpu("system_ns", _NS)
    ),
    Metric("container_cpu_cfs_periods_total", "Number of elapsed enforcement periods", COUNTER, _cpu("periods"), file="cpu.max"),
    Metric(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled periods",
        COUNTER,
        _cpu("throttled_periods"),
        file="cpu.max",
    ),
    Metric(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time for which the container was throttled in seconds",
        COUNTER,
        _cpu("throttled_ns", _NS),
        file="cpu.max",
    ),
    *(
        Metric(f"container_memory_{name}", text, kind, _memory(find), file=file)
        for name, text, kind, find, file in (
            ("usage_bytes", "Memory in use in bytes, all of it", GAUGE, lambda m: m.memory.usage_bytes, "memory.current"),
            (
                "working_set_bytes",
                "Memory in use without file cache that could go",
                GAUGE,
                lambda m: m.working_set_bytes,
                "memory.current",
            ),
            ("max_usage_bytes", "Most memory that was ever in use in bytes", GAUGE, lambda m: m.memory.peak_bytes, "memory.peak"),
            ("rss", "Memory of no file in bytes", GAUGE, lambda m: m.details.get("anon"), "memory.current"),
            ("cache", "Page cache in bytes", GAUGE, lambda m: m.details.get("file"), "memory.current"),
            ("mapped_file", "Memory of mapped files in bytes", GAUGE, lambda m: m.details.get("file_mapped"), "memory.current"),
            ("kernel_usage", "Memory that the kernel uses for it in bytes", GAUGE, _kernel_memory, "memory.current"),
            (
                "total_active_file_bytes",
                "File cache used of late",
                GAUGE,
                lambda m: m.details.get("active_file"),
                "memory.current",
            ),
            (
                "total_inactive_file_bytes",
                "File cache not used of late",
                GAUGE,
                lambda m: m.details.get("inactive_file"),
                "memory.current",
            ),
            ("swap", "Swap in use in bytes", GAUGE, lambda m: m.swap and m.swap.usage_bytes, "memory.swap.current"),
            ("failcnt", "Number of times that usage hit its limit", COUNTER, lambda m: m.events.get("max"), "memory.current"),
        )
    ),
    Metric(
        "container_memory_failures_total",
        "Cumulative count of page faults",
        COUNTER,
        _failures,
        ("failure_type", "scope"),
        file="memory.current",
    ),
    Metric(
        "container_oom_events_total",
        "Count of processes killed for want of memory",
        COUNTER,
        _memory(lambda memory: memory.events.get("oom_kill")),
        file="memory.current",
    ),
    Metric(
        "container_fs_usage_bytes",
        "Bytes that the writable layer takes",
        GAUGE,
        _disk(_layer_bytes),
        ("device",),
    ),
    Metric(
        "container_fs_limit_bytes",
        "Bytes of the file system that it is on",
        GAUGE,
        _disk(lambda _, disk: disk.bytes),
        ("device",),
    ),
    Metric(
        "container_fs_inodes_total",
        "Inodes of the file system that it is on",
        GAUGE,
        _disk(lambda _, disk: disk.inodes),
        ("device",),
    ),
    Metric("container_fs_inodes_free", "Inodes that are free there", GAUGE, _disk(lambda _, disk: disk.inodes_free), ("device",)),
    Metric("container_fs_reads_bytes_total", "Cumulative bytes read", COUNTER, _devices("rbytes"), ("device",), "io.stat"),
    Metric("container_fs_reads_total", "Cumulative reads", COUNTER, _devices("rios"), ("device",), "io.stat"),
    Metric("container_fs_writes_bytes_total", "Cumulative bytes written", COUNTER, _devices("wbytes"), ("device",), "io.stat"),
    Metric("container_fs_writes_total", "Cumulative writes", COUNTER, _devices("wios"), ("device",), "io.stat"),
    Metric(
        "container_blkio_device_usage_total",
        "Bytes that block devices moved, by operation",
        COUNTER,
        _operations,
        ("device", "major", "minor", "operation"),
        "io.stat",
    ),
    Metric("container_processes", "Number of processes", GAUGE, _processes("count")),
    Metric("container_threads", "Number of threads", GAUGE, _processes("threads")),
    Metric(
        "container_threads_max",
        "Most threads that there may be; zero is no limit",
        GAUGE,
        _one(lambda sample: None if sample.counted.pids is None else sample.counted.pids.limit or 0),
        file="pids.max",
    ),
    Metric("container_file_descriptors", "Number of open file descriptors", GAUGE, _processes("descriptors")),
    Metric("container_sockets", "Number of open sockets", GAUGE, _processes("sockets")),
    Metric("container_ulimits_soft", "Soft limits of the first process", GAUGE, _open_files, ("ulimit",)),
    Metric("container_spec_cpu_period", "Period of the cpu quota in microseconds", GAUGE, _limit("cpu_period", DEFAULT_PERIOD)),
    Metric("container_spec_cpu_quota", "Cpu quota in microseconds a period", GAUGE, _quota),
    Metric("container_spec_cpu_shares", "Cpu shares", GAUGE, _limit("cpu_shares", DEFAULT_SHARES)),
    Metric("container_spec_memory_limit_bytes", "Limit of memory; zero is none", GAUGE, _limit("memory_limit_in_bytes")),
    Metric(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap together; zero is none",
        GAUGE,
        _limit("memory_swap_limit_in_bytes"),
    ),
    Metric("container_hugetlb_usage_bytes", "Huge pages in use in bytes", GAUGE, _huge, ("pagesize",), "hugetlb"),
    *(
        Metric(
            f"container_pressure_{group}_{word}_seconds_total",
            f"Time in which {who} waited for {group} in seconds",
            COUNTER,
            _pressure(group, kind),
            file=f"{group}.pressure",
        )
        for group in ("cpu", "memory", "io")
        for word, kind, who in (("waiting", "some", "some"), ("stalled", "full", "all"))
    ),
)

NETWORK_TABLE: tuple[NetworkMetric, ...] = (
    NetworkMetric("container_network_receive_bytes_total", "Cumulative bytes received", lambda link: link.received.bytes),
    NetworkMetric("container_network_receive_packets_total", "Cumulative packets received", lambda link: link.received.packets),
    NetworkMetric(
        "container_network_receive_packets_dropped_total",
        "Cumulative packets dropped while receiving",
        lambda link: link.received.dropped,
    ),
    NetworkMetric(
        "container_network_receive_errors_total", "Cumulative errors while receiving", lambda link: link.received.errors
    ),
    NetworkMetric("container_network_transmit_bytes_total", "Cumulative bytes sent", lambda link: link.sent.bytes),
    NetworkMetric("container_network_transmit_packets_total", "Cumulative packets sent", lambda link: link.sent.packets),
    NetworkMetric(
        "container_network_transmit_packets_dropped_total",
        "Cumulative packets dropped while sending",
        lambda link: link.sent.dropped,
    ),
    NetworkMetric("container_network_transmit_errors_total", "Cumulative errors while sending", lambda link: link.sent.errors),
)
