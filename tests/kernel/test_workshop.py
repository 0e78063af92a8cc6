"""Mounts of single files of a file system that nobody sees, on new kernels and the way old ones want it."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path

import pytest

from kernel import mount
from kernel.mountinfo import load_mountinfo
from kernel.workshop import Workshop, clone_inside
from tests.support.requires import requires

pytestmark = requires("root", "kernel 5.12")


@pytest.mark.parametrize("hides", [False, True])
def test_what_is_made_in_it_can_be_mounted_elsewhere(tmp_path: Path, hides: bool) -> None:
    (tmp_path / "target").touch()
    before = load_mountinfo()
    with closing(Workshop()) as workshop:
        if hides:
            workshop.hide()
        copies = []
        for minor in (3, 5):  # the second is made when the first has been copied
            os.mknod(f"made-{minor}", stat.S_IFCHR | 0o600, os.makedev(1, minor), dir_fd=workshop.fileno())
            copies.append(workshop.clone(f"made-{minor}"))
    assert load_mountinfo() == before
    assert [os.fstat(copy.fileno()).st_rdev for copy in copies] == [os.makedev(1, 3), os.makedev(1, 5)]
    mount.attach(copies[1], tmp_path / "target")
    with (tmp_path / "target").open("rb") as zero:
        assert zero.read(4) == bytes(4)
    mount.unmount(tmp_path / "target")
    for copy in copies:
        copy.close()


@pytest.mark.parametrize("hides", [False, True])
def test_what_is_not_there_is_not_found(hides: bool) -> None:
    with closing(Workshop()) as workshop:
        if hides:
            workshop.hide()
        with pytest.raises(FileNotFoundError):
            workshop.clone("absent")


def test_a_directory_inside_a_mount_that_is_in_no_table(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("here")
    (tmp_path / "a/link").symlink_to("/a/b")
    (tmp_path / "out").symlink_to("/etc")
    before = load_mountinfo()
    for path in ("a/b", "a/link", "/a/../a/b"):
        with mount.clone_tree(tmp_path) as whole, clone_inside(whole, path) as part:
            assert Path(f"/proc/self/fd/{part.fileno()}/file").read_text() == "here"
    for path in ("a/b/file", "absent", "out"):
        with mount.clone_tree(tmp_path) as whole, pytest.raises(OSError, match=r"No such file|Not a directory"):
            clone_inside(whole, path)
    assert load_mountinfo() == before
