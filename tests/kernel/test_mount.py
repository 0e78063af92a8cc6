"""Mounts as mountinfo and the file system tell of them afterwards; each test in a mount namespace of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kernel import fd, mount
from kernel._linux import lib
from kernel.mountinfo import Mount, load_mountinfo
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root")

T = TypeVar("T")


def apart(function: Callable[[], T]) -> T:
    return child.run(function, namespaces=["mount"])


def rows(target: Path) -> list[Mount]:
    return [row for row in load_mountinfo() if row.target == str(target)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``source`` with a directory ``below``, and an empty ``target``."""
    (tmp_path / "source/below").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    return tmp_path


def tmpfs_at(target: Path, *options: tuple[str, str | None] | str) -> None:
    with mount.new_filesystem("tmpfs", options) as detached:
        mount.attach(detached, target)


def names(directory: fd.Fd) -> list[str]:
    """The entries of a directory, or of a detached mount: its descriptor is of the O_PATH kind and cannot be read."""
    return sorted(os.listdir(f"/proc/self/fd/{directory.fileno()}"))


def writable(directory: Path) -> bool:
    try:
        (directory / "probe").write_bytes(b"x")
    except OSError as error:
        assert error.errno == errno.EROFS
        return False
    return True


class TestBind:
    def test_the_source_is_seen_at_the_target(self, tree: Path) -> None:
        (tree / "source/file").write_bytes(b"content")

        def bind() -> bytes:
            mount.bind(tree / "source", tree / "target")
            return (tree / "target/file").read_bytes()

        assert apart(bind) == b"content"

    def test_read_only_covers_submounts(self, tree: Path) -> None:
        """mount(2) with MS_BIND|MS_RDONLY|MS_REC leaves them writable."""

        def bind() -> tuple[bool, bool, bool]:
            tmpfs_at(tree / "source/below")
            mount.bind(tree / "source", tree / "target", read_only=True)
            return writable(tree / "target"), writable(tree / "target/below"), writable(tree / "source/below")

        assert apart(bind) == (False, False, True)

    def test_not_recursive_leaves_submounts_out(self, tree: Path) -> None:
        def bind() -> tuple[list[Mount], list[str]]:
            tmpfs_at(tree / "source/below")
            (tree / "source/below/file").touch()
            mount.bind(tree / "source", tree / "target", recursive=False)
            return rows(tree / "target/below"), os.listdir(tree / "target/below")

        assert apart(bind) == ([], [])

    def test_a_file_can_be_bound(self, tree: Path) -> None:
        (tree / "hosts").write_bytes(b"127.0.0.1 localhost\n")
        (tree / "source/hosts").touch()

        def bind() -> tuple[bytes, bool]:
            mount.bind(tree / "hosts", tree / "source/hosts", read_only=True)
            return (tree / "source/hosts").read_bytes(), os.access(tree / "source/hosts", os.W_OK)

        assert apart(bind) == (b"127.0.0.1 localhost\n", False)

    def test_a_missing_source_is_named(self, tree: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            mount.bind(tree / "nowhere", tree / "target")
        assert caught.value.filename == str(tree / "nowhere")
        assert caught.value.__notes__ == ["in open_tree(2)"]

    def test_a_directory_does_not_go_onto_a_file(self, tree: Path) -> None:
        (tree / "file").touch()
        with pytest.raises(OSError, match="Invalid argument") as caught:  # ENOTDIR would say more, but is not what it says
            mount.bind(tree / "source", tree / "file")
        assert caught.value.filename == str(tree / "file")
        assert caught.value.__notes__ == ["in move_mount(2)"]


class TestDetached:
    def test_a_clone_is_in_no_mount_table_until_it_is_attached(self, tree: Path) -> None:
        def clone() -> tuple[int, int, int]:
            before = len(load_mountinfo())
            with mount.clone_tree(tree / "source") as detached:
                between = len(load_mountinfo())
                mount.attach(detached, tree / "target")
            return before, between, len(load_mountinfo())

        before, between, after = apart(clone)
        assert before == between == after - 1

    def test_what_is_never_attached_ends_with_its_descriptor(self, tree: Path) -> None:
        with mount.new_filesystem("tmpfs") as detached:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=detached.fileno()))
            assert names(detached) == ["file"]

    def test_a_mount_goes_onto_a_descriptor(self, tree: Path) -> None:
        def attach() -> list[Mount]:
            with fd.open_path(tree / "target", os.O_PATH) as target, mount.new_filesystem("tmpfs") as detached:
                mount.attach(detached, target)
            return rows(tree / "target")

        assert [row.filesystem for row in apart(attach)] == ["tmpfs"]

    def test_a_clone_of_the_mount_a_descriptor_is_on(self, tree: Path) -> None:
        (tree / "source/file").touch()
        with (
            fd.open_path(tree / "source", os.O_PATH) as directory,
            mount.clone_tree("", directory=directory) as detached,
        ):
            assert names(detached) == ["below", "file"]

    def test_a_clone_of_a_path_below_a_descriptor(self, tree: Path) -> None:
        (tree / "source/below/file").touch()
        with fd.open_path(tree / "source", os.O_PATH) as directory, mount.clone_tree("below", directory=directory) as detached:
            assert names(detached) == ["file"]


