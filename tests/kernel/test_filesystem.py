from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import mount
from kernel.fd import Fd, open_path
from kernel.filesystem import DEPTH, copy_tree, is_devpts, is_procfs, remove_tree, sync
from tests.support.requires import requires

pytestmark = requires("root")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Fd]:
    with open_path(tmp_path, os.O_RDONLY | os.O_DIRECTORY) as opened:
        yield opened


def test_a_tree_goes_with_all_that_is_in_it(tmp_path: Path, home: Fd) -> None:
    (tmp_path / "t/a/b").mkdir(parents=True)
    (tmp_path / "t/a/f").write_text("x")
    (tmp_path / "outside").write_text("kept")
    (tmp_path / "t/link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "t/a/b/pipe")
    assert remove_tree(home, "t") == 6
    assert os.listdir(tmp_path) == ["outside"]
    assert remove_tree(home, "t") == 0


def test_a_file_is_a_tree_of_one(tmp_path: Path, home: Fd) -> None:
    (tmp_path / "f").symlink_to("/")
    assert remove_tree(home, b"f") == 1
    assert os.listdir(tmp_path) == []


def test_deeper_than_descriptors_and_paths_reach(tmp_path: Path, home: Fd) -> None:
    here = Fd(os.open(tmp_path, os.O_RDONLY))
    for _ in range(3000):
        os.mkdir("d", dir_fd=here.fileno())
        os.mkdir(".moved-1", dir_fd=here.fileno())
        deeper = Fd(os.open("d", os.O_RDONLY, dir_fd=here.fileno()))
        here.close()
        here = deeper
    here.close()
    assert remove_tree(home, "d") == 2 * 3000 - 1
    assert os.listdir(tmp_path) == [".moved-1"]


def test_what_is_mounted_inside_is_not_ours(tmp_path: Path, home: Fd) -> None:
    (tmp_path / "t/mounted").mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/f").write_text("kept")
    mount.bind(tmp_path / "precious", tmp_path / "t/mounted")  # of the same file system: st_dev would not tell
    try:
        with pytest.raises(OSError, match="mounted") as caught:
            remove_tree(home, "t")
        assert caught.value.errno == errno.EXDEV
    finally:
        mount.unmount(tmp_path / "t/mounted")
    assert (tmp_path / "precious/f").read_text() == "kept"
    assert remove_tree(home, "t") == 2


def test_sync_reaches_the_file_system(home: Fd) -> None:
    sync(home)
    with pytest.raises(ValueError, match="closed"):
        sync(Fd(-1))


def test_a_copy_has_owners_modes_times_attributes_and_follows_no_link(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    (source / "a/b").mkdir(parents=True)
    target.mkdir()
    (source / "a/file").write_bytes(bytes(range(256)) * 1000)
    (source / "a/link").symlink_to("/etc")
    os.mkfifo(source / "pipe")
    os.mknod(source / "device", 0o20640, os.makedev(1, 3))
    os.setxattr(source / "a/file", "user.colour", b"blue")
    os.chown(source / "a/file", 7, 8)
    os.chmod(source / "a/file", 0o6755)
    os.chmod(source / "a/b", 0o2751)
    os.utime(source / "a/file", ns=(1_000_000_007, 2_000_000_009))
    copied(source, target)
    for path in ("a", "a/b", "a/file", "a/link", "pipe", "device"):
        before, after = (source / path).lstat(), (target / path).lstat()
        assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid), path
        assert (before.st_mtime_ns, before.st_rdev) == (after.st_mtime_ns, after.st_rdev), path
    assert (target / "a/file").read_bytes() == (source / "a/file").read_bytes()
    assert os.readlink(target / "a/link") == "/etc"
    assert os.getxattr(target / "a/file", "user.colour") == b"blue"


def test_a_tree_that_is_too_deep_is_not_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    target.mkdir()
    source.joinpath(*["d"] * DEPTH).mkdir(parents=True)
    copied(source, target)
    source.joinpath(*["d"] * (DEPTH + 1)).mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(OSError, match="directories deep"):
        copied(source, tmp_path / "other")


def copied(source: Path, target: Path) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY
    with open_path(source, flags) as here, open_path(target, flags) as there:
        copy_tree(here, there)


def test_a_file_system_is_known_by_its_number(home: Fd) -> None:
    with open_path("/proc") as proc, mount.new_filesystem("devpts") as devpts:
        assert [is_procfs(file) for file in (proc, devpts, home)] == [True, False, False]
        assert [is_devpts(file) for file in (proc, devpts, home)] == [False, True, False]
