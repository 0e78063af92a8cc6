from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kernel.fd import Fd
from kernel.mountinfo import load_mountinfo
from runtime import snapshot
from runtime.errors import InvalidArgument
from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Packer
from runtime.image.pull import load
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.support.requires import requires

pytestmark = requires("root", "kernel 5.11")


@pytest.fixture
def images(paths: Paths, store: Store, journal: Journal) -> ImageStore:
    return ImageStore(paths, store, journal, durable=False)


def lower_of(images: ImageStore, *layers: LayerWriter) -> list[Path]:
    packer = Packer()
    for layer in layers:
        packer.add_layer(layer)
    package = packer.pack()
    return images.lower_directories(load(images, package, "app", package.root.digest))


def two_layers() -> tuple[LayerWriter, LayerWriter]:
    below, above = LayerWriter(), LayerWriter()
    below.directory("etc", 0o750, gid=7)
    below.file("etc/kept", b"below")
    below.file("etc/gone", b"below")
    below.file("var/old", b"below")
    above.file("etc/new", b"above")
    above.whiteout("etc/gone")
    above.opaque("var")
    above.file("var/new", b"above")
    return below, above


def seen(root: Fd) -> Path:
    return Path(f"/proc/self/fd/{root.fileno()}")


def test_a_container_sees_its_image_and_writes_beside_it(images: ImageStore, paths: Paths) -> None:
    lower = lower_of(images, *two_layers())
    snapshot.prepare(paths, "c1")
    before = load_mountinfo()
    with snapshot.mount(paths, "c1", lower) as root:
        assert sorted(os.listdir(seen(root) / "etc")) == ["kept", "new"]
        assert os.listdir(seen(root) / "var") == ["new"]
        status = (seen(root) / "etc").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o750, 7)
        (seen(root) / "etc/kept").write_text("changed")
        (seen(root) / "etc/new").unlink()
        assert load_mountinfo() == before
    assert (paths.container("c1") / "upper/etc/kept").read_text() == "changed"
    assert (lower[1] / "etc/kept").read_text() == "below"
    snapshot.remove(paths, "c1")
    snapshot.remove(paths, "c1")
    assert os.listdir(paths.containers) == []


def test_two_containers_do_not_see_each_other(images: ImageStore, paths: Paths) -> None:
    lower = lower_of(images, *two_layers())
    for name in ("c1", "c2"):
        snapshot.prepare(paths, name)
    with snapshot.mount(paths, "c1", lower) as one, snapshot.mount(paths, "c2", lower) as two:
        (seen(one) / "mine").write_text("1")
        assert "mine" not in os.listdir(seen(two))


def test_an_opaque_root_hides_all_below(images: ImageStore, paths: Paths) -> None:
    below, above = LayerWriter(), LayerWriter()
    below.file("old")
    above.opaque()
    above.file("new")
    snapshot.prepare(paths, "c1")
    with snapshot.mount(paths, "c1", lower_of(images, below, above)) as root:
        assert os.listdir(seen(root)) == ["new"]


def test_the_root_has_the_image_s_owner_and_mode(images: ImageStore, paths: Paths) -> None:
    layer = LayerWriter()
    layer.directory("./", 0o711, uid=5, gid=6)
    snapshot.prepare(paths, "c1")
    lower = lower_of(images, layer)
    with snapshot.mount(paths, "c1", lower) as root:
        status = seen(root).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o711, 5, 6)
        seen(root).chmod(0o700)
    snapshot.prepare(paths, "c1")
    with snapshot.mount(paths, "c1", lower) as root:
        assert stat.S_IMODE(seen(root).stat().st_mode) == 0o700  # the container's own change stands


def test_read_only_covers_the_whole_root(images: ImageStore, paths: Paths) -> None:
    snapshot.prepare(paths, "c1")
    with snapshot.mount(paths, "c1", lower_of(images, *two_layers()), read_only=True) as root:
        with pytest.raises(OSError, match="Read-only"):
            (seen(root) / "etc/x").write_text("")
        assert (seen(root) / "etc/kept").read_text() == "below"


def test_a_volatile_upper_is_mounted_again_only_after_prepare(images: ImageStore, paths: Paths) -> None:
    lower = lower_of(images, *two_layers())
    snapshot.prepare(paths, "c1")
    with snapshot.mount(paths, "c1", lower) as root:
        (seen(root) / "written").write_text("x")
    with pytest.raises(OSError, match="overlay"):
        snapshot.mount(paths, "c1", lower)
    snapshot.prepare(paths, "c1")
    with snapshot.mount(paths, "c1", lower) as root:
        assert (seen(root) / "written").read_text() == "x"


def test_without_volatile_nothing_need_be_cleared(images: ImageStore, paths: Paths) -> None:
    lower = lower_of(images, *two_layers())
    snapshot.prepare(paths, "c1")
    for _ in range(2):
        snapshot.mount(paths, "c1", lower, volatile=False).close()


def test_an_image_without_layers_has_no_root(paths: Paths) -> None:
    snapshot.prepare(paths, "c1")
    with pytest.raises(InvalidArgument, match="no layers"):
        snapshot.mount(paths, "c1", [])
