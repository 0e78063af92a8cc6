from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import DigestMismatch, ImageNotFound, ImagePullFailed, InvalidReference
from runtime.image.layout import Layout, write_layout
from runtime.image.manifest import Descriptor
from runtime.image.pack import package_of
from runtime.image.pull import load
from runtime.image.store import ImageStore
from runtime.paths import Paths
from tests.runtime.image.conftest import left_behind
from tests.runtime.image.serving import package


def test_saved_and_loaded_again(images: ImageStore, tmp_path: Path) -> None:
    made = package("a", "b")
    image = load(images, made, "app:1", made.root.digest)
    write_layout(package_of(images, "app:1"), tmp_path / "out", "app:1")
    images.remove("app:1")
    with Layout(tmp_path / "out") as layout:
        assert layout.names() == {"app:1": made.root.digest}
        assert layout.root() == layout.root("app:1") == made.root.digest
        again = load(images, layout, "app:1", layout.root())
    assert again == image


def test_what_is_damaged_is_not_loaded(images: ImageStore, paths: Paths, tmp_path: Path) -> None:
    made = package("a")
    write_layout(made, tmp_path / "out", "app:1")
    blobs = tmp_path / "out/blobs/sha256"
    with Layout(tmp_path / "out") as layout:
        for digest in [*made.layers, *made.documents]:
            blob = blobs / digest.removeprefix("sha256:")
            content = blob.read_bytes()
            blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(DigestMismatch):
                load(images, layout, "app:1", made.root.digest)
            blob.unlink()
            with pytest.raises(ImageNotFound, match="is missing"):
                load(images, layout, "app:1", made.root.digest)
            blob.write_bytes(content)
    assert left_behind(paths) == []


def test_a_symlink_leads_nowhere_outside(tmp_path: Path) -> None:
    made = package("a")
    write_layout(made, tmp_path / "out", "app:1")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "out/index.json").unlink()
    (tmp_path / "out/index.json").symlink_to(tmp_path / "secret")
    with Layout(tmp_path / "out") as layout, pytest.raises(ImageNotFound, match="is this an OCI image layout"):
        layout.names()


def test_names_that_are_not_there(tmp_path: Path) -> None:
    made = package("a")
    write_layout(made, tmp_path / "out", "app:1")
    with Layout(tmp_path / "out") as layout:
        with pytest.raises(ImageNotFound, match="wanted one image called 'other', found 0"):
            layout.root("other")
        with pytest.raises(InvalidReference):
            layout.manifest("sha256:../../secret")
        with pytest.raises(ImageNotFound):
            list(layout.blob(Descriptor(media_type="", digest="sha256:" + "0" * 64, size=0)))
        index = tmp_path / "out/index.json"
        document = json.loads(index.read_text())
        document["manifests"] *= 2
        index.write_text(json.dumps(document))
        with pytest.raises(ImageNotFound, match="wanted one image, found 2"):
            layout.root()
        index.write_text("{}")
        with pytest.raises(ImagePullFailed):
            layout.root()
