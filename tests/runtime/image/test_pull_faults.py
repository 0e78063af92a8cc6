"""Pulls from registries that fail, lie or stop; nothing of them may stay."""

from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from runtime.errors import (
    DigestMismatch,
    ImagePullFailed,
    InvalidReference,
    LayerRefused,
    RegistryRefused,
    RegistryUnavailable,
)
from runtime.image.layer import Limits
from runtime.image.layerwriter import Compression, LayerWriter
from runtime.image.pack import Package, Packer
from runtime.image.pull import pull
from runtime.image.push import push
from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from tests.runtime.image.conftest import left_behind
from tests.runtime.image.serving import Serve, package, serving
from tests.runtime.image.test_tar import archive, member
from tests.support.registry import faulty_registry, free_port, reply


@pytest.mark.parametrize(
    ("tar", "why"),
    [
        (archive((member("../../evil"), b"x")), r"entry '../../evil': the name contains '..'"),
        (archive(member("l", b"1", linkname="../../../etc/shadow")), r"entry 'l': a hard link to .*, which is outside the root"),
        (
            archive(member("l", b"1", linkname="/etc/shadow")),
            r"entry 'l': a hard link to '/etc/shadow', which is not in the image",
        ),
        (archive((member("f"), b"x" * 2000))[:1200], "ends in the middle"),
        (b"not a tar" * 100, "checksum"),
    ],
)
def test_a_hostile_layer_leaves_nothing(
    images: ImageStore, registry: Registry, distribution: str, paths: Paths, journal: Journal, tar: bytes, why: str
) -> None:
    packer = Packer()
    good, bad = LayerWriter(), LayerWriter("none")
    good.file("good", b"x")
    bad.raw(tar if len(tar) % 512 else tar.rstrip(b"\0") + bytes(-len(tar.rstrip(b"\0")) % 512))
    packer.add_layer(good)
    packer.add_layer(bad)
    made = packer.pack()
    name = f"{distribution}/hostile:{hashlib.sha256(tar).hexdigest()[:8]}"
    push(registry, made, name)
    with pytest.raises(LayerRefused, match=why) as caught:
        pull(images, registry, name)
    assert packer.layers[1].digest in str(caught.value)
    assert str(caught.value).startswith(f"pull {name}: layer sha256:")
    assert (images.list(), left_behind(paths), journal.open_intents()) == ([], [], [])


def test_a_bomb_is_stopped(images: ImageStore, registry: Registry, distribution: str, paths: Paths) -> None:
    made = package("a", size=200_000)
    push(registry, made, f"{distribution}/bomb:1")
    with pytest.raises(LayerRefused, match="unpacks to more than 100000 bytes"):
        pull(images, registry, f"{distribution}/bomb:1", limits=Limits(bytes=100_000))
    assert left_behind(paths) == []


