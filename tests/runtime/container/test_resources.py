"""Resources as cgroup files, and what a node without controllers says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.cgroup import Cgroup, find_tree
from runtime.container import resources
from runtime.container.resources import files, weight_of
from runtime.errors import ControllerMissing, InvalidSpec
from runtime.spec import schema
from tests.support.requires import requires

#: opencontainers/cgroups#20; the same in runc 1.3.2 and crun.
WEIGHTS = {
    2: 1, 10: 4, 100: 17, 128: 21, 256: 35, 512: 59, 1000: 99, 1024: 100, 2048: 174, 4096: 303, 10000: 627,
    100000: 4340, 262144: 10000,
}  # fmt: skip


@pytest.mark.parametrize(("shares", "weight"), WEIGHTS.items())
def test_shares_become_weights_as_other_runtimes_have_them(shares: int, weight: int) -> None:
    assert weight_of(shares) == weight


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_weights_are_in_the_kernels_range_and_grow_with_shares(one: int, two: int) -> None:
    assert 1 <= weight_of(one) <= 10_000
    assert one > two or weight_of(one) <= weight_of(two)


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        (schema.Resources(), []),
        (schema.Resources(pids=schema.Pids(limit=100)), [("pids.max", "100")]),
        (schema.Resources(pids=schema.Pids(limit=-1)), [("pids.max", "max")]),
        (schema.Resources(pids=schema.Pids(limit=0)), [("pids.max", "0")]),
        (schema.Resources(memory=schema.Memory(limit=4096)), [("memory.max", "4096")]),
        (schema.Resources(memory=schema.Memory(limit=-1)), [("memory.max", "max")]),
        (schema.Resources(memory=schema.Memory(limit=0)), []),
        (schema.Resources(memory=schema.Memory(reservation=8192)), [("memory.low", "8192")]),
        (schema.Resources(memory=schema.Memory(limit=100, swap=100)), [("memory.max", "100"), ("memory.swap.max", "0")]),
        (schema.Resources(memory=schema.Memory(limit=100, swap=150)), [("memory.max", "100"), ("memory.swap.max", "50")]),
        (schema.Resources(memory=schema.Memory(limit=100, swap=-1)), [("memory.max", "100"), ("memory.swap.max", "max")]),
        (schema.Resources(cpu=schema.Cpu(shares=1024)), [("cpu.weight", "100")]),
        (schema.Resources(cpu=schema.Cpu(shares=0)), []),
        (schema.Resources(cpu=schema.Cpu(quota=50000, period=200000)), [("cpu.max", "50000 200000")]),
        (schema.Resources(cpu=schema.Cpu(quota=-1)), [("cpu.max", "max 100000")]),
        (schema.Resources(cpu=schema.Cpu(period=5000)), [("cpu.max", "max 5000")]),
        (schema.Resources(cpu=schema.Cpu(cpus="0-1", mems="0")), [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
        (schema.Resources(cpu=schema.Cpu(burst=10, idle=1)), [("cpu.max.burst", "10"), ("cpu.idle", "1")]),
        (
            schema.Resources(hugepage_limits=[schema.HugepageLimit(page_size="2MB", limit=5)]),
            [("hugetlb.2MB.max", "5"), ("hugetlb.2MB.rsvd.max", "5")],
        ),
    ],
)
def test_what_is_asked_for_is_what_is_written(asked: schema.Resources, written: list[tuple[str, str]]) -> None:
    assert files(asked) == written


def test_unified_comes_last_and_wins() -> None:
    asked = schema.Resources(pids=schema.Pids(limit=5), unified={"pids.max": "7"})
    assert files(asked) == [("pids.max", "5"), ("pids.max", "7")]


@pytest.mark.parametrize(
    "memory", [schema.Memory(swap=100), schema.Memory(limit=-1, swap=100), schema.Memory(limit=100, swap=99)]
)
def test_a_limit_of_swap_that_cannot_hold_is_refused(memory: schema.Memory) -> None:
    with pytest.raises(InvalidSpec, match=r"memory\.swap"):
        files(schema.Resources(memory=memory))


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(find_tree() / "kernelet-pods" / "container")
    made.create()
    yield made
    Cgroup(made.path.parent).remove()


@requires("root", "cgroup2")
def test_a_controller_that_the_node_lacks_is_named_and_nothing_is_written(group: Cgroup) -> None:
    tree = find_tree()
    missing = next(name for name in ("memory", "pids", "cpu", "rdma", "nonesuch") if name not in Cgroup(tree).controllers())
    with pytest.raises(ControllerMissing, match=f"does not have the {missing} controller"):
        resources.apply(group, tree, schema.Resources(unified={f"{missing}.max": "1"}))
    assert group.processes() == []


@requires("root", "cgroup2", "controllers hugetlb")
def test_limits_are_written_and_controllers_handed_down(group: Cgroup) -> None:
    limit = schema.HugepageLimit(page_size="2MB", limit=1 << 21)
    resources.apply(group, find_tree(), schema.Resources(hugepage_limits=[limit]))
    assert group.read("hugetlb.2MB.max") == f"{1 << 21}\n"
    assert "hugetlb" in Cgroup(group.path.parent).read("cgroup.subtree_control")


@requires("root", "cgroup2", "controllers hugetlb")
def test_a_file_that_there_is_not_and_a_value_that_is_none(group: Cgroup) -> None:
    tree = find_tree()
    with pytest.raises(ControllerMissing, match=r"hugetlb\.3MB\.max=1: this kernel's cgroup v2 has no"):
        resources.apply(group, tree, schema.Resources(unified={"hugetlb.3MB.max": "1"}))
    with pytest.raises(OSError, match="writing 'plenty'"):
        resources.apply(group, tree, schema.Resources(unified={"hugetlb.2MB.max": "plenty"}))


@requires("root", "cgroup2")
@pytest.mark.parametrize("name", ["../cgroup.procs", "cgroup/x", "/etc/passwd", "cgroup.procs", "cgroup.kill"])
def test_a_unified_file_is_a_name_and_no_path(group: Cgroup, name: str) -> None:
    with pytest.raises((InvalidSpec, ControllerMissing)):
        resources.apply(group, find_tree(), schema.Resources(unified={name: "0"}))


def test_nothing_asked_for_is_nothing_done() -> None:
    resources.apply(Cgroup(Path("/nonexistent")), Path("/nonexistent"), None)
