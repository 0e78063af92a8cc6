"""Limits by ``kernelet-oci``: each is seen in what the kernel itself counts, and not there when nothing is limited."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup
from runtime.container.limits import weight_of
from tests.support import wait
from tests.support.requires import requires
from tests.vm.inside.conftest import BOMB, HOG, MIB, SPIN, TWENTY, Container, Limited, bind


@requires("controllers memory")
@pytest.mark.parametrize(("limit", "kills", "code"), [(20 * MIB, 1, 137), (200 * MIB, 0, 0)])
def test_memory_beyond_the_limit_kills_the_init(oci: Limited, limit: int, kills: int, code: int) -> None:
    container = oci.run(f"exec {HOG}", memory={"limit": limit, "swap": limit})
    assert container.finish() == code
    assert container.cgroup.number("memory.max") == limit
    assert container.cgroup.fields("memory.events")["oom_kill"] == kills


@requires("controllers memory")
def test_a_child_that_takes_too_much_is_killed_alone(oci: Limited) -> None:
    container = oci.run(f"{HOG}; exit $((100 + ($? == 137)))", memory={"limit": 20 * MIB, "swap": 20 * MIB})
    assert container.finish() == 101
    assert container.cgroup.fields("memory.events")["oom_kill"] == 1


@requires("controllers memory")
def test_a_group_that_dies_together_takes_the_init_along(oci: Limited) -> None:
    container = oci.run(f"{HOG}; exit 5", memory={"limit": 20 * MIB, "swap": 20 * MIB}, unified={"memory.oom.group": "1"})
    assert container.finish() == 137
    assert container.cgroup.fields("memory.events")["oom_group_kill"] == 1


@requires("controllers memory")
def test_what_is_above_memory_high_is_reclaimed_and_counted(oci: Limited) -> None:
    container = oci.run(f"{HOG}; exit 5", memory={"limit": 200 * MIB}, unified={"memory.high": str(20 * MIB)})
    wait.until(lambda: container.cgroup.fields("memory.events")["high"] > 0, 60, "memory.high to be felt")
    assert container.cgroup.fields("memory.events")["oom_kill"] == 0


@requires("controllers pids")
def test_no_more_processes_than_the_limit(oci: Limited) -> None:
    container = oci.run(TWENTY, pids={"limit": 6})
    wait.until(lambda: refused(container) > 0, 60, "a refusal")
    assert container.cgroup.number("pids.max") == 6
    assert len(container.cgroup.processes()) <= 6


@requires("controllers pids")
def test_without_a_limit_all_processes_come(oci: Limited) -> None:
    container = oci.run(TWENTY)
    wait.until(lambda: len(container.cgroup.processes()) == 21, 60, "twenty processes and their init")
    assert refused(container) == 0


def refused(container: Container) -> int:
    """How often the kernel refused a process there."""
    return container.cgroup.fields("pids.events")["max"]


@requires("controllers cpu")
def test_a_quota_throttles(oci: Limited) -> None:
    container = oci.run(SPIN, cpu={"quota": 20_000, "period": 100_000})
    first = after_periods(container.cgroup, 3)
    last = after_periods(container.cgroup, first["nr_periods"] + 10)
    periods = last["nr_periods"] - first["nr_periods"]
    assert last["nr_throttled"] - first["nr_throttled"] >= periods - 2
    assert last["throttled_usec"] > first["throttled_usec"]
    assert last["usage_usec"] - first["usage_usec"] <= periods * 20_000 * 1.5


@requires("controllers cpu")
def test_without_a_quota_nothing_throttles(oci: Limited) -> None:
    container = oci.run(SPIN, cpu={"shares": 1024})
    wait.until(lambda: used(container) > 500_000, 60, "half a second of CPU to be used")
    assert container.cgroup.fields("cpu.stat")["nr_throttled"] == 0


def used(container: Container) -> int:
    """µs of CPU."""
    return container.cgroup.fields("cpu.stat")["usage_usec"]


def after_periods(group: Cgroup, count: int) -> dict[str, int]:
    """cpu.stat when that many periods have been counted."""
    wait.until(lambda: group.fields("cpu.stat")["nr_periods"] >= count, 60, f"{count} periods")
    return group.fields("cpu.stat")


@requires("controllers cpu")
def test_weights_share_what_there_is(oci: Limited) -> None:
    """Two that want all of CPU 0: where one weighs five times the other, it uses about five times as much of it."""
    light, heavy = (oci.run(SPIN, cpu={"shares": shares}) for shares in (320, 3072))
    assert (light.cgroup.number("cpu.weight"), heavy.cgroup.number("cpu.weight")) == (weight_of(320), weight_of(3072))
    for container in (light, heavy):
        os.sched_setaffinity(container.pid, {0})
    before = [used(container) for container in (light, heavy)]
    wait.until(lambda: used(heavy) - before[1] > 3_000_000, 60, "three seconds of CPU to be used")
    after = [used(container) for container in (light, heavy)]
    assert (after[1] - before[1]) / (after[0] - before[0]) == pytest.approx(weight_of(3072) / weight_of(320), rel=0.3)


WRITTEN = 3 * MIB


@requires("controllers io")
def test_bytes_written_per_second_are_limited(oci: Limited, disk: Path) -> None:
    limited = rate_of_writing(oci, disk, MIB)
    assert limited < 1.5 * MIB
    assert rate_of_writing(oci, disk, None) > 2 * limited


def rate_of_writing(oci: Limited, disk: Path, limit: int | None) -> float:
    """Bytes per second that io.stat counts of a container that writes 3 MiB past the page cache; inf if it is done at once."""
    number = os.stat(disk).st_dev
    major, minor = os.major(number), os.minor(number)
    throttle = [{"major": major, "minor": minor, "rate": limit}] if limit else []
    script = "dd if=/dev/zero of=/data/file bs=64k count=48 oflag=direct 2>/dev/null && exec sleep 1000"
    container = oci.run(script, mounts=(bind(disk),), blockIO={"throttleWriteBpsDevice": throttle})
    if limit:
        assert f"{major}:{minor} rbps=max wbps={limit} " in container.cgroup.read("io.max")
    wait.until(lambda: written(container.cgroup, major, minor) > 0, 60, "the first byte to be written")
    begin, began = written(container.cgroup, major, minor), time.monotonic()
    if begin >= WRITTEN:
        return math.inf
    wait.until(lambda: written(container.cgroup, major, minor) >= WRITTEN, 60, "the last byte to be written")
    return (WRITTEN - begin) / (time.monotonic() - began)


def written(group: Cgroup, major: int, minor: int) -> int:
    """wbytes of io.stat for one device; a device that nothing was done with has a line without figures."""
    found = re.search(rf"^{major}:{minor} .*\bwbytes=(\d+)", group.read("io.stat"), re.MULTILINE)
    return int(found[1]) if found else 0


@requires("controllers pids")
@pytest.mark.parametrize("words", [("kill", "KILL"), ("delete", "--force")])
def test_a_fork_bomb_is_killed_as_a_whole(oci: Limited, words: tuple[str, ...]) -> None:
    """In the guest's own pid namespace, where the end of its init ends nobody else."""
    container = oci.run(BOMB, shares_pids=True, pids={"limit": 60})
    wait.until(lambda: refused(container) > 10, 60, "the bomb to reach its limit")
    if words[0] == "kill":
        oci.command_line.call("kill", container.name, "KILL")
        wait.until(lambda: container.cgroup.fields("cgroup.events")["populated"] == 0, 30, "the cgroup to be empty")
    else:
        oci.command_line.call(*words, container.name)
        assert not container.cgroup.exists()


def test_what_is_paused_uses_no_time_until_it_is_resumed(oci: Limited) -> None:
    container = oci.run(SPIN)
    oci.command_line.call("pause", container.name)
    assert container.cgroup.fields("cgroup.events")["frozen"] == 1
    before = used(container)
    time.sleep(0.5)
    assert used(container) == before
    assert oci.command_line.state(container.name)["status"] == "paused"
    oci.command_line.call("resume", container.name)
    assert container.cgroup.fields("cgroup.events")["frozen"] == 0
    wait.until(lambda: used(container) > before, 30, "it to go on")
