"""Pulls from Debian's docker-registry, and from one that misbehaves."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from runtime.errors import (
    Cancelled,
    DigestMismatch,
    ImagePullFailed,
    InvalidReference,
    LayerRefused,
    RegistryRefused,
    RegistryUnavailable,
)
from runtime.image.auth import Credentials
from runtime.image.layer import Limits
from runtime.image.layerwriter import Compression, LayerWriter
from runtime.image.manifest import OCI_INDEX
from runtime.image.pack import Package, Packer, pack_index
from runtime.image.pull import load, pull
from runtime.image.push import push
from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from tests.runtime.image.conftest import left_behind
from tests.runtime.image.test_tar import archive, member
from tests.support.image import busybox_package
from tests.support.registry import docker_registry, faulty_registry, free_port, reply
from tests.support.requires import requires
from tests.support.wait import until


def package(
    *names: str, compression: Compression = "gzip", docker: bool = False, architecture: str | None = None, size: int = 20_000
) -> Package:
    """An image with one layer per name."""
    packer = Packer(docker=docker, architecture=architecture)
    for name in names:
        layer = LayerWriter(compression)
        layer.directory("d", 0o755)
        layer.file(f"d/{name}", os.urandom(size))
        packer.add_layer(layer)
    return packer.pack()


def hostile(tar: bytes) -> Package:
    """An image with one layer of these bytes, end marker and all."""
    packer = Packer()
    layer = LayerWriter()
    layer.raw(tar.rstrip(b"\0").ljust(-(-len(tar.rstrip(b"\0")) // 512) * 512, b"\0"))
    packer.add_layer(layer)
    return packer.pack()


Serve = Callable[[BaseHTTPRequestHandler, Package], bool]


def serving(made: Package, fault: Serve = lambda request, made: False) -> Callable[[BaseHTTPRequestHandler], None]:
    """A registry that has *made* under every tag; *fault* may answer instead and says whether it did."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        if fault(request, made):
            return
        _, kind, target = request.path.partition("?")[0].rsplit("/", 2)
        if kind == "manifests":
            document = made.documents.get(target) or made.documents[made.root.digest]
            headers = {"Content_Type": document.media_type or "", "Docker_Content_Digest": document.digest}
            reply(request, 200, document.content, **headers)
        elif target in made.layers:
            body = b"".join(made.layers[target].chunks())
            reply(request, 200, body)
        else:
            reply(request, 200, made.documents[target].content)

    return handle


def test_by_tag(images: ImageStore, registry: Registry, distribution: str, paths: Paths, journal: Journal) -> None:
    made = package("a", "b", "c")
    assert push(registry, made, f"{distribution}/by/tag:1") == made.root.digest
    image = pull(images, registry, f"{distribution}/by/tag:1")
    assert image.repo_tags == (f"{distribution}/by/tag:1",)
    assert image.repo_digests == (f"{distribution}/by/tag@{made.root.digest}",)
    assert images.find(f"{distribution}/by/tag:1") is image
    assert [os.listdir(layer / "d") for layer in images.lower_directories(image)] == [["c"], ["b"], ["a"]]
    assert set(os.listdir(paths.blobs)) == {digest.removeprefix("sha256:") for digest in [*made.documents, *made.layers]}
    assert (os.listdir(paths.staging), journal.open_intents()) == ([], [])


def test_by_digest_there_is_no_tag(images: ImageStore, registry: Registry, distribution: str) -> None:
    made = package("a")
    push(registry, made, f"{distribution}/by/digest:1")
    image = pull(images, registry, f"{distribution}/by/digest@{made.root.digest}")
    assert (image.repo_tags, image.repo_digests) == ((), (f"{distribution}/by/digest@{made.root.digest}",))


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_every_family_and_compression(
    images: ImageStore, registry: Registry, distribution: str, docker: bool, compression: Compression
) -> None:
    made = package("a", "b", docker=docker, compression=compression)
    name = f"{distribution}/family/{compression}:{int(docker)}"
    push(registry, made, name)
    image = pull(images, registry, name)
    assert [os.listdir(layer / "d") for layer in images.lower_directories(image)] == [["b"], ["a"]]


