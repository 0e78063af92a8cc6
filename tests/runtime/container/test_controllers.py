"""Limits that need controllers: a kernel that has them takes what is written, in the order in which it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kernel.cgroup import Cgroup, find_tree
from runtime.container import resources, statistics
from runtime.errors import InvalidSpec
from runtime.spec.schema import Cpu, Memory, Pids, Resources
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2")


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(find_tree() / "limited" / "container")
    made.create()
    yield made
    Cgroup(made.path.parent).remove()


def limit(group: Cgroup, wanted: Resources) -> None:
    resources.apply(group, find_tree(), wanted)


@requires("controllers cpu")
def test_a_burst_and_its_quota_change_in_either_direction(group: Cgroup) -> None:
    for quota, burst in ((10_000, 10_000), (20_000, 15_000), (5_000, 1_000), (5_000, 0), (50_000, 50_000)):
        limit(group, Resources(cpu=Cpu(quota=quota, period=100_000, burst=burst)))
        assert group.read("cpu.max").split() == [str(quota), "100000"]
        assert group.number("cpu.max.burst") == burst
    limit(group, Resources(cpu=Cpu(burst=0, quota=-1)))
    assert group.read("cpu.max").split() == ["max", "100000"]


@requires("controllers cpu")
def test_an_idle_group_has_no_weight_until_it_is_idle_no_more(group: Cgroup) -> None:
    limit(group, Resources(cpu=Cpu(shares=2048)))
    assert group.number("cpu.weight") == 174
    limit(group, Resources(cpu=Cpu(idle=1, shares=2048)))
    assert group.number("cpu.idle") == 1
    limit(group, Resources(cpu=Cpu(idle=1, shares=10)))
    limit(group, Resources(cpu=Cpu(idle=0, shares=2048)))
    assert (group.number("cpu.idle"), group.number("cpu.weight")) == (0, 174)


@requires("controllers memory")
def test_memory_and_swap_are_what_the_sum_means(group: Cgroup) -> None:
    limit(group, Resources(memory=Memory(limit=64 << 20, swap=96 << 20, reservation=32 << 20)))
    assert group.number("memory.max") == 64 << 20
    assert group.number("memory.low") == 32 << 20
    if (group.path / "memory.swap.max").exists():
        assert group.number("memory.swap.max") == 32 << 20
    limit(group, Resources(memory=Memory(limit=-1, swap=0)))
    assert group.number("memory.max") is None


@requires("controllers memory")
def test_a_limit_below_what_is_used_is_refused_if_asked_and_kills_if_not(group: Cgroup) -> None:
    limit(group, Resources(memory=Memory(limit=256 << 20), unified={"memory.swap.max": "0"}))

    def hold() -> str:
        group.write("cgroup.procs", "0")
        held = bytearray(64 << 20)
        held[::4096] = b"x" * len(held[::4096])
        with pytest.raises(InvalidSpec, match=r"rejecting memory limit 1048576: \d+ bytes are used already"):
            limit(group, Resources(memory=Memory(limit=1 << 20, check_before_update=True)))
        assert group.number("memory.max") == 256 << 20
        limit(group, Resources(memory=Memory(limit=1 << 20)))
        held[::4096] = b"y" * len(held[::4096])
        return "survived"

    with pytest.raises(AssertionError, match="ended without an answer"):
        child.run(hold)
    assert group.fields("memory.events")["oom_kill"] > 0


@requires("controllers pids")
@pytest.mark.parametrize("wanted", [0, 1])
def test_where_no_process_is_allowed_one_is_and_it_cannot_fork(group: Cgroup, wanted: int) -> None:
    limit(group, Resources(pids=Pids(limit=wanted)))
    assert group.number("pids.max") == 1

    def fork() -> str:
        group.write("cgroup.procs", "0")
        try:
            os.fork()
        except BlockingIOError:
            return "refused"
        return "forked"

    assert child.run(fork) == "refused"
    limit(group, Resources(pids=Pids(limit=-1)))
    assert group.number("pids.max") is None


@requires("controllers memory pids")
def test_what_is_not_limited_is_counted_all_the_same(group: Cgroup) -> None:
    limit(group, Resources())

    def look() -> statistics.Statistics:
        group.write("cgroup.procs", "0")
        return statistics.read(group)

    use = child.run(look)
    assert use.pids is not None
    assert use.pids.current >= 1
    assert use.memory is not None
    assert use.memory.memory.limit_bytes is None


@requires("controllers memory")
def test_unified_has_the_last_word(group: Cgroup) -> None:
    limit(group, Resources(memory=Memory(limit=64 << 20), unified={"memory.max": "32M", "memory.oom.group": "1"}))
    assert group.number("memory.max") == 32 << 20
    assert group.number("memory.oom.group") == 1
