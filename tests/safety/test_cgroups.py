"""Cgroups: where a container is counted and killed must be its own, whatever its config.json or its caller says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.safety.bundle import Bundle
from tests.safety.oci import Oci
from tests.support import cgroup
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@pytest.fixture
def neighbour() -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A process of somebody else's, in a cgroup below /neighbours."""
    group = cgroup.ROOT / "neighbours/web"
    group.mkdir(parents=True)
    process = subprocess.Popen(["/bin/busybox", "sleep", "100"])
    (group / "cgroup.procs").write_text(str(process.pid))
    yield group, process
    process.kill()
    process.wait()
    cgroup.remove(cgroup.ROOT / "neighbours")


@pytest.mark.parametrize(
    "wanted", ["/neighbours/web", "/neighbours", "/neighbours/web/..", "/../neighbours", "../neighbours/web", "/pytest"]
)
def test_a_cgroup_in_which_others_live_is_refused_and_they_live_on(
    oci: Oci, bundle: Bundle, neighbour: tuple[Path, subprocess.Popen[bytes]], wanted: str
) -> None:
    """Cgroup escapes (crun >= 1.28): a container's end is cgroup.kill, which would be the others' end as well."""
    group, process = neighbour
    bundle.spec.linux.cgroups_path = wanted
    refusal = oci.run(bundle).refusal
    assert "container's cgroup is not empty" in refusal
    assert process.poll() is None
    assert str(process.pid) in (group / "cgroup.procs").read_text()
    assert oci.names() == []


def test_a_cgroup_that_another_container_has_by_now_is_left_alone(oci: Oci, bundle: Bundle) -> None:
    """Cgroup escapes, pid reuse's cousin: one that has ended is deleted when another has its cgroup's name."""
    bundle.spec.linux.cgroups_path = "/shared-name"
    bundle.script("exit 0")
    with oci.create(bundle) as first:
        first.start()
        first.finish()
        bundle.script("exec sleep 100")
        with oci.create(bundle) as second:
            second.start()
            for words in (["kill", "--all", first.name, "KILL"], ["delete", "--force", first.name]):
                oci.call(*words)
            assert second.state()["status"] == "running"
    assert not (cgroup.ROOT / "shared-name").exists()


@pytest.mark.parametrize("wanted", ["/", "//", "/..", "/.", "../..", "../../../.."])
def test_the_top_of_the_tree_is_nobodys(oci: Oci, bundle: Bundle, wanted: str) -> None:
    """Cgroup escapes (crun >= 1.28)."""
    bundle.spec.linux.cgroups_path = wanted
    assert "linux.cgroupsPath" in oci.run(bundle).refusal


@pytest.mark.parametrize("wanted", ["../up", "../../up", "/a/../../up", "up/./x/.."])
def test_a_path_that_climbs_ends_at_the_top(oci: Oci, bundle: Bundle, wanted: str) -> None:
    """Cgroup escapes (crun >= 1.28): nothing is made outside the tree."""
    bundle.spec.linux.cgroups_path = wanted
    bundle.script("cat /proc/self/cgroup")
    above = set(os.listdir(cgroup.ROOT.parent))
    assert oci.run(bundle).lines[-1] == "0::/"
    assert set(os.listdir(cgroup.ROOT.parent)) == above


@pytest.mark.parametrize(
    "key", ["../../neighbours/web/cgroup.freeze", "/cgroup.procs", "x/y", "..", ".", "", "memory.max\0", "a" * 300]
)
def test_a_key_of_unified_is_a_file_of_the_cgroups_own(
    oci: Oci, bundle: Bundle, neighbour: tuple[Path, subprocess.Popen[bytes]], key: str
) -> None:
    """Cgroup escapes: linux.resources.unified names files, and a file has no slash."""
    from runtime.spec import schema

    group, _ = neighbour
    bundle.spec.linux.resources = schema.Resources(unified={key: "1"})
    assert "unified" in oci.run(bundle).refusal
    assert (group / "cgroup.freeze").read_text() == "0\n"


def test_cgroup_files_that_would_move_processes_are_no_limits(oci: Oci, bundle: Bundle) -> None:
    """Cgroup escapes: what is written as a resource must not be an act."""
    from runtime.spec import schema

    for key in ("cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.type", "cgroup.subtree_control"):
        bundle.spec.linux.resources = schema.Resources(unified={key: "1"})
        assert "unified" in oci.run(bundle).refusal, key