@pytest.mark.parametrize("docker", [False, True])
def test_the_right_platform_of_an_index(
    images: ImageStore, registry: Registry, distribution: str, docker: bool, paths: Paths
) -> None:
    here, there = package("here", docker=docker), package("there", docker=docker, architecture="s390x")
    made = pack_index([there, here], docker=docker)
    name = f"{distribution}/index:{int(docker)}"
    push(registry, made, name)
    image = pull(images, registry, name)
    assert os.listdir(images.lower_directories(image)[0] / "d") == ["here"]
    assert image.repo_digests == (f"{distribution}/index@{made.root.digest}",)
    assert not any((paths.blobs / digest.removeprefix("sha256:")).exists() for digest in there.layers)
    push(registry, pack_index([there], docker=docker), f"{name}-other")
    with pytest.raises(ImagePullFailed, match=r"no image for linux/.* offers linux/s390x"):
        pull(images, registry, f"{name}-other")


def test_an_image_for_another_machine_is_refused_before_its_layers(images: ImageStore, registry: Registry, paths: Paths) -> None:
    asked: list[str] = []

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        asked.append(request.path)
        return False

    made = package("a", architecture="s390x")
    with (
        faulty_registry(serving(made, fault)) as address,
        pytest.raises(ImagePullFailed, match="the image is for linux/s390x, this node"),
    ):
        pull(images, registry, f"{address}/x:1")
    assert not any(digest in path for path in asked for digest in made.layers)
    assert left_behind(paths) == []


def test_busybox(images: ImageStore, registry: Registry, distribution: str) -> None:
    push(registry, busybox_package(), f"{distribution}/busybox:1")
    (layer,) = images.lower_directories(pull(images, registry, f"{distribution}/busybox:1"))
    assert (layer / "bin/sh").stat().st_nlink > 200
    assert os.access(layer / "bin/ls", os.X_OK)
    assert (layer / "etc/passwd").read_text().startswith("root:")


def test_a_present_image_costs_one_head(images: ImageStore, registry: Registry) -> None:
    asked: list[str] = []

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        asked.append(f"{request.command} {request.path}")
        return False

    made = package("a")
    with faulty_registry(serving(made, fault)) as address:
        first = pull(images, registry, f"{address}/x:1")
        asked.clear()
        assert pull(images, registry, f"{address}/x:1") is first
        assert pull(images, registry, f"{address}/x@{made.root.digest}") is first
        other = pull(images, registry, f"{address}/other/name:2")
    assert asked == ["HEAD /v2/x/manifests/1", f"HEAD /v2/x/manifests/{made.root.digest}", "HEAD /v2/other/name/manifests/2"]
    assert (other.id, len(other.repo_tags)) == (first.id, 2)


def test_two_manifests_of_one_config(images: ImageStore, registry: Registry, distribution: str) -> None:
    zipped, squeezed = Packer(), Packer()
    for packer, compression in ((zipped, "gzip"), (squeezed, "zstd")):
        layer = LayerWriter(compression)  # type: ignore[arg-type]
        layer.file("same", b"same" * 1000)
        packer.add_layer(layer)
    for name, packer in (("gzip", zipped), ("zstd", squeezed)):
        push(registry, packer.pack(), f"{distribution}/same:{name}")
    first = pull(images, registry, f"{distribution}/same:gzip")
    second = pull(images, registry, f"{distribution}/same:zstd")
    assert (first.id, len(second.repo_tags), len(second.repo_digests)) == (second.id, 2, 2)


def test_shared_layers_are_fetched_once(images: ImageStore, registry: Registry, paths: Paths) -> None:
    base = LayerWriter()
    base.file("base", os.urandom(1000))
    shared = base.finish()
    fetched: list[str] = []

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        fetched.append(request.path)
        return False

    for number in range(3):
        packer = Packer()
        packer.add_layer(shared)
        top = LayerWriter()
        top.file(f"top{number}")
        packer.add_layer(top)
        with faulty_registry(serving(packer.pack(), fault)) as address:
            pull(images, registry, f"{address}/x:{number}")
    assert sum(shared.digest in path for path in fetched) == 1
    assert len(os.listdir(paths.layers)) == 4


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