class TestNewFilesystem:
    def test_options_arrive(self, tree: Path) -> None:
        def tmpfs() -> list[Mount]:
            tmpfs_at(tree / "target", ("size", "64k"), ("mode", "0711"))
            return rows(tree / "target")

        (row,) = apart(tmpfs)
        assert {"size=64k", "mode=711"} <= set(row.super_options)

    def test_a_flag_needs_no_value(self) -> None:
        with mount.new_filesystem("tmpfs", ["ro"]) as detached, pytest.raises(OSError) as caught:
            os.mkdir("below", dir_fd=detached.fileno())
        assert caught.value.errno == errno.EROFS

    def test_attributes_are_set_from_the_start(self, tree: Path) -> None:
        def tmpfs() -> list[Mount]:
            with mount.new_filesystem("tmpfs", attributes=lib.MOUNT_ATTR_NOSUID | lib.MOUNT_ATTR_NOEXEC) as detached:
                mount.attach(detached, tree / "target")
            return rows(tree / "target")

        assert {"nosuid", "noexec", "rw"} <= set(apart(tmpfs)[0].options)

    def test_the_refused_option_is_named(self) -> None:
        with pytest.raises(OSError, match="tmpfs option size=a lot") as caught:
            mount.new_filesystem("tmpfs", [("mode", "0700"), ("size", "a lot")])
        assert caught.value.errno == errno.EINVAL
        assert caught.value.__notes__ == ["in fsconfig(2)"]

    def test_an_unknown_file_system_is_named(self) -> None:
        with pytest.raises(OSError, match="'nofs'") as caught:
            mount.new_filesystem("nofs")
        assert caught.value.errno == errno.ENODEV

    @requires("kernel 6.7")
    def test_an_overlay_of_many_layers(self, tmp_path: Path) -> None:
        """One fsconfig call a layer: mount(2) gives up when the options exceed a page."""
        layers = [tmp_path / f"layer-{number:03}-{'x' * 60}" for number in range(100)]
        for layer in layers:
            layer.mkdir()
            (layer / "name").write_text(layer.name)
        (layers[-1] / "lowest").touch()
        with mount.new_filesystem("overlay", [("lowerdir+", str(layer)) for layer in layers]) as detached:
            assert names(detached) == ["lowest", "name"]
            with fd.Fd(os.open("name", os.O_RDONLY, dir_fd=detached.fileno())) as file:
                assert os.read(file.fileno(), 1000).decode() == layers[0].name


class TestAttributes:
    def test_they_are_added_and_cleared(self, tree: Path) -> None:
        def change() -> set[str]:
            with mount.new_filesystem("tmpfs") as detached:
                mount.set_attributes(detached, add=lib.MOUNT_ATTR_NODEV | lib.MOUNT_ATTR_NOSUID)
                mount.set_attributes(detached, add=lib.MOUNT_ATTR_RDONLY, clear=lib.MOUNT_ATTR_NOSUID)
                mount.attach(detached, tree / "target")
                mount.set_attributes(detached, clear=lib.MOUNT_ATTR_RDONLY)
            return set(rows(tree / "target")[0].options)

        options = apart(change)
        assert {"nodev", "rw"} <= options
        assert not options & {"nosuid", "ro"}

    def test_a_refused_attribute_is_an_error(self) -> None:
        with mount.new_filesystem("tmpfs") as detached, pytest.raises(OSError, match="Invalid argument") as caught:
            mount.set_attributes(detached, add=1 << 40)
        assert caught.value.__notes__ == ["in mount_setattr(2)"]

    def test_propagation_of_a_detached_mount(self, tree: Path) -> None:
        def share() -> bool:
            with mount.new_filesystem("tmpfs") as detached:
                mount.set_attributes(detached, propagation="shared")
                mount.attach(detached, tree / "target")
            return rows(tree / "target")[0].is_shared

        assert apart(share)


