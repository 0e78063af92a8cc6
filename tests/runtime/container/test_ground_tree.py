"""Where paths will lead: what ``Tree`` says beforehand is what the kernel says afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel import mount
from kernel.fd import Fd, open_path
from kernel.resolve import open_in_root
from runtime.container.ground_tree import Tree
from runtime.errors import InvalidSpec
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root")

NAMES = ("a", "b", "c")
paths = st.lists(st.sampled_from([*NAMES, "..", "."]), min_size=1, max_size=4).map("/".join)
#: What is in a root or a volume: directories, files, and links, relative and absolute, that lead anywhere.
entries = st.dictionaries(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join),
    st.one_of(st.just("directory"), st.just("file"), paths.map(lambda path: f"->{path}"), paths.map(lambda path: f"->/{path}")),
    max_size=8,
)


def fill(directory: Path, content: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, kind in sorted(content.items()):
        place = directory / name
        if any(above.is_symlink() or above.is_file() for above in place.parents if above.is_relative_to(directory)):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            continue
        if kind == "directory":
            place.mkdir()
        elif kind == "file":
            place.touch()
        else:
            place.symlink_to(kind[2:])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def open_directory(path: Path) -> Fd:
    return open_path(path, os.O_PATH | os.O_DIRECTORY)


def as_the_kernel_says(root: Fd, path: str) -> str | None:
    try:
        with open_in_root(root, path) as file:
            found = os.readlink(f"/proc/self/fd/{file.fileno()}")
    except OSError:
        return None
    return found


def test_what_is_said_beforehand_is_what_the_kernel_does() -> None:
    """Links that cross mounts, mounts behind links, mounts that cover others: looked up, and then really mounted."""

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(entries, st.lists(st.tuples(paths, entries), max_size=3), st.lists(paths, min_size=1, max_size=6))
    def compare(content: dict[str, str], volumes: list[tuple[str, dict[str, str]]], wanted: list[str]) -> None:
        base = Path(tempfile.mkdtemp())
        opened: list[Fd] = []
        try:
            fill(base / "root", content)
            opened.append(mount.clone_tree(base / "root"))
            tree = Tree(opened[0])
            lay(base, tree, volumes, opened)
            said = {path: None if (place := tree.find("/" + path)) is None else place.path for path in wanted}
            mount.attach(opened[0], base / "root")
            for layer in tree._layers[1:]:
                assert layer.file is not None
                with open_in_root(opened[0], layer.prefix) as place:
                    mount.attach(layer.file, place)
            with open_directory(base / "root") as inside:
                prefix = os.readlink(f"/proc/self/fd/{inside.fileno()}")
                for path in wanted:
                    found = as_the_kernel_says(inside, path)
                    assert said[path] == (None if found is None else found.removeprefix(prefix) or "/"), path
        finally:
            for file in opened:
                file.close()
            with contextlib.suppress(OSError):
                mount.unmount(base / "root")
            shutil.rmtree(base)

    child.run(compare, namespaces=["mount"], deadline_seconds=100)


def lay(base: Path, tree: Tree, volumes: list[tuple[str, dict[str, str]]], opened: list[Fd]) -> None:
    for number, (path, inside) in enumerate(volumes):
        fill(base / f"volume{number}", inside)
        try:
            place = tree.make("/" + path, directory=True)
        except InvalidSpec:
            continue  # a file is in the way, or links go round
        if place.path == "/":
            continue
        opened.append(mount.clone_tree(base / f"volume{number}"))
        tree.lay(place.path, opened[-1])


def test_what_is_made_is_inside_and_has_its_owner(root: Path) -> None:
    (root / "out").symlink_to("../../../../etc/not-there")
    with open_directory(root) as file:
        tree = Tree(file, (7, 8))
        assert tree.make("/out/a/b", directory=True).path == "/etc/not-there/a/b"
        made = tree.make("/etc/not-there/file", directory=False)
    assert (made.path, made.mode, made.missing) == ("/etc/not-there/file", None, ())
    status = (root / "etc/not-there/a/b").stat()
    assert (status.st_uid, status.st_gid) == (7, 8)
    assert not Path("/etc/not-there").exists()


def test_what_comes_on_a_new_file_system_is_left_to_init(root: Path) -> None:
    with open_directory(root) as file:
        tree = Tree(file)
        tree.lay("/new", None, "tmpfs")
        assert tree.find("/new/a") is None
        assert tree.make("/new/a/b", directory=True).missing == ("/new/a", "/new/a/b")
        assert tree.make("/new/a/c/file", directory=False).missing == ("/new/a/c",)
        found = tree.find("/new/a/c/file")
        assert found is not None
        assert found.is_directory is False
        tree.lay("/disk", None, "ext4")
        unknown = tree.find("/disk/a")
        assert unknown is not None
        assert unknown.is_directory is None
        tree.lay("/proc", None, "proc")
        assert tree.find("/proc/none") is None
        assert tree.find("/proc/sys").is_directory is True  # type: ignore[union-attr]
        assert tree.make("/proc/self/fd/3", directory=True).missing == ()
    assert os.listdir(root) == []


@pytest.mark.parametrize("links", [{"x": "x"}, {"x": "y", "y": "x"}, {"x": "x/a"}])
def test_links_that_go_round_are_refused(root: Path, links: dict[str, str]) -> None:
    for name, target in links.items():
        (root / name).symlink_to(target)
    with open_directory(root) as file, pytest.raises(InvalidSpec, match=r"no place for it in the image: .*symbolic links"):
        Tree(file).make("/x/a", directory=True)


def test_a_place_of_the_other_kind_is_refused(root: Path) -> None:
    (root / "file").touch()
    with open_directory(root) as file:
        for path, directory, told in (
            ("/file", True, "not a directory"),
            ("/", False, "is a directory"),
            ("/file/x", True, "not a"),
        ):
            with pytest.raises(InvalidSpec, match=f"{path}: there is no place for it in the image: {told}"):
                Tree(file).make(path, directory=directory)