def stall(reached: threading.Event, until_over: threading.Event, part: str, after: int) -> Serve:
    """Send *after* bytes of what has *part* in its path, then nothing."""

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        digest = request.path.rsplit("/", 1)[1]
        if part not in request.path or (after and digest not in made.layers):
            return False
        if after:
            request.send_response(200)
            request.send_header("Content-Length", str(made.layers[digest].size))
            request.end_headers()
            request.wfile.write(b"".join(made.layers[digest].chunks())[:after])
            request.wfile.flush()
        reached.set()
        until_over.wait(20)
        request.close_connection = True
        return True

    return fault


@pytest.mark.parametrize(("part", "after"), [("/manifests/", 0), ("/blobs/", 0), ("/blobs/", 100_000)])
def test_cancelled_at_once_wherever_it_waits(
    images: ImageStore, registry: Registry, paths: Paths, journal: Journal, part: str, after: int
) -> None:
    made = package("a", "b", "c", size=500_000)
    reached, over, cancelled = threading.Event(), threading.Event(), threading.Event()
    outcome: list[tuple[type[BaseException], float]] = []

    def work() -> None:
        try:
            pull(images, registry, f"{address}/x:1", cancelled=cancelled)
        except BaseException as error:
            outcome.append((type(error), time.monotonic()))

    with faulty_registry(serving(made, stall(reached, over, part, after))) as address:
        thread = threading.Thread(target=work)
        thread.start()
        assert reached.wait(10)
        set_at = time.monotonic()
        cancelled.set()
        thread.join()
        over.set()
    ((kind, ended_at),) = outcome
    assert kind is Cancelled
    assert ended_at - set_at < 1.0  # 0.1 s on a machine with nothing else to do
    assert (images.list(), left_behind(paths), journal.open_intents()) == ([], [], [])


def test_cancelled_before_it_begins(images: ImageStore, registry: Registry) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        pull(images, registry, "registry.invalid/x:1", cancelled=cancelled)


def test_many_pulls_of_one_image_fetch_it_once(images: ImageStore, registry: Registry) -> None:
    fetched: list[str] = []

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        if request.command == "GET":
            fetched.append(request.path)
        return False

    made = package("a", "b", "c", size=100_000)
    found: list[str] = []
    with faulty_registry(serving(made, fault)) as address:
        threads = [
            threading.Thread(target=lambda name=name: found.append(pull(images, registry, f"{address}/{name}").id))  # type: ignore[misc]
            for name in ["x:1", "x:2", "y:1", "x:1", "y:1", "x:1"]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(found), len(set(found))) == (6, 1)
    assert sorted(path for path in fetched if path.rsplit("/", 1)[1] in made.layers).__len__() == 3
    assert images.list()[0].repo_tags == (f"{address}/x:1", f"{address}/x:2", f"{address}/y:1")


def test_a_follower_takes_over_from_a_cancelled_leader(images: ImageStore, registry: Registry, paths: Paths) -> None:
    made = package("a", "b", size=300_000)
    reached, over, cancelled = threading.Event(), threading.Event(), threading.Event()
    stalling = stall(reached, over, "/v2/slow/blobs/", 100_000)
    found: list[str] = []
    failed: list[type[BaseException]] = []

    def lead() -> None:
        try:
            pull(images, registry, f"{address}/slow:1", cancelled=cancelled)
        except BaseException as error:
            failed.append(type(error))

    with faulty_registry(serving(made, stalling)) as address:
        leader = threading.Thread(target=lead)
        leader.start()
        assert reached.wait(10)
        follower = threading.Thread(target=lambda: found.append(pull(images, registry, f"{address}/quick:1").id))
        follower.start()
        until(lambda: any(flight.users > 1 for flight in images.flights._flights.values()), 10)
        cancelled.set()
        leader.join()
        follower.join()
        over.set()
    assert (failed, len(found)) == ([Cancelled], 1)
    assert len(os.listdir(paths.layers)) == 2


