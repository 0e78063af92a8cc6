"""Limits as systemd's properties: the same amounts, a quota never less than asked for."""

from __future__ import annotations

import pytest

from runtime.cgroups import properties
from runtime.cgroups.message import Variant
from runtime.cgroups.properties import INFINITY
from runtime.container.limits import Write, writes
from runtime.spec import schema

MIB = 1 << 20


def of(**fields: object) -> dict[str, object]:
    found = properties.of(writes(schema.Resources(**fields)))  # type: ignore[arg-type]
    return {name: variant.value for name, variant in found}


def test_every_group_of_limits_that_systemd_knows() -> None:
    found = of(
        memory=schema.Memory(limit=64 * MIB, swap=96 * MIB, reservation=MIB),
        cpu=schema.Cpu(shares=1024, quota=50_000, period=100_000, cpus="0-2,9", mems="0"),
        pids=schema.Pids(limit=10),
        block_io=schema.BlockIo(weight=1000),
        unified={"memory.high": "32M", "memory.min": "0", "io.weight": "default 300", "hugetlb.2MB.max": "0"},
    )
    assert found == {
        "MemoryMax": 64 * MIB,
        "MemorySwapMax": 32 * MIB,
        "MemoryLow": MIB,
        "MemoryHigh": 32 * MIB,
        "MemoryMin": 0,
        "CPUWeight": 100,
        "CPUQuotaPerSecUSec": 500_000,
        "CPUQuotaPeriodUSec": 100_000,
        "AllowedCPUs": b"\x07\x02",
        "AllowedMemoryNodes": b"\x01",
        "TasksMax": 10,
        "IOWeight": 300,
    }


@pytest.mark.parametrize(
    ("quota", "period", "share"),
    [(10_000, 100_000, 100_000), (12_345, 50_000, 250_000), (1, 100_000, 10_000), (250_000, 100_000, 2_500_000)],
)
def test_a_quota_is_rounded_up_to_what_systemd_keeps(quota: int, period: int, share: int) -> None:
    found = of(cpu=schema.Cpu(quota=quota, period=period))
    assert found == {"CPUQuotaPerSecUSec": share, "CPUQuotaPeriodUSec": period}


def test_no_limit_is_infinity() -> None:
    found = of(memory=schema.Memory(limit=-1, swap=-1), cpu=schema.Cpu(quota=-1), pids=schema.Pids(limit=-1))
    assert set(found) == {"MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "TasksMax"}
    assert {value for name, value in found.items() if name != "CPUQuotaPeriodUSec"} == {INFINITY}


def test_an_idle_group_has_the_weight_that_systemd_calls_so() -> None:
    assert of(cpu=schema.Cpu(idle=1, shares=1024)) == {"CPUWeight": 0}
    assert of(cpu=schema.Cpu(idle=0)) == {}


@pytest.mark.parametrize(
    ("file", "value"),
    [("memory.max", "much"), ("memory.max", "-1"), ("cpu.max", "a b"), ("cpuset.cpus", "3-1"), ("cpuset.cpus", "0-99999999")],
)
def test_what_the_kernel_will_refuse_is_no_property(file: str, value: str) -> None:
    assert properties.of([Write(file, value, file)]) == []


def test_the_later_of_two_writes_counts_as_in_the_file() -> None:
    written = [Write("pids.max", "7", "pids.limit"), Write("pids.max", "9", "unified")]
    assert properties.of(written) == [("TasksMax", Variant("t", 9))]
