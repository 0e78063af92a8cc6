"""Sizes of trees: what du(1) says, also of trees that were made to break a walk."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from kernel.fd import open_path
from kernel.filesystem import remove_tree
from kernel.tree_size import TreeSize, measure
from tests.support.requires import requires


def size_of(path: Path, give_up: Callable[[], bool] = lambda: False) -> TreeSize | None:
    with open_path(path, os.O_RDONLY | os.O_DIRECTORY) as top:
        return measure(top, give_up)


def du(path: Path) -> TreeSize:
    def ask(*options: str) -> int:
        return int(subprocess.run(["du", "-s", *options, path], check=True, capture_output=True, text=True).stdout.split()[0])

    return TreeSize(ask("-B1"), ask("--inodes"))


def test_it_is_what_du_says(tmp_path: Path) -> None:
    for number in range(20):
        directory = tmp_path / f"{number % 4}" / f"{number}"
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(b"x" * number * 1000)
        os.symlink("/", directory / "out")
    os.link(tmp_path / "1/5/file", tmp_path / "again")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    found = size_of(tmp_path)
    assert found == du(tmp_path)
    assert found is not None
    assert found.bytes < 1 << 20  # what is allocated, not what is claimed
    assert size_of(tmp_path, lambda: True) is None


def test_a_tree_deeper_than_descriptors_and_recursion_go(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    try:
        for _ in range(3000):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
    finally:
        os.close(here)
    found = size_of(top)
    with open_path(tmp_path, os.O_RDONLY) as parent:
        remove_tree(parent, "top")
    assert found is not None
    assert found.inodes == 3001


@requires("root")
def test_what_is_mounted_inside_is_not_its_own(tmp_path: Path) -> None:
    from kernel import mount

    (tmp_path / "tree/inside").mkdir(parents=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_bytes(b"x" * 100_000)
    before = size_of(tmp_path / "tree")
    mount.bind(other, tmp_path / "tree/inside", recursive=False)
    try:
        found = size_of(tmp_path / "tree")
    finally:
        mount.unmount(tmp_path / "tree/inside")
    assert before is not None
    assert found is not None
    assert found.inodes == before.inodes == 2


def test_what_is_moved_while_it_is_looked_at_leads_nowhere_else(tmp_path: Path) -> None:
    """The directory that the walk is in is put somewhere else: the way up ends where it began, not in the new place."""
    tree, away = tmp_path / "tree", tmp_path / "away"
    (tree / "a/b/c").mkdir(parents=True)
    away.mkdir()
    for number in range(1000):
        (away / f"{number}").touch()
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            os.rename(tree / "a/b", away / "b")
            os.rename(away / "b", tree / "a/b")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        found = [size_of(tree) for _ in range(300)]
    finally:
        stop.set()
        mover.join()
    assert {each.inodes for each in found if each} <= {2, 3, 4}
    shutil.rmtree(away)
