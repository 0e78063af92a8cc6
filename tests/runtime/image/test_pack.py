from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from pathlib import Path

import pytest
from backports import zstd
from isal import isal_zlib

from runtime.errors import ImageNotFound
from runtime.image import manifest as m
from runtime.image.layerwriter import Compression, Layer, LayerWriter
from runtime.image.manifest import Descriptor, Index, Manifest, parse_manifest
from runtime.image.pack import Packer, pack_index, package_of
from runtime.image.store import ImageStore
from tests.runtime.image.test_store import add
from tests.runtime.image.test_store import package as package_with


def content(layer: Layer) -> bytes:
    data = b"".join(layer.chunks())
    if layer.compression == "gzip":
        return isal_zlib.decompress(data, 31)
    return zstd.decompress(data) if layer.compression == "zstd" else data


def names(layer: Layer) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(content(layer))) as tar:
        return tar.getnames()


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_the_same_input_gives_the_same_digests(compression: Compression, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z", "a", "b/c"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(0, 123_456_789))
    for name in (".", "b"):
        os.utime(tmp_path / name, ns=(0, 5))

    def made() -> Layer:
        writer = LayerWriter(compression)
        writer.tree(tmp_path)
        return writer.finish()

    first, second = made(), made()
    assert (first.digest, first.diff_id, first.size) == (second.digest, second.diff_id, second.size)
    assert names(first) == ["a", "b", "b/c", "z"]
    assert (first.digest == first.diff_id) is (compression == "none")


def test_a_tree_with_everything_that_is_in_one(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    os.link(tmp_path / "f", tmp_path / "g")
    (tmp_path / "s").symlink_to("f")
    os.mkfifo(tmp_path / "p")
    os.mknod(tmp_path / "gone", 0o020000, 0)
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(tmp_path / "f", "user.note", b"kept")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "sock"))
    writer = LayerWriter("none")
    writer.tree(tmp_path, "root")
    with tarfile.open(fileobj=io.BytesIO(content(writer.finish()))) as tar:
        kinds = {info.name: (info.type, info.linkname) for info in tar}
        assert tar.getmember("root/f").pax_headers["SCHILY.xattr.user.note"] == "kept"
    assert kinds == {
        "root/d": (tarfile.DIRTYPE, ""),
        "root/d/.wh..wh..opq": (tarfile.REGTYPE, ""),
        "root/f": (tarfile.REGTYPE, ""),
        "root/g": (tarfile.LNKTYPE, "root/f"),
        "root/.wh.gone": (tarfile.REGTYPE, ""),
        "root/p": (tarfile.FIFOTYPE, ""),
        "root/s": (tarfile.SYMTYPE, "f"),
    }


@pytest.mark.parametrize("docker", [False, True])
def test_documents_of_either_family(docker: bool) -> None:
    packer = Packer(docker=docker, architecture="arm64", variant="v8")
    packer.env, packer.labels, packer.user = ("A=b",), {"k": "v"}, "7"
    packer.add_layer(LayerWriter())
    made = packer.pack()
    document = parse_manifest(made.documents[made.root.digest].content, made.root.media_type)
    assert isinstance(document, Manifest)
    assert document.media_type == (m.DOCKER_MANIFEST if docker else m.OCI_MANIFEST)
    assert document.layers[0].media_type in m.LAYER_TYPES
    assert document.config.media_type == (m.DOCKER_CONFIG if docker else m.OCI_CONFIG)
    config = json.loads(made.documents[document.config.digest].content)
    assert config["config"] == {"Env": ["A=b"], "Labels": {"k": "v"}, "User": "7"}
    assert (config["architecture"], config["variant"], config["os"]) == ("arm64", "v8", "linux")


def test_an_index_of_several_platforms() -> None:
    packages = []
    for architecture in ("arm64", "amd64"):
        packer = Packer(architecture=architecture)
        packer.add_layer(LayerWriter())
        packages.append(packer.pack())
    made = pack_index(packages)
    document = parse_manifest(made.documents[made.root.digest].content, None)
    assert isinstance(document, Index)
    assert [str(entry.platform) for entry in document.manifests or []] == ["linux/arm64", "linux/amd64"]
    for entry in document.manifests or []:
        assert made.manifest(entry.digest).content == made.documents[entry.digest].content


def test_what_is_not_in_a_package() -> None:
    made = Packer().pack()
    with pytest.raises(ImageNotFound):
        made.manifest("sha256:" + "0" * 64)
    with pytest.raises(ImageNotFound):
        list(made.blob(Descriptor(media_type="", digest="sha256:" + "0" * 64, size=0)))


def test_a_stored_image_is_a_package_again(images: ImageStore) -> None:
    made = package_with("a", "b")
    add(images, "app", made)
    again = package_of(images, "app")
    assert (again.root.digest, set(again.documents), set(again.layers)) == (
        made.root.digest,
        set(made.documents),
        set(made.layers),
    )
    for digest, layer in again.layers.items():
        assert b"".join(layer.chunks()) == b"".join(made.layers[digest].chunks())
    with pytest.raises(ImageNotFound, match="image nothing is not on this node"):
        package_of(images, "nothing")


def test_a_file_that_shrinks_while_it_is_packed(tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.write_bytes(bytes(10))
    writer = LayerWriter("none")
    entry = writer._entry("f", b"0", 0o644, 0, 0, size=20)
    with source.open("rb") as opened, pytest.raises(OSError, match="became shorter"):
        writer._add(entry, opened)
