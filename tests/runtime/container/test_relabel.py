"""Labels of a volume's files: all of them, no link followed, none that the node needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.container import relabel
from runtime.errors import HostPathNotFound, InvalidSpec
from tests.support.requires import requires

pytestmark = requires("root")

LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def label_of(path: Path) -> str | None:
    try:
        return os.getxattr(path, relabel.ATTRIBUTE, follow_symlinks=False).decode().rstrip("\0")
    except OSError:
        return None


def test_everything_below_is_labelled_and_nothing_else(tmp_path: Path) -> None:
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    (volume / "a/b").mkdir(parents=True)
    (volume / "a/b/file").touch()
    outside.mkdir()
    (outside / "secret").touch()
    (volume / "link").symlink_to(outside)
    os.mkfifo(volume / "fifo")
    relabel.relabel(str(volume), LABEL)
    assert {label_of(path) for path in (volume, *volume.rglob("*"))} == {LABEL}
    assert (label_of(outside), label_of(outside / "secret")) == (None, None)


def test_a_single_file_and_a_volume_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    relabel.relabel(str(tmp_path / "link"), LABEL)
    assert label_of(tmp_path / "file") == LABEL


def test_what_the_node_needs_is_refused_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "etc").symlink_to("/etc")
    for path in ("/", "/etc/", "/usr/../etc", str(tmp_path / "etc")):
        with pytest.raises(InvalidSpec, match="the node needs the labels"):
            relabel.relabel(path, LABEL)
    assert label_of(Path("/etc")) != LABEL


def test_a_volume_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostPathNotFound, match=r"selinux_relabel: .*absent: no such file"):
        relabel.relabel(str(tmp_path / "absent"), LABEL)


def test_a_file_system_without_labels_is_left_alone() -> None:
    relabel.relabel("/proc/self/status", LABEL)