class TestPropagation:
    @pytest.mark.parametrize(("propagation", "arrives"), [("shared", True), ("slave", True), ("private", False)])
    def test_a_mount_reaches_a_copy_or_not(self, tree: Path, propagation: str, arrives: bool) -> None:
        def spread() -> bool:
            tmpfs_at(tree / "source")
            (tree / "source/below").mkdir()
            mount.set_propagation(tree / "source", "shared")
            mount.bind(tree / "source", tree / "target")
            mount.set_propagation(tree / "target", propagation)
            tmpfs_at(tree / "source/below")
            return bool(rows(tree / "target/below"))

        assert apart(spread) is arrives

    def test_unbindable_cannot_be_bound(self, tree: Path) -> None:
        def bind() -> None:
            tmpfs_at(tree / "source")
            mount.set_propagation(tree / "source", "unbindable")
            mount.bind(tree / "source", tree / "target")

        with pytest.raises(OSError, match="source"):
            apart(bind)

    def test_recursive_reaches_submounts(self, tree: Path) -> None:
        def share(recursive: bool) -> bool:
            tmpfs_at(tree / "source")
            (tree / "source/below").mkdir()
            tmpfs_at(tree / "source/below")
            mount.set_propagation(tree / "source", "shared", recursive=recursive)
            return rows(tree / "source/below")[0].is_shared

        assert apart(lambda: share(True))
        assert not apart(lambda: share(False))


class TestUnmount:
    def test_a_mount_goes(self, tree: Path) -> None:
        def come_and_go() -> list[Mount]:
            tmpfs_at(tree / "target")
            mount.unmount(tree / "target")
            return rows(tree / "target")

        assert apart(come_and_go) == []

    def test_a_busy_mount_goes_only_when_detached(self, tree: Path) -> None:
        def come_and_go() -> bytes:
            tmpfs_at(tree / "target")
            (tree / "target/file").write_bytes(b"still here")
            with fd.open_path(tree / "target/file") as file:
                with pytest.raises(OSError) as caught:
                    mount.unmount(tree / "target", detach=False)
                assert caught.value.errno == errno.EBUSY
                mount.unmount(tree / "target")
                assert rows(tree / "target") == []
                return os.read(file.fileno(), 100)

        assert apart(come_and_go) == b"still here"

    def test_a_link_is_not_followed(self, tree: Path) -> None:
        """A guest that puts a link where its mount was must not make us unmount the host's /proc."""
        (tree / "link").symlink_to("/proc")

        def follow() -> bool:
            with pytest.raises(OSError) as caught:
                mount.unmount(tree / "link")
            assert caught.value.errno == errno.EINVAL
            return os.path.ismount("/proc")

        assert apart(follow)

    def test_what_is_no_mount_is_an_error(self, tree: Path) -> None:
        with pytest.raises(OSError, match="target") as caught:
            mount.unmount(tree / "target")
        assert caught.value.errno == errno.EINVAL
        assert caught.value.__notes__ == ["in umount2(2)"]


class TestPivotRoot:
    def test_the_new_root_is_slash(self, tree: Path) -> None:
        def pivot() -> list[str]:
            tmpfs_at(tree / "target")
            (tree / "target/inside").touch()
            os.chdir(tree / "target")
            mount.pivot_root(".", ".")
            mount.unmount(".")
            return os.listdir("/")

        assert apart(pivot) == ["inside"]

    def test_a_root_that_is_no_mount_point_is_refused(self, tree: Path) -> None:
        def pivot() -> None:
            tmpfs_at(tree / "target")
            (tree / "target/below").mkdir()
            os.chdir(tree / "target/below")
            mount.pivot_root(".", ".")

        with pytest.raises(OSError, match="Invalid argument") as caught:
            apart(pivot)
        assert caught.value.__notes__[0] == "in pivot_root(2)"
