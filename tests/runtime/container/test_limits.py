"""What is written for which resource, exhaustively: no kernel is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.container.limits import io_weight_of, weight_of, writes
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema

Cpu, Memory, Resources = schema.Cpu, schema.Memory, schema.Resources

#: opencontainers/cgroups#20; the same in runc 1.3.2 and crun.
WEIGHTS = {
    2: 1, 10: 4, 100: 17, 128: 21, 256: 35, 512: 59, 1000: 99, 1024: 100, 2048: 174, 4096: 303, 10000: 627,
    100000: 4340, 262144: 10000,
}  # fmt: skip


def pairs(resources: schema.Resources) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in writes(resources)]


@pytest.mark.parametrize(("shares", "weight"), WEIGHTS.items())
def test_shares_become_weights_as_other_runtimes_have_them(shares: int, weight: int) -> None:
    assert weight_of(shares) == weight


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_weights_are_in_the_kernels_range_and_grow_with_shares(one: int, two: int) -> None:
    assert 1 <= weight_of(one) <= 10_000
    assert one > two or weight_of(one) <= weight_of(two)


@pytest.mark.parametrize(("old", "new"), [(10, 1), (100, 910), (500, 4950), (1000, 10_000)])
def test_blkio_weights_become_io_weights(old: int, new: int) -> None:
    assert io_weight_of(old) == new


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        (Resources(), []),
        (Resources(pids=schema.Pids()), []),
        (Resources(pids=schema.Pids(limit=100)), [("pids.max", "100")]),
        (Resources(pids=schema.Pids(limit=-1)), [("pids.max", "max")]),
        (Resources(pids=schema.Pids(limit=0)), [("pids.max", "1")]),
        (Resources(memory=Memory(limit=4096)), [("memory.max", "4096")]),
        (Resources(memory=Memory(limit=-1)), [("memory.max", "max")]),
        (Resources(memory=Memory(limit=0)), []),
        (Resources(memory=Memory(reservation=8192)), [("memory.low", "8192")]),
        (Resources(memory=Memory(reservation=-1)), [("memory.low", "max")]),
        (Resources(memory=Memory(limit=100, swap=100)), [("memory.max", "100"), ("memory.swap.max", "0")]),
        (Resources(memory=Memory(limit=100, swap=150)), [("memory.max", "100"), ("memory.swap.max", "50")]),
        (Resources(memory=Memory(limit=100, swap=-1)), [("memory.max", "100"), ("memory.swap.max", "max")]),
        (Resources(memory=Memory(limit=100, swap=0)), [("memory.max", "100")]),
        (Resources(memory=Memory(limit=-1, swap=0)), [("memory.max", "max"), ("memory.swap.max", "max")]),
        (Resources(memory=Memory(limit=-1, swap=7)), [("memory.max", "max"), ("memory.swap.max", "7")]),
        (Resources(memory=Memory(swap=-1)), [("memory.swap.max", "max")]),
        (Resources(memory=Memory(swap=0)), []),
        (Resources(memory=Memory(kernel=0, kernel_tcp=-1, disable_oom_killer=False, use_hierarchy=True)), []),
        (Resources(cpu=Cpu(shares=1024)), [("cpu.weight", "100")]),
        (Resources(cpu=Cpu(shares=0)), []),
        (Resources(cpu=Cpu(quota=50000, period=200000)), [("cpu.max", "50000 200000")]),
        (Resources(cpu=Cpu(quota=-1)), [("cpu.max", "max 100000")]),
        (Resources(cpu=Cpu(quota=0)), []),
        (Resources(cpu=Cpu(period=5000)), [("cpu.max", "max 5000")]),
        (Resources(cpu=Cpu(cpus="0-1", mems="0")), [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
        (Resources(cpu=Cpu(burst=10)), [("cpu.max.burst", "10")]),
        (
            Resources(cpu=Cpu(burst=10, quota=20)),
            [("cpu.max.burst", "10"), ("cpu.max", "20 100000"), ("cpu.max.burst", "10")],
        ),
        (Resources(cpu=Cpu(idle=1)), [("cpu.idle", "1")]),
        (Resources(cpu=Cpu(idle=1, shares=1024)), [("cpu.idle", "1")]),
        (Resources(cpu=Cpu(idle=0, shares=1024)), [("cpu.idle", "0"), ("cpu.weight", "100")]),
        (Resources(cpu=Cpu(realtime_runtime=0, realtime_period=0)), []),
        (
            Resources(hugepage_limits=[schema.HugepageLimit(page_size="2MB", limit=5)]),
            [("hugetlb.2MB.max", "5"), ("hugetlb.2MB.rsvd.max", "5")],
        ),
        (Resources(rdma={"mlx5_1": schema.Rdma(hca_handles=3)}), [("rdma.max", "mlx5_1 hca_handle=3")]),
        (
            Resources(rdma={"a": schema.Rdma(hca_handles=3, hca_objects=0), "b": schema.Rdma(hca_objects=9)}),
            [("rdma.max", "a hca_handle=3 hca_object=0"), ("rdma.max", "b hca_object=9")],
        ),
        (Resources(network=schema.Network()), []),
        (Resources(network=schema.Network(class_id=0)), []),
        (Resources(block_io=schema.BlockIo(weight=0)), []),
        (Resources(block_io=schema.BlockIo(weight=500)), [("io.bfq.weight", "500")]),
        (
            Resources(block_io=schema.BlockIo(weight=10, weight_device=[schema.WeightDevice(major=8, minor=0, weight=1000)])),
            [("io.bfq.weight", "10"), ("io.bfq.weight", "8:0 1000")],
        ),
        (
            Resources(
                block_io=schema.BlockIo(
                    throttle_read_bps_device=[schema.ThrottleDevice(major=8, minor=0, rate=1)],
                    throttle_write_bps_device=[schema.ThrottleDevice(major=8, minor=16, rate=0)],
                    throttle_read_iops_device=[schema.ThrottleDevice(major=8, minor=0, rate=3)],
                    throttle_write_iops_device=[schema.ThrottleDevice(major=259, minor=1, rate=4)],
                )
            ),
            [("io.max", "8:0 rbps=1"), ("io.max", "8:16 wbps=max"), ("io.max", "8:0 riops=3"), ("io.max", "259:1 wiops=4")],
        ),
        (Resources(unified={"memory.high": "max", "cpu.uclamp.min": "10"}), [("memory.high", "max"), ("cpu.uclamp.min", "10")]),
        (Resources(unified={"io.max": "8:0 rbps=1\n8:16 rbps=2\n"}), [("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")]),
        (Resources(unified={"cpuset.cpus": ""}), [("cpuset.cpus", "")]),
        (Resources(unified={"cgroup.max.depth": "3"}), [("cgroup.max.depth", "3")]),
        (Resources(pids=schema.Pids(limit=5), unified={"pids.max": "7"}), [("pids.max", "5"), ("pids.max", "7")]),
    ],
)  # fmt: skip
def test_what_is_asked_for_is_what_is_written(asked: schema.Resources, written: list[tuple[str, str]]) -> None:
    assert pairs(asked) == written


def test_the_order_is_runcs_and_unified_comes_last() -> None:
    everything = Resources(
        unified={"memory.high": "1"},
        rdma={"a": schema.Rdma(hca_handles=1)},
        hugepage_limits=[schema.HugepageLimit(page_size="1GB", limit=0)],
        cpu=Cpu(shares=2, cpus="0"),
        block_io=schema.BlockIo(weight=10),
        memory=Memory(limit=1),
        pids=schema.Pids(limit=1),
    )
    files = [file for file, _ in pairs(everything)]
    assert files == [
        "pids.max", "memory.max", "io.bfq.weight", "cpu.weight", "cpuset.cpus", "hugetlb.1GB.max", "hugetlb.1GB.rsvd.max",
        "rdma.max", "memory.high",
    ]  # fmt: skip


def test_a_burst_beside_a_quota_may_be_refused_the_first_time_only() -> None:
    written = writes(Resources(cpu=Cpu(burst=10, quota=20)))
    assert [write.is_attempt for write in written] == [True, False, False]


def test_what_is_not_there_is_written_elsewhere_or_left_only_where_that_limits_the_same() -> None:
    asked = Resources(
        block_io=schema.BlockIo(weight=1000),
        memory=Memory(limit=-1, swap=7),
        unified={"memory.high": "1"},
        hugepage_limits=[schema.HugepageLimit(page_size="2MB", limit=5)],
    )
    elsewhere = {write.file: write.instead for write in writes(asked)}
    (other,) = elsewhere.pop("io.bfq.weight") or ()
    assert (other.file, other.value, other.instead) == ("io.weight", "10000", None)
    assert elsewhere.pop("hugetlb.2MB.rsvd.max") == ()
    assert set(elsewhere.values()) == {None}
    free = {write.file: write.instead for write in writes(Resources(memory=Memory(limit=5, swap=5)))}
    assert free["memory.swap.max"] == ()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Resources(memory=Memory(swap=100)), r"memory\.swap: a limit of swap needs memory\.limit"),
        (Resources(memory=Memory(limit=100, swap=99)), r"memory\.swap: 99 is less than memory\.limit, which it includes: 100"),
        (Resources(cpu=Cpu(idle=2)), r"cpu\.idle: 2 is neither 0 nor 1"),
        (Resources(block_io=schema.BlockIo(weight=9)), r"blockIO\.weight: 9 is not between 10 and 1000"),
        (
            Resources(block_io=schema.BlockIo(weight_device=[schema.WeightDevice(major=8, minor=0, weight=1001)])),
            r"blockIO\.weightDevice\[0\]\.weight: 1001 is not between",
        ),
        (
            Resources(block_io=schema.BlockIo(throttle_read_iops_device=[schema.ThrottleDevice(major=-1, minor=0, rate=1)])),
            r"blockIO\.throttleReadIOPSDevice\[0\]\.major: -1 is below zero",
        ),
        (
            Resources(block_io=schema.BlockIo(throttle_write_bps_device=[schema.ThrottleDevice(major=1, minor=0, rate=-1)])),
            r"throttleWriteBpsDevice\[0\]\.rate: -1 is below zero",
        ),
        (Resources(hugepage_limits=[schema.HugepageLimit(page_size="../x", limit=1)]), r"hugepageLimits\[0\]\.pageSize: '../x'"),
        (Resources(hugepage_limits=[schema.HugepageLimit(page_size="2mb", limit=1)]), r"pageSize: '2mb' is no size"),
        (Resources(rdma={"a b": schema.Rdma(hca_handles=1)}), r"rdma\['a b'\]: not the name of a device"),
        (Resources(rdma={"a": schema.Rdma()}), r"rdma\['a'\]: needs hcaHandles or hcaObjects"),
        (Resources(rdma={"a": schema.Rdma(hca_objects=-1)}), r"rdma\['a'\]: needs .*, not below zero"),
        (Resources(unified={"NOT-A-VALID-KEY": "1"}), "the specified key has not the form CONTROLLER.VALUE `NOT-A-VALID-KEY`"),
        (Resources(unified={"../memory.max": "1"}), "has not the form"),
        (Resources(unified={"a/b.c": "1"}), "has not the form"),
        (Resources(unified={".max": "1"}), "has not the form"),
        (Resources(unified={"cgroup.procs": "1"}), "cgroup.procs is the runtime's own"),
        (Resources(unified={"cgroup.subtree_control": "+cpu"}), "is the runtime's own"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_field(asked: schema.Resources, message: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"^linux\.resources\..*{message}"):
        writes(asked)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Resources(memory=Memory(kernel=1)), "memory.kernel"),
        (Resources(memory=Memory(kernel_tcp=1)), "memory.kernelTCP"),
        (Resources(memory=Memory(swappiness=0)), "memory.swappiness"),
        (Resources(memory=Memory(disable_oom_killer=True)), "memory.disableOOMKiller"),
        (Resources(cpu=Cpu(realtime_runtime=1)), "cpu.realtimeRuntime"),
        (Resources(cpu=Cpu(realtime_period=1)), "cpu.realtimePeriod"),
        (Resources(block_io=schema.BlockIo(leaf_weight=10)), "blockIO.leafWeight"),
        (
            Resources(block_io=schema.BlockIo(weight_device=[schema.WeightDevice(major=1, minor=1, leaf_weight=10)])),
            "blockIO.weightDevice[0].leafWeight",
        ),
        (Resources(network=schema.Network(class_id=1)), "network.classID"),
        (Resources(network=schema.Network(priorities=[schema.NetworkPriority(name="eth0", priority=1)])), "network.priorities"),
    ],
)
def test_what_only_version_1_could_limit_is_refused_by_name(asked: schema.Resources, field: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        writes(asked)
    assert str(refusal.value).startswith(f"linux.resources.{field}: cgroup v2 has no such limit")
