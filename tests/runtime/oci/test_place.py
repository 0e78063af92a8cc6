"""Where a container's cgroup is."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import InvalidSpec, WrongState
from runtime.oci import place
from tests.support import cgroup, requires

TREE = Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("", "/kernelet-oci/web"),
        ("/pods/web", "/pods/web"),
        ("//pods//web/", "/pods/web"),
        ("mine/web", "/kernelet-oci/mine/web"),
        ("/../../etc", "/etc"),
        ("../../../out", "/out"),
        ("/a/../../../b/./c", "/b/c"),
        ("/a:b:c", "/a:b:c"),
    ],
)
def test_a_path_stays_in_the_tree(asked: str, path: str) -> None:
    assert place.find_place(TREE, "web", asked).path == Path(f"{TREE}{path}")


@pytest.mark.parametrize("asked", ["/", "/..", "/a/..", "..", "a/../.."])
def test_the_top_is_nobodys(asked: str) -> None:
    with pytest.raises(InvalidSpec, match="cgroupsPath"):
        place.find_place(TREE, "web", asked)


def test_a_unit_is_for_systemd() -> None:
    with pytest.raises(InvalidSpec, match="slice:prefix:name is for systemd"):
        place.find_place(TREE, "web", "system.slice:cri:web")


@requires.requires("root", "cgroup2")
def test_a_cgroup_in_which_somebody_lives_is_not_taken() -> None:
    with pytest.raises(WrongState, match="container's cgroup is not empty"):
        place.find_place(cgroup.ROOT, "web", "/pytest")


@requires.requires("root", "cgroup2")
def test_one_that_is_there_and_empty_is_taken() -> None:
    group = place.Cgroup(cgroup.ROOT / "left")
    group.create()
    before = group.path.stat().st_ino
    try:
        place.make_place(group)
        assert group.path.stat().st_ino != before
    finally:
        group.remove()
