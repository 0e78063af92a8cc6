"""Limits of the controllers that User Mode Linux does not have: cpuset, hugetlb, the weights of io; and pressure of cpu."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup
from tests.support import child, wait
from tests.support.requires import requires
from tests.vm.inside.conftest import HOG, MIB, SPIN, Container, Limited, bind

HUGE_MOUNT = {"destination": "/huge", "type": "hugetlbfs", "source": "hugetlbfs", "options": ["pagesize=2M"]}
MAP_HUGETLB = 0x40000


@requires("controllers cpuset")
def test_a_container_runs_where_its_cpuset_says_and_moves_when_that_changes(oci: Limited) -> None:
    container = oci.run(SPIN, cpu={"cpus": "1", "mems": "0"})
    for cpus in ("1", "0", "0-1"):
        if cpus != "1":
            container.update(cpu={"cpus": cpus})
        assert container.cgroup.read("cpuset.cpus").strip() == cpus
        assert container.cgroup.read("cpuset.cpus.effective").strip() == cpus
        assert container.status("Cpus_allowed_list") == cpus
    assert container.cgroup.read("cpuset.mems.effective").strip() == container.status("Mems_allowed_list") == "0"


@requires("controllers cpuset")
def test_a_cpu_that_there_is_not_is_refused_by_name(oci: Limited) -> None:
    assert "cpuset.cpus" in oci.refusal("true", cpu={"cpus": "9000"})


@requires("controllers hugetlb")
@pytest.mark.parametrize(("pages", "is_refused"), [(1, True), (4, False)])
def test_huge_pages_beyond_the_limit_are_not_given(oci: Limited, huge_pages: int, pages: int, is_refused: bool) -> None:
    """What is allocated: two pages of a hugetlbfs."""
    script = "fallocate -l 4M /huge/file; exec sleep 1000"
    container = oci.run(script, mounts=(HUGE_MOUNT,), hugepageLimits=[{"pageSize": "2MB", "limit": pages * 2 * MIB}])
    group = container.cgroup
    assert group.number("hugetlb.2MB.max") == pages * 2 * MIB
    wait.until(lambda: asked(group) >= 2 or used(group) >= 4 * MIB, 60, "both pages to be asked for")
    assert (group.fields("hugetlb.2MB.events")["max"] > 0) == is_refused
    assert used(group) <= pages * 2 * MIB


def used(group: Cgroup) -> int:
    return group.number("hugetlb.2MB.current") or 0


def asked(group: Cgroup) -> int:
    """How many pages were given, and how often none was."""
    return used(group) // (2 * MIB) + group.fields("hugetlb.2MB.events")["max"]


@requires("controllers hugetlb")
@pytest.mark.parametrize(("pages", "is_refused"), [(1, True), (4, False)])
def test_huge_pages_beyond_the_limit_are_not_reserved_either(
    oci: Limited, huge_pages: int, pages: int, is_refused: bool
) -> None:
    """A reservation that is not covered would end in SIGBUS; mmap says no at once."""
    container = oci.run("exec sleep 1000", hugepageLimits=[{"pageSize": "2MB", "limit": pages * 2 * MIB}])
    group = container.cgroup
    assert group.number("hugetlb.2MB.rsvd.max") == pages * 2 * MIB

    def reserve() -> tuple[bool, int]:
        group.write("cgroup.procs", "0")
        try:
            with mmap.mmap(-1, 4 * MIB, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB):
                return True, group.number("hugetlb.2MB.rsvd.current") or 0
        except OSError:
            return False, group.number("hugetlb.2MB.rsvd.current") or 0

    assert child.run(reserve) == ((False, 0) if is_refused else (True, 4 * MIB))


@pytest.fixture
def disk_name(disk: Path) -> str:
    """The name of the block device below the root file system."""
    number = os.stat(disk).st_dev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name


@pytest.fixture
def bfq(disk_name: str) -> Iterator[str]:
    """Have BFQ schedule the root disk."""
    scheduler = Path(f"/sys/block/{disk_name}/queue/scheduler")
    scheduler.write_text("bfq")
    yield disk_name
    scheduler.write_text("none")


@requires("controllers io")
def test_a_weight_of_io_is_bfqs_where_that_schedules(oci: Limited, bfq: str) -> None:
    number = Path(f"/sys/block/{bfq}/dev").read_text().strip()
    major, minor = map(int, number.split(":"))
    weights = [{"major": major, "minor": minor, "weight": 700}]
    container = oci.run("exec sleep 1000", blockIO={"weight": 300, "weightDevice": weights})
    assert container.cgroup.read("io.bfq.weight").split("\n")[:2] == ["default 300", f"{number} 700"]


@requires("controllers io")
def test_a_weight_of_io_is_the_kernels_own_where_bfq_is_not(oci: Limited, disk: Path) -> None:
    container = oci.run("exec sleep 1000", blockIO={"weight": 505})
    if (container.cgroup.path / "io.bfq.weight").exists():  # the module has been loaded
        assert container.cgroup.read("io.bfq.weight").split() == ["default", "505"]
        container.update(unified={"io.weight": "default 5000"})
    assert container.cgroup.read("io.weight").split()[:2] == ["default", "5000"]


@requires("controllers memory cpu")
def test_figures_of_what_stands_still_are_the_kernels(oci: Limited) -> None:
    """Every figure that ``events --stats`` has, against the files; paused, so that both see the same."""
    container = oci.run(f"{HOG}; exec sleep 1000", cpu={"quota": 20_000, "period": 100_000}, memory={"limit": 200 * MIB})
    group = container.cgroup
    name = Path(f"/proc/{container.pid}/comm")
    wait.until(lambda: name.read_text() == "sleep\n" and group.fields("cpu.stat")["nr_throttled"] > 0, 60, "it to be throttled")
    container.command_line.call("pause", container.name)
    for _ in range(50):  # until the kernel takes nothing more back meanwhile of what the ended process had
        used = group.number("memory.current")
        said = json.loads(container.command_line.call("events", "--stats", container.name).stdout)["data"]
        if group.number("memory.current") == used:
            break
    processor, memory = group.fields("cpu.stat"), group.fields("memory.stat")
    assert said["cpu"]["usage"]["total"] == processor["usage_usec"] * 1000
    assert said["cpu"]["throttling"]["throttledPeriods"] == processor["nr_throttled"]
    assert said["cpu"]["throttling"]["throttledTime"] == processor["throttled_usec"] * 1000
    assert said["cpu"]["psi"]["some"]["total"] == stalled(container, "cpu")
    assert said["memory"]["usage"]["limit"] == 200 * MIB
    assert said["memory"]["usage"]["usage"] == used
    assert said["memory"].get("cache", 0) == memory["file"]
    assert said["memory"]["psi"]["some"]["total"] == stalled(container, "memory")
    assert said["pids"]["current"] == group.number("pids.current") == 1


def stalled(container: Container, what: str) -> int:
    """µs in which somebody there waited."""
    line = container.cgroup.read(f"{what}.pressure").splitlines()[0]
    return int(line.rpartition("=")[2])


@requires("controllers memory")
def test_who_is_above_memory_high_is_under_pressure(oci: Limited) -> None:
    """Of 48 MiB that cannot be taken back 20 may be there: who wants more is made to wait."""
    hold = "dd if=/dev/zero of=/dev/shm/file bs=1M count=48 2>/dev/null; exec sleep 1000"
    container = oci.run(hold, unified={"memory.high": str(20 * MIB), "memory.swap.max": "0"})
    wait.until(lambda: stalled(container, "memory") > 0, 60, "somebody to wait for memory")


@requires("controllers cpu")
def test_who_is_throttled_is_under_pressure(oci: Limited) -> None:
    container = oci.run(SPIN, cpu={"quota": 10_000, "period": 100_000})
    wait.until(lambda: stalled(container, "cpu") > 500_000, 60, "half a second to be lost")


@requires("controllers io")
@pytest.mark.parametrize(("field", "key"), [("throttleReadBpsDevice", "rbps"), ("throttleReadIOPSDevice", "riops")])
def test_reading_is_limited(oci: Limited, disk: Path, field: str, key: str) -> None:
    """What io.stat counts in the first two seconds is what the limit lets through."""
    number = os.stat(disk).st_dev
    major, minor = os.major(number), os.minor(number)
    (disk / "file").write_bytes(bytes(8 * MIB))
    os.sync()
    rate = MIB if key == "rbps" else 16  # of 64 KiB each
    script = "dd if=/data/file of=/dev/null bs=64k iflag=direct 2>/dev/null; exec sleep 1000"
    throttle = [{"major": major, "minor": minor, "rate": rate}]
    container = oci.run(script, mounts=(bind(disk),), blockIO={field: throttle})
    assert f"{key}={rate}" in container.cgroup.read("io.max")
    first = wait.until(lambda: read(container.cgroup, number), 60, "the first byte to be read")
    pressed = stalled(container, "io")
    wait.until(lambda: stalled(container, "io") - pressed > 1_000_000, 60, "a second to be lost in waiting")
    assert first <= read(container.cgroup, number) < 6 * MIB


def read(group: Cgroup, number: int) -> int:
    """rbytes of io.stat for the device of that number."""
    name = f"{os.major(number)}:{os.minor(number)} "
    lines = [line for line in group.read("io.stat").splitlines() if line.startswith(name)]
    fields = dict(field.split("=") for line in lines for field in line.split()[1:])
    return int(fields.get("rbytes", 0))