def test_a_pull_that_fails_keeps_what_others_need(images: ImageStore, registry: Registry, paths: Paths) -> None:
    base = LayerWriter()
    base.file("base", b"x")
    shared = base.finish()
    good, bad = Packer(), Packer()
    good.add_layer(shared)
    bad.add_layer(shared)
    evil = LayerWriter("none")
    evil.raw(archive((member("../x"), b"")))
    bad.add_layer(evil)
    with faulty_registry(serving(good.pack())) as address:
        image = pull(images, registry, f"{address}/good:1")
    before = left_behind(paths)
    with faulty_registry(serving(bad.pack())) as address, pytest.raises(LayerRefused):
        pull(images, registry, f"{address}/bad:1")
    assert left_behind(paths) == before
    assert images.find(image.id) is image


@requires("docker-registry")
def test_with_name_and_password(images: ImageStore, registry: Registry) -> None:
    htpasswd = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"  # "secret"
    right, wrong = Credentials("user", "secret"), Credentials("user", "wrong")
    with docker_registry(htpasswd=htpasswd) as address:
        push(registry, package("a"), f"{address}/private:1", credentials=right)
        with pytest.raises(RegistryRefused, match="wants a name and password, and none were given"):
            pull(images, registry, f"{address}/private:1")
        with pytest.raises(RegistryRefused, match=r"access refused with the credentials given.*HTTP 401"):
            pull(images, registry, f"{address}/private:1", credentials=wrong)
        elsewhere = Credentials("user", "secret", server_address="quay.io")
        with pytest.raises(RegistryRefused, match="none were given"):
            pull(images, registry, f"{address}/private:1", credentials=elsewhere)
        assert pull(images, registry, f"{address}/private:1", credentials=right).repo_tags
        with pytest.raises(RegistryRefused):  # present here, but not for everyone
            pull(images, registry, f"{address}/private:1")


def test_a_mirror_is_asked_in_the_registry_s_place(images: ImageStore, distribution: str) -> None:
    registry = Registry(mirrors={"registry.k8s.io": f"http://{distribution}"})
    made = package("a")
    push(registry, made, f"{distribution}/mirrored/app:1")
    image = pull(images, registry, "registry.k8s.io/mirrored/app:1")
    assert image.repo_tags == ("registry.k8s.io/mirrored/app:1",)
    assert image.repo_digests == (f"registry.k8s.io/mirrored/app@{made.root.digest}",)


def test_an_artifact_is_no_image(images: ImageStore, registry: Registry) -> None:
    made = package("a")
    root = made.documents[made.root.digest]
    content = root.content.replace(b"application/vnd.oci.image.config.v1+json", b"application/vnd.example.thing.v1+json")
    with (
        faulty_registry(lambda request: reply(request, 200, content, Content_Type=root.media_type or "")) as address,
        pytest.raises(ImagePullFailed, match=r"an artifact of type 'application/vnd.example.thing.v1"),
    ):
        pull(images, registry, f"{address}/x:1")


def test_an_index_in_itself_has_an_end(images: ImageStore, registry: Registry) -> None:
    made = pack_index([pack_index([pack_index([pack_index([package("a")])])])])
    assert made.root.media_type == OCI_INDEX
    with pytest.raises(ImagePullFailed, match="more than 3 deep"):
        load(images, made, "deep", made.root.digest)
    shallow = pack_index([pack_index([package("a")])])
    assert load(images, shallow, "shallow", shallow.root.digest).repo_tags == ("docker.io/library/shallow:latest",)


def test_an_image_of_no_layers(images: ImageStore, registry: Registry, distribution: str) -> None:
    push(registry, Packer().pack(), f"{distribution}/empty:1")
    image = pull(images, registry, f"{distribution}/empty:1")
    assert (images.lower_directories(image), image.size_bytes > 0) == ([], True)


def test_many_layers(images: ImageStore, registry: Registry, distribution: str) -> None:
    made = package(*(f"f{number}" for number in range(60)), size=100)
    push(registry, made, f"{distribution}/many:1")
    assert len(images.lower_directories(pull(images, registry, f"{distribution}/many:1"))) == 60


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
