from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel.fd import Fd
from kernel.mountinfo import load_mountinfo
from kernel.overlay import VALUE_LIMIT, has_lowerdir_options, mount_overlay
from runtime.container import userns
from runtime.spec.schema import IdMapping
from tests.support.requires import requires

pytestmark = requires("root", "kernel 5.11")

#: Both ways work on a new kernel, so the old one is tested there too.
WAYS = [pytest.param(True, marks=requires("kernel 6.7")), False]


def directories(home: Path, count: int, *, name: str = "l") -> list[Path]:
    made = []
    for number in range(count):
        made.append(home / f"{name}{number}")
        made[-1].mkdir()
        (made[-1] / f"from-{number}").write_text(str(number))
        (made[-1] / "top").write_text(str(number))
    return made


def seen(root: Fd) -> Path:
    return Path(f"/proc/self/fd/{root.fileno()}")


@pytest.mark.parametrize("one_by_one", WAYS)
@pytest.mark.parametrize("count", [1, 3, 120])
def test_layers_under_a_writable_directory(tmp_path: Path, one_by_one: bool, count: int) -> None:
    lower = directories(tmp_path, count)
    (upper, work) = directories(tmp_path, 2, name="own")
    (upper / "top").unlink()
    before = load_mountinfo()
    with mount_overlay(lower, (upper, work), options=["volatile"], one_by_one=one_by_one) as root:
        assert {f"from-{number}" for number in range(count)} <= set(os.listdir(seen(root)))
        assert (seen(root) / "top").read_text() == "0"
        (seen(root) / "top").write_text("changed")
        assert load_mountinfo() == before
    assert ((upper / "top").read_text(), (lower[0] / "top").read_text()) == ("changed", "0")


@pytest.mark.parametrize("one_by_one", WAYS)
def test_paths_longer_than_an_option_may_be(tmp_path: Path, one_by_one: bool) -> None:
    home = tmp_path / ("x" * 200) / ("y" * 200)
    home.mkdir(parents=True)
    assert len(str(home)) > VALUE_LIMIT
    lower = directories(home, 2)
    upper, work = directories(home, 2, name="own")
    with mount_overlay(lower, (upper, work), one_by_one=one_by_one) as root:
        assert "from-1" in os.listdir(seen(root))


@pytest.mark.parametrize("one_by_one", WAYS)
def test_without_a_writable_directory_nobody_can_write(tmp_path: Path, one_by_one: bool) -> None:
    lower = directories(tmp_path, 3)
    with mount_overlay(lower, None, one_by_one=one_by_one) as root:
        assert (seen(root) / "top").read_text() == "0" and (seen(root) / "from-2").exists()
        with pytest.raises(OSError, match="Read-only file system"):
            (seen(root) / "new").touch()
        with pytest.raises(OSError, match="Read-only file system"):
            os.chmod(seen(root) / "top", 0o600)


@requires("id-mapping")
@pytest.mark.parametrize("one_by_one", WAYS)
@pytest.mark.parametrize("count", [1, 3, 100])
def test_owners_in_the_layers_are_seen_through_a_user_namespace(tmp_path: Path, one_by_one: bool, count: int) -> None:
    lower = directories(tmp_path, count)
    upper, work = directories(tmp_path, 2, name="own")
    (lower[-1] / "owned").touch()
    os.chown(lower[-1] / "owned", 5, 6)
    uids, gids = ([IdMapping(container_id=0, host_id=first, size=1000)] for first in (70_000, 80_000))
    before = load_mountinfo()
    with userns.make(uids, gids) as users:
        root = mount_overlay(lower, (upper, work), one_by_one=one_by_one, user_namespace=users)
    with root:
        found = os.stat(seen(root) / "owned")
        assert (found.st_uid, found.st_gid) == (70_005, 80_006)
        os.chown(seen(root) / "owned", 70_001, 80_001)
        assert load_mountinfo() == before
    kept = (upper / "owned").stat()
    assert (kept.st_uid, kept.st_gid) == (70_001, 80_001)  # as the host knows them
    assert (lower[-1] / "owned").stat().st_uid == 5


def test_more_layers_than_a_page_holds(tmp_path: Path) -> None:
    lower = directories(tmp_path, 300)
    upper, work = directories(tmp_path, 2, name="own")
    with pytest.raises(OSError, match="300 layers do not fit into one page"):
        mount_overlay(lower, (upper, work), one_by_one=False)


@pytest.mark.parametrize("one_by_one", WAYS)
def test_a_layer_that_is_not_there(tmp_path: Path, one_by_one: bool) -> None:
    upper, work = directories(tmp_path, 2, name="own")
    with pytest.raises(FileNotFoundError, match="absent"):
        mount_overlay([tmp_path / "absent"], (upper, work), one_by_one=one_by_one)


def test_which_kernels_take_layers_one_by_one() -> None:
    releases = {"6.1.0-18-amd64": False, "6.6.99": False, "6.7": True, "6.18.44-fc": True, "7.0-rc1": True, "strange": False}
    assert {release: has_lowerdir_options(release) for release in releases} == releases
