"""Limits as properties of a systemd unit (systemd.resource-control(5)): pure.

They are written to the cgroup's files as well, by us: systemd knows not all of them, and rounds some.  That it knows those
it does is what keeps them: when it looks at its units again (daemon-reload) it writes what it knows over what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from runtime.cgroups.message import Variant
from runtime.container.limits import DEFAULT_PERIOD, Write

Property = tuple[str, Variant]
Properties = list[Property]

INFINITY = 2**64 - 1
_SECOND_US = 1_000_000
#: It keeps a quota as hundredths of a CPU: what is finer is rounded up to that, so that no less is had than was asked for.
_FINEST_US = 10_000
_SUFFIXES = {"K": 10, "M": 20, "G": 30, "T": 40}


def of(writes: Iterable[Write]) -> Properties:
    """The properties for *writes* to a cgroup's files, in order; those that systemd has no property for are left out."""
    found: dict[str, Variant] = {}
    for write in writes:
        converted = _CONVERSIONS.get(write.file)
        if converted is not None:
            found.update(converted(write.value))
    return list(found.items())


def _amount(name: str) -> Callable[[str], dict[str, Variant]]:
    """A file that holds a number, or "max"."""

    def convert(value: str) -> dict[str, Variant]:
        number = _number(value)
        return {} if number is None else {name: Variant("t", number)}

    return convert


def _number(value: str) -> int | None:
    """As the kernel reads it, with its suffixes; None for what it would refuse, too."""
    text = value.strip()
    if text == "max":
        return INFINITY
    shift = _SUFFIXES.get(text[-1:].upper(), 0)
    digits = text[:-1] if shift else text
    return int(digits) << shift if digits.isascii() and digits.isdigit() and len(digits) < 20 else None


def _quota(value: str) -> dict[str, Variant]:
    quota, _, rest = value.strip().partition(" ")
    period = _number(rest) if rest else DEFAULT_PERIOD
    amount = _number(quota)
    if amount is None or not period:
        return {}
    share = amount
    if amount != INFINITY:
        share = -(-amount * _SECOND_US // (period * _FINEST_US)) * _FINEST_US
    return {"CPUQuotaPerSecUSec": Variant("t", share), "CPUQuotaPeriodUSec": Variant("t", period)}


def _idle(value: str) -> dict[str, Variant]:
    return {"CPUWeight": Variant("t", 0)} if value.strip() == "1" else {}


def _io_weight(value: str) -> dict[str, Variant]:
    """The weight of all devices; that of one is in the file alone."""
    words = value.split()
    number = _number(words[-1]) if words and (len(words) == 1 or words[0] == "default") else None
    return {} if number is None else {"IOWeight": Variant("t", number)}


def _set(name: str) -> Callable[[str], dict[str, Variant]]:
    """A list of numbers, "0-3,7", as the bits of bytes."""

    def convert(value: str) -> dict[str, Variant]:
        bits = 0
        for part in filter(None, value.strip().split(",")):
            first, _, last = part.partition("-")
            low, high = _number(first), _number(last or first)
            if low is None or high is None or not low <= high < 1 << 16:
                return {}
            bits |= (1 << (high + 1)) - (1 << low)
        return {name: Variant("ay", bits.to_bytes((bits.bit_length() + 7) // 8, "little"))}

    return convert


_CONVERSIONS: dict[str, Callable[[str], dict[str, Variant]]] = {
    "cpu.weight": _amount("CPUWeight"),
    "cpu.idle": _idle,
    "cpu.max": _quota,
    "cpuset.cpus": _set("AllowedCPUs"),
    "cpuset.mems": _set("AllowedMemoryNodes"),
    "memory.min": _amount("MemoryMin"),
    "memory.low": _amount("MemoryLow"),
    "memory.high": _amount("MemoryHigh"),
    "memory.max": _amount("MemoryMax"),
    "memory.swap.max": _amount("MemorySwapMax"),
    "io.weight": _io_weight,
    "pids.max": _amount("TasksMax"),
}
