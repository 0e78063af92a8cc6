"""What a cgroup uses: its files as numbers, None where the controller that would count is not there.

Every call looks anew: a brief one takes ten reads (0.1 ms), a full one twenty.  Bytes are bytes, times are
nanoseconds; cgroups(7) and the kernel's admin-guide/cgroup-v2.rst say what each file means.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from kernel.cgroup import Cgroup

USEC = 1000
#: hugetlb alone does not write "max" but the largest number of bytes in pages of that size.
NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Pressure:
    """Of the time, how much was lost in waiting: percents over 10, 60 and 300 seconds, and all of it in microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total_usec: int


@dataclass(frozen=True, slots=True)
class Pressures:
    """*some*: at least one process waited; *full*: none got on."""

    some: Pressure
    full: Pressure | None


@dataclass(frozen=True, slots=True)
class CpuUse:
    total_ns: int
    user_ns: int
    system_ns: int
    periods: int
    throttled_periods: int
    throttled_ns: int
    pressure: Pressures | None


@dataclass(frozen=True, slots=True)
class Amount:
    """*limit* None is none; *peak* None is not known."""

    usage_bytes: int
    limit_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    memory: Amount
    swap: Amount | None
    details: Mapping[str, int]
    """memory.stat."""
    events: Mapping[str, int]
    """memory.events: how often what was reached; of the cgroup and all below."""
    pressure: Pressures | None

    @property
    def working_set_bytes(self) -> int:
        """What could not be given back at once: the usage without the file cache that has not been used lately."""
        return max(0, self.memory.usage_bytes - self.details.get("inactive_file", 0))


@dataclass(frozen=True, slots=True)
class PidsUse:
    current: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What was read from, written to and discarded on one block device."""

    major: int
    minor: int
    counters: Mapping[str, int]
    """io.stat's own keys: rbytes, wbytes, dbytes, rios, wios, dios."""


@dataclass(frozen=True, slots=True)
class IoUse:
    devices: tuple[DeviceUse, ...]
    pressure: Pressures | None


@dataclass(frozen=True, slots=True)
class HugepageUse:
    usage_bytes: int
    limit_bytes: int | None
    refused: int
    """How often the limit stood in the way."""


@dataclass(frozen=True, slots=True)
class Statistics:
    cpu: CpuUse | None
    memory: MemoryUse | None
    pids: PidsUse | None
    io: IoUse | None
    hugepages: Mapping[str, HugepageUse]
    """By page size as the kernel spells it: 2MB."""


def read(cgroup: Cgroup, *, brief: bool = False) -> Statistics:
    """The figures of *cgroup* and all below it.  Raises FileNotFoundError when it is gone.

    A *brief* account has no peaks, no events of memory, no block devices, no processes and no huge pages.
    """
    controllers = cgroup.controllers()
    memory = _memory(cgroup, brief=brief) if "memory" in controllers else None
    return Statistics(
        cpu=_cpu(cgroup),
        memory=memory,
        pids=_pids(cgroup) if "pids" in controllers and not brief else None,
        io=_io(cgroup, is_counted="io" in controllers and not brief),
        hugepages=_hugepages(cgroup) if "hugetlb" in controllers and not brief else {},
    )


def parse_pressure(text: str) -> Pressures | None:
    """A pressure file: ``some avg10=0.00 avg60=0.00 avg300=0.00 total=0``, and perhaps such a line that begins with full."""
    lines: dict[str, Pressure] = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        values = dict(field.split("=") for field in fields)
        lines[kind] = Pressure(float(values["avg10"]), float(values["avg60"]), float(values["avg300"]), int(values["total"]))
    return Pressures(lines["some"], lines.get("full")) if "some" in lines else None


def parse_io(text: str) -> tuple[DeviceUse, ...]:
    """io.stat: ``8:0 rbytes=1 wbytes=2 ...``; a device without a number, or without figures, is left out."""
    found = []
    for line in text.splitlines():
        name, *fields = line.split()
        major, colon, minor = name.partition(":")
        pairs = (field.partition("=") for field in fields)
        counters = {key: int(value) for key, _, value in pairs if value.isdigit()}
        if colon and counters:
            found.append(DeviceUse(int(major), int(minor), counters))
    return tuple(found)


def _cpu(cgroup: Cgroup) -> CpuUse | None:
    """Usage is counted in every cgroup; what was throttled, with the controller alone."""
    found = cgroup.fields("cpu.stat")
    if not found:
        return None
    return CpuUse(
        total_ns=found.get("usage_usec", 0) * USEC,
        user_ns=found.get("user_usec", 0) * USEC,
        system_ns=found.get("system_usec", 0) * USEC,
        periods=found.get("nr_periods", 0),
        throttled_periods=found.get("nr_throttled", 0),
        throttled_ns=found.get("throttled_usec", 0) * USEC,
        pressure=_pressure(cgroup, "cpu.pressure"),
    )


def _memory(cgroup: Cgroup, *, brief: bool) -> MemoryUse | None:
    memory = _amount(cgroup, "memory", brief=brief)
    if memory is None:
        return None
    return MemoryUse(
        memory=memory,
        swap=_amount(cgroup, "memory.swap", brief=brief),
        details=cgroup.fields("memory.stat"),
        events={} if brief else cgroup.fields("memory.events"),
        pressure=_pressure(cgroup, "memory.pressure"),
    )


def _amount(cgroup: Cgroup, name: str, *, brief: bool) -> Amount | None:
    usage = cgroup.number(f"{name}.current")
    if usage is None:
        return None
    return Amount(usage, cgroup.number(f"{name}.max"), None if brief else cgroup.number(f"{name}.peak"))


def _pids(cgroup: Cgroup) -> PidsUse | None:
    current = cgroup.number("pids.current")
    return None if current is None else PidsUse(current, cgroup.number("pids.max"))


def _io(cgroup: Cgroup, *, is_counted: bool) -> IoUse | None:
    """Pressure is there in every cgroup; what devices did, with the controller alone."""
    pressure = _pressure(cgroup, "io.pressure")
    try:
        devices = parse_io(cgroup.read("io.stat")) if is_counted else ()
    except FileNotFoundError:
        is_counted, devices = False, ()
    return IoUse(devices, pressure) if is_counted or pressure is not None else None


def _hugepages(cgroup: Cgroup) -> dict[str, HugepageUse]:
    found = {}
    for path in sorted(cgroup.path.glob("hugetlb.*.current")):
        size = path.name.split(".")[1]
        usage = cgroup.number(path.name)
        if usage is not None and not path.name.endswith(".rsvd.current"):
            refused = cgroup.fields(f"hugetlb.{size}.events").get("max", 0)
            limit = cgroup.number(f"hugetlb.{size}.max")
            found[size] = HugepageUse(usage, None if limit is None or limit >= NO_LIMIT else limit, refused)
    return found


def _pressure(cgroup: Cgroup, file: str) -> Pressures | None:
    """None where the kernel does not keep account of it: built without, or started with psi=0 (EOPNOTSUPP)."""
    try:
        return parse_pressure(cgroup.read(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise
