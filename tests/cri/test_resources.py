"""Limits: zero means "not given", and swap counts memory too."""

from __future__ import annotations

from typing import Any

import pytest

from cri.api import api_pb2 as api
from cri.resources import added, resources
from runtime.errors import InvalidArgument
from runtime.spec import schema


def of(**fields: Any) -> schema.Resources:
    return resources(api.LinuxContainerResources(**fields))


def test_nothing_given_is_nothing_asked() -> None:
    assert of() == schema.Resources()


def test_cpu() -> None:
    wish = of(cpu_shares=512, cpu_quota=-1, cpu_period=100000, cpuset_cpus="0-1", cpuset_mems="0")
    assert wish.cpu == schema.Cpu(shares=512, quota=-1, period=100000, cpus="0-1", mems="0")


@pytest.mark.parametrize(
    ("limit", "swap", "expected"),
    [
        (1 << 20, 0, schema.Memory(limit=1 << 20, swap=1 << 20)),  # no word about swap: none
        (1 << 20, 1 << 20, schema.Memory(limit=1 << 20, swap=1 << 20)),
        (1 << 20, 3 << 20, schema.Memory(limit=1 << 20, swap=3 << 20)),
        (1 << 20, -1, schema.Memory(limit=1 << 20, swap=-1)),
        (0, -1, schema.Memory(swap=-1)),
        (-1, 0, schema.Memory(limit=-1)),
        (0, 0, None),
    ],
)
def test_memory_and_swap(limit: int, swap: int, expected: schema.Memory | None) -> None:
    assert of(memory_limit_in_bytes=limit, memory_swap_limit_in_bytes=swap).memory == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_swap_limit_in_bytes": 5},
        {"memory_limit_in_bytes": 5, "memory_swap_limit_in_bytes": 4},
        {"memory_limit_in_bytes": -2},
        {"cpu_shares": -1},
        {"cpu_quota": -2},
    ],
)
def test_contradictions_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match=r"^resources: "):
        of(**fields)


def test_huge_pages_and_unified_pass_as_they_are() -> None:
    wish = of(hugepage_limits=[api.HugepageLimit(page_size="2MB", limit=0)], unified={"memory.oom.group": "1"})
    assert wish.hugepage_limits == [schema.HugepageLimit(page_size="2MB", limit=0)]
    assert wish.unified == {"memory.oom.group": "1"}


def test_sums_that_nothing_can_hold_are_refused() -> None:
    most = (1 << 63) - 1
    for field in ("memory_limit_in_bytes", "cpu_shares", "cpu_quota"):
        one, other = (api.LinuxContainerResources(**{field: value}) for value in (most, 7))
        with pytest.raises(InvalidArgument, match=f"{field}: together"):
            added(one, other)
