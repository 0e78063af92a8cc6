"""Memory beside its maximum: swap, what is protected from others, and limits that shrink below what is used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kernel.cgroup import Cgroup
from tests.support import cgroup, wait
from tests.support.requires import requires
from tests.vm.inside.conftest import HOG, MIB, PARENT, Container, Limited, bind

pytestmark = requires("controllers memory")

#: 48 MiB that stay: of a tmpfs, which the kernel can write to swap and nowhere else.
HOLD = "dd if=/dev/zero of=/dev/shm/file bs=1M count=48 2>/dev/null; exec sleep 1000"


@pytest.mark.usefixtures("swap")
@pytest.mark.parametrize(("swap_bytes", "kills"), [(100 * MIB, False), (10 * MIB, True), (0, True)])
def test_what_does_not_fit_into_memory_goes_to_swap_as_far_as_that_is_allowed(
    oci: Limited, swap_bytes: int, kills: bool
) -> None:
    container = oci.run(HOLD, memory={"limit": 20 * MIB, "swap": 20 * MIB + swap_bytes})
    group = container.cgroup
    assert group.number("memory.swap.max") == swap_bytes
    wait.until(lambda: killed(group) or (group.number("memory.swap.current") or 0) > 25 * MIB, 60, "swap to be used up")
    assert bool(killed(group)) == kills
    assert (group.number("memory.swap.current") or 0) <= swap_bytes
    assert (group.number("memory.current") or 0) <= 20 * MIB


def killed(group: Cgroup) -> int:
    """How many processes the kernel has killed there for want of memory."""
    return group.fields("memory.events")["oom_kill"]


@pytest.fixture
def cached(disk: Path) -> Path:
    """A directory with a file of 48 MiB that nobody has read yet: who reads it first is charged for its cache."""
    with (disk / "file").open("wb") as file:
        file.write(bytes(48 * MIB))
        file.flush()
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    return disk


def reader(oci: Limited, directory: Path, **resources: Any) -> Container:
    """A container that has 48 MiB of cache, which the kernel could take back at once."""
    container = oci.run("cat /data/file >/dev/null; exec sleep 1000", mounts=(bind(directory),), **resources)
    wait.until(lambda: cache(container) >= 45 * MIB, 60, "the file to be read")
    Cgroup(cgroup.ROOT / PARENT).write("memory.max", str(85 * MIB))  # for both: someone has to give way
    return container


def cache(container: Container) -> int:
    """Bytes of files that the kernel keeps on its account."""
    return container.cgroup.fields("memory.stat")["file"]


def test_without_protection_cache_is_taken_for_who_needs_memory(oci: Limited, cached: Path) -> None:
    container = reader(oci, cached)
    assert oci.run(f"exec {HOG}").finish() == 0
    assert cache(container) < 40 * MIB
    assert container.cgroup.fields("memory.events")["low"] == 0


def test_a_reservation_is_felt_when_nothing_else_can_be_taken(oci: Limited, cached: Path) -> None:
    """memory.low is a wish: with all else gone the kernel goes below it, and counts that it did."""
    container = reader(oci, cached, memory={"reservation": 80 * MIB})
    assert container.cgroup.number("memory.low") == 80 * MIB
    assert oci.run(f"exec {HOG}").finish() == 0
    assert container.cgroup.fields("memory.events")["low"] > 0


def test_a_minimum_holds_even_if_somebody_must_die(oci: Limited, cached: Path) -> None:
    container = reader(oci, cached, unified={"memory.min": str(80 * MIB)})
    assert oci.run(f"exec {HOG}").finish() == 137
    assert cache(container) >= 45 * MIB
    assert killed(container.cgroup) == 0
    assert killed(Cgroup(cgroup.ROOT / PARENT)) == 1


@pytest.mark.parametrize("has_check", [True, False])
def test_a_maximum_below_what_is_used_is_refused_where_that_is_asked_and_kills_otherwise(oci: Limited, has_check: bool) -> None:
    """The kernel takes the smaller value in any case, and frees or kills until it holds: so "update" succeeds."""
    container = oci.run(HOLD, memory={"limit": 200 * MIB, "swap": 200 * MIB})
    wait.until(lambda: (container.cgroup.number("memory.current") or 0) > 48 * MIB, 60, "memory to be used")
    smaller = {"limit": 20 * MIB, "swap": 20 * MIB}
    if has_check:
        with pytest.raises(AssertionError, match=r"rejecting memory\+swap limit 20971520: \d+ bytes are used already"):
            container.update(memory={**smaller, "checkBeforeUpdate": True})
        assert container.cgroup.number("memory.max") == 200 * MIB
        assert killed(container.cgroup) == 0
    else:
        container.update(memory=smaller)
        assert container.cgroup.number("memory.max") == 20 * MIB
        assert container.finish() == 137
        assert killed(container.cgroup) == 1


def test_what_is_above_a_smaller_maximum_and_can_be_freed_is_freed(oci: Limited, cached: Path) -> None:
    container = oci.run("cat /data/file >/dev/null; exec sleep 1000", mounts=(bind(cached),), memory={"limit": 200 * MIB})
    wait.until(lambda: cache(container) >= 45 * MIB, 60, "the file to be read")
    container.update(memory={"limit": 20 * MIB})
    assert (container.cgroup.number("memory.current") or 0) <= 20 * MIB
    assert killed(container.cgroup) == 0
