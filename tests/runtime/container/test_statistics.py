"""A cgroup's figures: from a real one, and from files as a kernel with every controller writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup, find_tree
from runtime.container import resources, statistics
from runtime.container.statistics import DeviceUse, HugepageUse, PidsUse, Pressure, parse_io, parse_pressure
from tests.support import child
from tests.support.requires import requires

PRESSURE = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=99\n"

#: Of a kernel with all controllers (Linux 6.1, a container of a build).
FILES = {
    "cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma\n",
    "cpu.stat": "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 5\nnr_throttled 2\nthrottled_usec 11\nnr_bursts 0\n",
    "cpu.pressure": PRESSURE,
    "memory.current": "104857600\n",
    "memory.max": "209715200\n",
    "memory.peak": "150000000\n",
    "memory.swap.current": "4096\n",
    "memory.swap.max": "max\n",
    "memory.stat": "anon 50000\nfile 40000000\ninactive_file 30000000\nactive_file 10000000\n",
    "memory.events": "low 0\nhigh 0\nmax 17\noom 2\noom_kill 1\noom_group_kill 0\n",
    "memory.pressure": PRESSURE,
    "pids.current": "12\n",
    "pids.max": "max\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n253:0 rbytes=9 wbytes=0 rios=1\n",
    "io.pressure": PRESSURE.splitlines()[0] + "\n",
    "hugetlb.2MB.current": "4194304\n",
    "hugetlb.2MB.max": "8388608\n",
    "hugetlb.2MB.events": "max 3\n",
    "hugetlb.2MB.rsvd.current": "0\n",
    "hugetlb.1GB.current": "0\n",
    "hugetlb.1GB.max": "max\n",
}


@pytest.fixture
def drawn(tmp_path: Path) -> Cgroup:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return Cgroup(tmp_path)


def test_every_file_is_read_for_what_it_says(drawn: Cgroup) -> None:
    use = statistics.read(drawn)
    assert use.cpu is not None
    assert (use.cpu.total_ns, use.cpu.user_ns, use.cpu.system_ns) == (7000, 4000, 3000)
    assert (use.cpu.periods, use.cpu.throttled_periods, use.cpu.throttled_ns) == (5, 2, 11_000)
    assert use.memory is not None
    assert (use.memory.memory.usage_bytes, use.memory.memory.limit_bytes, use.memory.memory.peak_bytes) == (
        104_857_600, 209_715_200, 150_000_000,
    )  # fmt: skip
    assert use.memory.swap == statistics.Amount(4096, None, None)
    assert use.memory.working_set_bytes == 104_857_600 - 30_000_000
    assert (use.memory.events["max"], use.memory.events["oom_kill"]) == (17, 1)
    assert use.pids == PidsUse(12, None)
    assert use.io is not None
    assert [(device.major, device.minor, device.counters["rbytes"]) for device in use.io.devices] == [(8, 0, 1), (253, 0, 9)]
    assert use.hugepages == {"1GB": HugepageUse(0, None, 0), "2MB": HugepageUse(4_194_304, 8_388_608, 3)}


def test_pressure_is_some_and_perhaps_full(drawn: Cgroup) -> None:
    use = statistics.read(drawn)
    assert use.cpu is not None
    assert use.cpu.pressure is not None
    assert use.cpu.pressure.some == Pressure(1.5, 0.25, 0.0, 1234)
    assert use.cpu.pressure.full == Pressure(0.1, 0.0, 0.0, 99)
    assert use.io is not None
    assert use.io.pressure is not None
    assert use.io.pressure.full is None
    assert parse_pressure("") is None


def test_a_working_set_is_never_below_nothing(drawn: Cgroup) -> None:
    (drawn.path / "memory.current").write_text("1000\n")
    memory = statistics.read(drawn).memory
    assert memory is not None
    assert memory.working_set_bytes == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("8:0 rbytes=1\n", (DeviceUse(8, 0, {"rbytes": 1}),)),
        ("8:0 \n", ()),
        ("(unknown) rbytes=1\n", ()),
        ("8:0 rbytes=1 cost.vrate=99.5 cost.usage=3\n", (DeviceUse(8, 0, {"rbytes": 1, "cost.usage": 3}),)),
    ],
)
def test_lines_of_io_that_name_no_device_or_no_figure_are_left_out(text: str, found: tuple[DeviceUse, ...]) -> None:
    assert parse_io(text) == found


def test_what_is_not_counted_is_none(drawn: Cgroup) -> None:
    (drawn.path / "cgroup.controllers").write_text("\n")
    for name in ("cpu.stat", "cpu.pressure", "io.pressure"):
        (drawn.path / name).unlink()
    assert statistics.read(drawn) == statistics.Statistics(None, None, None, None, {})
    (drawn.path / "cgroup.controllers").write_text("memory io pids hugetlb\n")
    for name in ("memory.current", "io.stat", "pids.current"):
        (drawn.path / name).unlink()
    for name in drawn.path.glob("hugetlb.*"):
        name.unlink()
    assert statistics.read(drawn) == statistics.Statistics(None, None, None, None, {})


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(find_tree() / "counted")
    made.create()
    yield made
    made.remove()


@requires("root", "cgroup2")
def test_a_real_one_counts_what_was_done_in_it(group: Cgroup) -> None:
    resources.apply(group, find_tree(), None)

    def work() -> None:
        group.write("cgroup.procs", "0")
        total = 0
        for number in range(2_000_000):
            total += number

    before = statistics.read(group).cpu
    child.run(work)
    after = statistics.read(group).cpu
    assert before is not None
    assert after is not None
    assert after.total_ns - before.total_ns > 10_000_000
    assert after.user_ns > 0


@requires("root", "cgroup2", "controllers hugetlb")
def test_a_real_one_has_every_size_of_pages(group: Cgroup) -> None:
    resources.apply(group, find_tree(), None)
    assert statistics.read(group).hugepages["2MB"] == HugepageUse(0, None, 0)


@requires("root", "cgroup2")
def test_of_one_that_is_gone_there_is_nothing_to_read() -> None:
    with pytest.raises(FileNotFoundError):
        statistics.read(Cgroup(find_tree() / "gone"))


def test_a_brief_account_says_the_same_of_what_it_has(drawn: Cgroup) -> None:
    whole, brief = statistics.read(drawn), statistics.read(drawn, brief=True)
    assert brief.cpu == whole.cpu
    assert brief.memory is not None
    assert whole.memory is not None
    assert (brief.memory.memory.usage_bytes, brief.memory.details) == (whole.memory.memory.usage_bytes, whole.memory.details)
    assert (brief.memory.events, brief.memory.memory.peak_bytes, brief.pids, brief.hugepages) == ({}, None, None, {})
    assert brief.io is not None
    assert whole.io is not None
    assert (brief.io.devices, brief.io.pressure) == ((), whole.io.pressure)
