"""update: what is asked for, laid over what holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup, find_tree
from runtime.container import statistics
from runtime.container.limits import writes
from runtime.errors import InvalidArgument, InvalidSpec
from runtime.oci import update
from runtime.oci.flags import parse
from runtime.oci.update import FLAGS, from_flags, load, merge, only
from runtime.spec.schema import (
    BlockIo,
    Cpu,
    DeviceRule,
    HugepageLimit,
    Memory,
    Pids,
    Resources,
    ThrottleDevice,
)
from tests.support.oci import CommandLine
from tests.support.requires import requires


def asked(*words: str) -> Resources:
    return from_flags(parse(FLAGS, list(words)))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], Resources()),
        (["--memory", "64m"], Resources(memory=Memory(limit=64 << 20))),
        (["--memory=1.5GiB", "--memory-swap", "-1"], Resources(memory=Memory(limit=3 << 29, swap=-1))),
        (["--memory", "4096", "--memory-reservation", "2kb"], Resources(memory=Memory(limit=4096, reservation=2048))),
        (["--kernel-memory", "1T", "--kernel-memory-tcp", "1p"], Resources(memory=Memory(kernel=1 << 40, kernel_tcp=1 << 50))),
        (["--cpu-quota", "-1", "--cpu-period", "1000"], Resources(cpu=Cpu(quota=-1, period=1000))),
        (["--cpu-share", "10", "--cpu-burst", "5", "--cpu-idle", "1"], Resources(cpu=Cpu(shares=10, burst=5, idle=1))),
        (["--cpu-rt-period", "7", "--cpu-rt-runtime", "-3"], Resources(cpu=Cpu(realtime_period=7, realtime_runtime=-3))),
        (["--cpuset-cpus", "0-1", "--cpuset-mems", "0"], Resources(cpu=Cpu(cpus="0-1", mems="0"))),
        (["--pids-limit", "-1"], Resources(pids=Pids(limit=-1))),
        (["--pids-limit", "0"], Resources(pids=Pids(limit=0))),
        (["--blkio-weight", "500"], Resources(block_io=BlockIo(weight=500))),
    ],
)
def test_flags_are_resources(words: list[str], found: Resources) -> None:
    assert asked(*words) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "much"], "invalid value for memory: .much. is not a size"),
        (["--memory", "-2"], "invalid value for memory"),
        (["--memory", "1.m"], "invalid value for memory"),
        (["--cpu-share", "-1"], "invalid value for cpu-share"),
        (["--cpu-idle", "x"], "invalid value for cpu-idle"),
        (["--pids-limit", "1.5"], "invalid value for pids-limit"),
        (["--cpu-period", "٣"], "invalid value for cpu-period"),
    ],
)
def test_what_is_no_value_is_refused_by_its_flag(words: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        asked(*words)


def written(before: Resources, change: Resources) -> list[tuple[str, str]]:
    """What an update writes."""
    return [(write.file, write.value) for write in writes(only(merge(before, change), change))]


BEFORE = Resources(
    memory=Memory(limit=100, swap=150, reservation=50),
    cpu=Cpu(shares=1024, quota=5000, period=10_000, cpus="0"),
    pids=Pids(limit=20),
    unified={"memory.high": "90"},
)


@pytest.mark.parametrize(
    ("change", "files"),
    [
        (Resources(), []),
        (Resources(cpu=Cpu(period=20_000)), [("cpu.max", "5000 20000")]),
        (Resources(cpu=Cpu(quota=-1)), [("cpu.max", "max 10000")]),
        (Resources(cpu=Cpu(cpus="1")), [("cpuset.cpus", "1")]),
        (Resources(cpu=Cpu(shares=2)), [("cpu.weight", "1")]),
        (Resources(cpu=Cpu(idle=1)), [("cpu.idle", "1")]),
        (Resources(cpu=Cpu(idle=0)), [("cpu.idle", "0"), ("cpu.weight", "100")]),
        (Resources(memory=Memory(limit=120)), [("memory.max", "120"), ("memory.swap.max", "30")]),
        (Resources(memory=Memory(swap=100)), [("memory.max", "100"), ("memory.swap.max", "0")]),
        (Resources(memory=Memory(limit=-1)), [("memory.max", "max"), ("memory.swap.max", "max")]),
        (Resources(memory=Memory(reservation=60)), [("memory.low", "60")]),
        (Resources(pids=Pids(limit=-1)), [("pids.max", "max")]),
        (Resources(unified={"pids.max": "9"}), [("pids.max", "9")]),
        (
            Resources(block_io=BlockIo(throttle_read_bps_device=[ThrottleDevice(major=8, minor=0, rate=7)])),
            [("io.max", "8:0 rbps=7")],
        ),
    ],
)
def test_what_is_written_is_what_is_asked_and_what_goes_with_it(change: Resources, files: list[tuple[str, str]]) -> None:
    assert written(BEFORE, change) == files


def test_one_update_is_laid_over_the_other() -> None:
    once = merge(BEFORE, Resources(cpu=Cpu(quota=7000), unified={"memory.low": "1"}))
    assert written(once, Resources(cpu=Cpu(period=9000))) == [("cpu.max", "7000 9000")]
    assert once.unified == {"memory.high": "90", "memory.low": "1"}
    idle = merge(BEFORE, Resources(cpu=Cpu(idle=1)))
    assert written(idle, Resources(cpu=Cpu(shares=2))) == [("cpu.idle", "1")]  # an idle group has no weight
    assert written(merge(idle, Resources(cpu=Cpu(shares=2))), Resources(cpu=Cpu(idle=0))) == [
        ("cpu.idle", "0"),
        ("cpu.weight", "1"),
    ]


def test_of_one_device_or_size_the_last_word_counts() -> None:
    def throttles(*pairs: tuple[int, int]) -> Resources:
        found = [ThrottleDevice(major=8, minor=minor, rate=rate) for minor, rate in pairs]
        return Resources(block_io=BlockIo(throttle_write_bps_device=found))

    after = merge(throttles((0, 1), (0, 2), (1, 3)), throttles((1, 4), (2, 5)))
    assert after == throttles((0, 2), (1, 4), (2, 5))
    sizes = merge(
        Resources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=1)]),
        Resources(hugepage_limits=[HugepageLimit(page_size="1GB", limit=2), HugepageLimit(page_size="2MB", limit=3)]),
    )
    assert [(each.page_size, each.limit) for each in sizes.hugepage_limits] == [("2MB", 3), ("1GB", 2)]


def test_rules_of_devices_take_the_place_of_others_and_a_check_is_for_one_time() -> None:
    first = Resources(devices=[DeviceRule(allow=False)], memory=Memory(limit=1, check_before_update=True))
    again = merge(first, Resources(devices=[DeviceRule(allow=True)], memory=Memory(limit=2)))
    assert again.devices == [DeviceRule(allow=True)]
    assert again.memory == Memory(limit=2)


def test_a_document_is_read_and_its_faults_are_named(tmp_path: Path) -> None:
    file = tmp_path / "resources.json"
    file.write_text('{"pids": {"limit": 3}, "unknown": 1}')
    assert load(str(file)) == Resources(pids=Pids(limit=3))
    file.write_text('{"pids": {"limit": "many"}}')
    with pytest.raises(InvalidSpec, match=r"--resources .*resources.json: .*pids.limit"):
        load(str(file))
    with pytest.raises(FileNotFoundError):
        load(str(tmp_path / "nothing"))


# On the kernel.

HUGE = "hugepageLimits"


@pytest.fixture
def group() -> Cgroup:
    return Cgroup(find_tree() / "kernelet-oci/web")


@requires("controllers hugetlb")
def test_a_running_container_has_other_limits_from_now_on(oci: CommandLine, group: Cgroup) -> None:
    oci.call("run", "--detach", "web")
    oci.call("update", "--resources", "-", "web", given=json.dumps({HUGE: [{"pageSize": "2MB", "limit": 4 << 20}]}))
    assert group.number("hugetlb.2MB.max") == 4 << 20
    (oci.bundle / "limits.json").write_text(json.dumps({"unified": {"hugetlb.2MB.max": str(6 << 20)}}))
    oci.call("pause", "web")
    oci.call("update", "-r", "limits.json", "web")
    assert group.number("hugetlb.2MB.max") == 6 << 20
    assert oci.state("web")["status"] == "paused"
    oci.call("update", "web")  # nothing asked is nothing done


@requires("controllers memory pids cpu")
def test_flags_reach_the_kernel_and_keep_what_they_do_not_name(oci: CommandLine, group: Cgroup) -> None:
    limits = {"cpu": {"quota": 50_000, "period": 100_000, "shares": 1024}, "memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    oci.configure("sleep", "1000", change=lambda config: config["linux"]["resources"].update(limits))
    oci.call("run", "--detach", "web")
    oci.call("update", "--cpu-period", "200000", "--memory", "32m", "web")
    assert group.read("cpu.max") == "50000 200000\n"
    assert group.number("memory.max") == 32 << 20
    oci.call("update", "--cpu-quota", "-1", "--pids-limit", "-1", "--cpu-burst", "0", "web")
    assert group.read("cpu.max") == "max 200000\n"
    assert (group.number("pids.max"), group.number("cpu.weight")) == (None, 100)
    oci.call("update", "--cpu-idle", "1", "web")
    oci.call("update", "--cpu-share", "2048", "web")
    oci.call("update", "--cpu-idle", "0", "web")
    assert (group.number("cpu.idle"), group.number("cpu.weight")) == (0, 174)
    said = oci.refusal("update", "-r", "-", "web", given='{"memory": {"limit": 1024, "checkBeforeUpdate": true}}')
    assert "rejecting memory limit 1024" in said


@requires("controllers hugetlb")
@pytest.mark.parametrize("had", [[], [{"pageSize": "2MB", "limit": 4 << 20}]], ids=["without a limit", "with one"])
def test_what_fails_half_way_is_taken_back(oci: CommandLine, group: Cgroup, had: list[dict[str, object]]) -> None:
    oci.configure("sleep", "1000", change=lambda config: config["linux"]["resources"].update({HUGE: had}))
    oci.call("run", "--detach", "web")
    before = statistics.read(group).hugepages["2MB"].limit_bytes
    wanted = {HUGE: [{"pageSize": "2MB", "limit": 6 << 20}, {"pageSize": "3MB", "limit": 1}]}
    said = oci.refusal("update", "-r", "-", "web", given=json.dumps(wanted))
    assert "linux.resources.hugepageLimits[1]: hugetlb.3MB.max=1: no such file or directory" in said
    assert statistics.read(group).hugepages["2MB"].limit_bytes == before == (had[0]["limit"] if had else None)


def test_rules_of_devices_change_while_it_runs(oci: CommandLine) -> None:
    oci.configure("sh", "-c", "mknod /tmp/fuse c 10 229; sleep 1000", change=allow_mknod)
    oci.call("run", "--detach", "web")
    assert "Operation not permitted" in open_node(oci)
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"}]
    oci.call("update", "-r", "-", "web", given=json.dumps({"devices": rules}))
    assert "Operation not permitted" not in open_node(oci)  # whether there is a driver or not


def allow_mknod(config: dict[str, object]) -> None:
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind].append("CAP_MKNOD")  # type: ignore[index]


def open_node(oci: CommandLine) -> str:
    done = oci.call("exec", "web", "sh", "-c", "exec 3< /tmp/fuse && echo opened", may_fail=True)
    return done.stdout + done.stderr


def test_a_controller_that_is_not_there_and_a_container_that_is_not_are_named(oci: CommandLine) -> None:
    missing = next(name for name in ("pids", "rdma", "memory") if name not in Cgroup(find_tree()).controllers())
    oci.call("create", "web")
    document = json.dumps({"unified": {f"{missing}.max": "1"}})
    said = oci.refusal("update", "-r", "-", "web", given=document)
    assert f"the requested cgroup controller `{missing}` is not available" in said
    assert "existent Intel RDT" in oci.refusal("update", "--l3-cache-schema", "L3:0=f", "web")
    oci.call("kill", "web", "KILL")
    assert "container does not exist" in oci.refusal("update", "--pids-limit", "1", "nobody")


def test_the_record_is_what_the_next_update_is_laid_over(oci: CommandLine) -> None:
    oci.call("create", "web")
    record = oci.root / "web/state.json"
    oci.call("update", "-r", "-", "web", given='{"unified": {"cgroup.max.depth": "3"}}')
    assert json.loads(json.loads(record.read_text())["extra"][update.RECORDED])["unified"] == {"cgroup.max.depth": "3"}
    oci.call("update", "-r", "-", "web", given='{"unified": {"cgroup.max.descendants": "4"}}')
    held = json.loads(json.loads(record.read_text())["extra"][update.RECORDED])["unified"]
    assert held == {"cgroup.max.depth": "3", "cgroup.max.descendants": "4"}
