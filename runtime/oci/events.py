"""``events``: what the container uses, every now and then, and that it ran out of memory: one JSON object a line, runc's."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from kernel.cgroup import Cgroup
from kernel.fd import Fd, open_path
from runtime.container import statistics
from runtime.container.statistics import Amount, Pressure, Pressures
from runtime.errors import ContainerNotRunning, InvalidArgument, Unsupported
from runtime.oci.directory import STOPPED
from runtime.oci.flags import SWITCH, TEXT
from runtime.oci.request import Request

FLAGS = {"interval": TEXT, "stats": SWITCH}
USAGE = "[--interval DURATION] [--stats] ID"
#: What version 1 and Go have for "no limit".
UNLIMITED = 2**64 - 1
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)", re.ASCII)
#: runc's, of version 1 alone: always there, always nothing.
_CPUSET = (
    *("cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab"),
    *("memory_pressure", "sched_load_balance", "sched_relax_domain_level"),
)


def run(request: Request) -> int:
    request.check_count(1)
    interval = parse_duration(request.flags.text("interval", "5s"))
    with request.container(lock=False) as container:
        if container.status() == STOPPED:
            raise ContainerNotRunning(f"container with id {container.id} is not running")
        cgroup = container.cgroup
    if cgroup is None:
        raise Unsupported(f"events of container {container.id}: it has no cgroup of its own, in which anything would be counted")

    def tell(kind: str, data: dict[str, Any] | None = None) -> None:
        event = {"type": kind, "id": container.id, **({} if data is None else {"data": data})}
        sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    if request.flags.switch("stats"):
        tell("stats", as_runc(statistics.read(cgroup)))
    else:
        follow(cgroup, interval, tell)
    return 0


#: A year.
_LONGEST_SECONDS = 366 * 86_400


def parse_duration(text: str) -> float:
    """Seconds of a duration as Go writes it: "1m30s", "100ms".  Raises InvalidArgument."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.removeprefix("+"):
        raise InvalidArgument(f'invalid value "{text}" for flag -interval: not a duration such as 5s or 100ms')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds > _LONGEST_SECONDS:
        raise InvalidArgument(f'invalid value "{text[:80]}" for flag -interval: more than a year')
    if seconds <= 0:
        raise InvalidArgument("duration interval must be greater than 0")
    return seconds


def follow(cgroup: Cgroup, interval: float, tell: Callable[..., None]) -> None:
    """Tell of *cgroup* until nothing lives in it any more, or it is gone."""
    with ExitStack() as opened:
        poll = select.poll()
        changes = opened.enter_context(open_path(cgroup.path / "cgroup.events"))
        poll.register(changes.fileno(), select.POLLPRI)
        memory = _open_memory(cgroup)
        if memory is not None:
            opened.enter_context(memory)
            poll.register(memory.fileno(), select.POLLPRI)
        killed = _oom_kills(memory)
        due = time.monotonic() + interval
        while _is_populated(changes):
            poll.poll(max(0.0, due - time.monotonic()) * 1000)
            now_killed = _oom_kills(memory)
            for _ in range(now_killed - killed):
                tell("oom")
            killed = max(killed, now_killed)
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                try:
                    tell("stats", as_runc(statistics.read(cgroup)))
                except OSError:
                    return  # gone between two looks


def _open_memory(cgroup: Cgroup) -> Fd | None:
    try:
        return open_path(cgroup.path / "memory.events")
    except FileNotFoundError:
        return None


def _is_populated(changes: Fd) -> bool:
    try:
        return b"populated 1" in os.pread(changes.fileno(), 4096, 0)
    except OSError:  # ENODEV: removed
        return False


def _oom_kills(memory: Fd | None) -> int:
    """How many processes the kernel has killed for want of memory there."""
    if memory is None:
        return 0
    try:
        lines = os.pread(memory.fileno(), 4096, 0).decode().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def as_runc(use: statistics.Statistics) -> dict[str, Any]:
    """runc's types.Stats: what is zero is left out where runc leaves it out."""
    return {
        "cpu": _cpu(use.cpu),
        "cpuset": dict.fromkeys(_CPUSET, 0),
        "memory": _memory(use.memory),
        "pids": _present(current=use.pids.current, limit=use.pids.limit) if use.pids is not None else {},
        "blkio": _blkio(use.io),
        "hugetlb": {size: {**_present(usage=each.usage_bytes), "failcnt": each.refused} for size, each in use.hugepages.items()},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _cpu(cpu: statistics.CpuUse | None) -> dict[str, Any]:
    if cpu is None:
        return {}
    usage = {**_present(total=cpu.total_ns), "kernel": cpu.system_ns, "user": cpu.user_ns}
    throttling = _present(periods=cpu.periods, throttledPeriods=cpu.throttled_periods, throttledTime=cpu.throttled_ns)
    return _present(usage=usage, throttling=throttling, psi=_psi(cpu.pressure))


def _memory(memory: statistics.MemoryUse | None) -> dict[str, Any]:
    if memory is None:
        return {}
    plain = memory.memory
    swap = None
    if memory.swap is not None:  # version 1, and so runc, counts both together
        limits = (memory.swap.limit_bytes, plain.limit_bytes)
        both = None if limits[0] is None or limits[1] is None else limits[0] + limits[1]
        swap = _entry(Amount(memory.swap.usage_bytes + plain.usage_bytes, both, None), 0)
    return _present(
        cache=memory.details.get("file", 0),
        usage=_entry(plain, memory.events.get("max", 0)),
        swap=swap,
        raw=dict(memory.details),
        psi=_psi(memory.pressure),
    )


def _entry(amount: Amount, refused: int) -> dict[str, int]:
    limit = UNLIMITED if amount.limit_bytes is None else amount.limit_bytes
    return {"limit": limit, **_present(usage=amount.usage_bytes, max=amount.peak_bytes), "failcnt": refused}


def _blkio(io: statistics.IoUse | None) -> dict[str, Any]:
    if io is None:
        return {}
    return _present(
        ioServiceBytesRecursive=_operations(io, Read="rbytes", Write="wbytes", Discard="dbytes"),
        ioServicedRecursive=_operations(io, Read="rios", Write="wios", Discard="dios"),
        psi=_psi(io.pressure),
    )


def _operations(io: statistics.IoUse, **keys: str) -> list[dict[str, Any]]:
    return [
        _present(major=device.major, minor=device.minor, op=operation, value=device.counters[key])
        for device in io.devices
        for operation, key in keys.items()
        if key in device.counters
    ]


def _psi(pressures: Pressures | None) -> dict[str, Any] | None:
    if pressures is None:
        return None
    nothing = Pressure(0, 0, 0, 0)
    return {"some": _waited(pressures.some), "full": _waited(pressures.full or nothing)}


def _waited(pressure: Pressure) -> dict[str, float]:
    return {"avg10": pressure.avg10, "avg60": pressure.avg60, "avg300": pressure.avg300, "total": pressure.total_usec}


def _present(**fields: Any) -> dict[str, Any]:
    """Go's omitempty."""
    return {name: value for name, value in fields.items() if value}