def corrupt_layer(request: BaseHTTPRequestHandler, made: Package) -> bool:
    """Change one byte in the middle of every layer."""
    digest = request.path.rsplit("/", 1)[1]
    if digest not in made.layers:
        return False
    body = bytearray(b"".join(made.layers[digest].chunks()))
    body[len(body) // 2] ^= 0xFF
    reply(request, 200, bytes(body))
    return True


def corrupt_config(request: BaseHTTPRequestHandler, made: Package) -> bool:
    digest = request.path.rsplit("/", 1)[1]
    if "/blobs/" not in request.path or digest in made.layers:
        return False
    reply(request, 200, made.documents[digest].content[:-1] + b" ")
    return True


def corrupt_manifest(request: BaseHTTPRequestHandler, made: Package) -> bool:
    if "/manifests/sha256:" not in request.path or request.command == "HEAD":
        return False
    reply(request, 200, made.documents[made.root.digest].content + b" ")
    return True


def short_layer(request: BaseHTTPRequestHandler, made: Package) -> bool:
    digest = request.path.rsplit("/", 1)[1]
    if digest not in made.layers:
        return False
    reply(request, 200, b"".join(made.layers[digest].chunks())[:-100])
    return True


@pytest.mark.parametrize("fault", [corrupt_layer, corrupt_config, corrupt_manifest, short_layer])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_wrong_digest_leaves_nothing(
    images: ImageStore, registry: Registry, paths: Paths, journal: Journal, fault: Serve, compression: Compression
) -> None:
    made = package("a", "b", compression=compression)
    with faulty_registry(serving(made, fault)) as address, pytest.raises(DigestMismatch, match=r"digest|bytes came"):
        pull(images, registry, f"{address}/x@{made.root.digest}")
    assert (images.list(), left_behind(paths), journal.open_intents()) == ([], [], [])


def test_a_wrong_diff_id_leaves_nothing(images: ImageStore, registry: Registry, paths: Paths) -> None:
    packer = Packer()
    layer = LayerWriter()
    layer.file("f", b"x")
    finished = layer.finish()
    packer.add_layer(type(finished)(finished.digest, finished.size, "sha256:" + "e" * 64, finished.compression, finished.file))
    with (
        faulty_registry(serving(packer.pack())) as address,
        pytest.raises(DigestMismatch, match=r"diff id sha256:.* says sha256:eeee"),
    ):
        pull(images, registry, f"{address}/x:1")
    assert left_behind(paths) == []


def test_a_download_that_breaks_off_is_resumed(images: ImageStore, registry: Registry) -> None:
    asked: list[str | None] = []

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        digest = request.path.rsplit("/", 1)[1]
        if digest not in made.layers:
            return False
        body = b"".join(made.layers[digest].chunks())
        asked.append(request.headers["Range"])
        begin = int((request.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        request.send_response(206 if begin else 200)
        request.send_header("Content-Length", str(len(body) - begin))
        request.end_headers()
        request.wfile.write(body[begin : begin + 300_000])
        request.close_connection = True
        return True

    made = package("a", size=1_000_000)
    with faulty_registry(serving(made, fault)) as address:
        image = pull(images, registry, f"{address}/x:1")
    assert asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert images.find(image.id) is image


def test_a_registry_that_ignores_ranges_is_read_from_the_start(images: ImageStore, registry: Registry) -> None:
    asked: list[str | None] = []

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        digest = request.path.rsplit("/", 1)[1]
        if digest not in made.layers:
            return False
        body = b"".join(made.layers[digest].chunks())
        asked.append(request.headers["Range"])
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:100_000] if len(asked) == 1 else body)
        request.close_connection = True
        return True

    with faulty_registry(serving(package("a", size=400_000), fault)) as address:
        pull(images, registry, f"{address}/x:1")
    assert asked == [None, "bytes=100000-"]


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("127.0.0.1:{port}", "connection refused"),
        ("registry.invalid", "no such host"),
        ("registry.invalid:5000", "no such host"),
    ],
)
def test_an_unreachable_registry(
    images: ImageStore, registry: Registry, paths: Paths, journal: Journal, host: str, why: str
) -> None:
    host = host.format(port=free_port())
    with pytest.raises(RegistryUnavailable) as caught:
        pull(images, registry, f"{host}/app:1")
    assert str(caught.value).startswith("RegistryUnavailable: ")
    assert host in str(caught.value)
    assert why in str(caught.value)
    assert (left_behind(paths), journal.open_intents()) == ([], [])


def test_a_registry_that_stops_sending(images: ImageStore, paths: Paths) -> None:
    gone = threading.Event()

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        return "/blobs/" in request.path and gone.wait(20)

    with faulty_registry(serving(package("a"), fault)) as address:
        try:
            with pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable: .*: the registry stopped sending"):
                pull(images, Registry(read_seconds=0.2), f"{address}/x:1")
        finally:
            gone.set()
    assert left_behind(paths) == []


def test_a_registry_that_fails(images: ImageStore, registry: Registry) -> None:
    with (
        faulty_registry(lambda request: reply(request, 500, b"oops", Retry_After="0")) as address,
        pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable: .*the registry failed \(HTTP 500\)"),
    ):
        pull(images, registry, f"{address}/x:1")


def test_what_is_not_there(images: ImageStore, registry: Registry, distribution: str) -> None:
    with pytest.raises(RegistryRefused, match=rf"^pull {distribution}/nothing:1: .*not found.*manifest unknown \(HTTP 404\)"):
        pull(images, registry, f"{distribution}/nothing:1")
    with pytest.raises(InvalidReference):
        pull(images, registry, "Not A Name")


def test_an_artifact_is_no_image(images: ImageStore, registry: Registry) -> None:
    made = package("a")
    root = made.documents[made.root.digest]
    content = root.content.replace(b"application/vnd.oci.image.config.v1+json", b"application/vnd.example.thing.v1+json")
    with (
        faulty_registry(lambda request: reply(request, 200, content, Content_Type=root.media_type or "")) as address,
        pytest.raises(ImagePullFailed, match=r"an artifact of type 'application/vnd.example.thing.v1"),
    ):
        pull(images, registry, f"{address}/x:1")


def test_a_disk_too_small_is_said_at_once(
    images: ImageStore, registry: Registry, monkeypatch: pytest.MonkeyPatch, paths: Paths
) -> None:
    def full(path: Path) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 10, 0, 0, 0, 0, 0, 0, 255))

    with faulty_registry(serving(package("a"))) as address:
        monkeypatch.setattr("runtime.image.pull.os.statvfs", full)
        with pytest.raises(ImagePullFailed, match="are free in"):
            pull(images, registry, f"{address}/x:1")
    assert left_behind(paths) == []
