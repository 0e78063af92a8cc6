"""Pulls from Debian's docker-registry."""

from __future__ import annotations

import os
import urllib.request
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote

import pytest

from runtime.errors import (
    ImagePullFailed,
    RegistryRefused,
)
from runtime.image.auth import Credentials
from runtime.image.layerwriter import Compression, LayerWriter
from runtime.image.manifest import OCI_INDEX
from runtime.image.mirrors import Mirrors
from runtime.image.pack import Package, Packer, pack_index
from runtime.image.pull import load, pull
from runtime.image.push import push
from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from tests.runtime.image.conftest import left_behind
from tests.runtime.image.serving import package, serving
from tests.support.image import busybox_package
from tests.support.registry import docker_registry, faulty_registry, free_port, reply
from tests.support.requires import requires


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
    registry = Registry(mirrors={"registry.k8s.io": Mirrors((f"http://{distribution}",), fall_back=False)})
    made = package("a")
    push(registry, made, f"{distribution}/mirrored/app:1")
    image = pull(images, registry, "registry.k8s.io/mirrored/app:1")
    assert image.repo_tags == ("registry.k8s.io/mirrored/app:1",)
    assert image.repo_digests == (f"registry.k8s.io/mirrored/app@{made.root.digest}",)


def test_mirrors_are_asked_in_order_and_then_the_registry(images: ImageStore, distribution: str) -> None:
    asked: list[str] = []

    def refusing(request: BaseHTTPRequestHandler) -> None:
        asked.append(str(request.path))
        reply(request, 404)

    push(Registry(), package("a"), f"{distribution}/app:1")
    with faulty_registry(refusing) as refuses:
        nobody = f"http://127.0.0.1:{free_port()}"
        mirrors = {distribution: Mirrors((nobody, f"http://{refuses}/prefix/"))}
        image = pull(images, Registry(mirrors=mirrors), f"{distribution}/app:1")
        assert image.repo_tags == (f"{distribution}/app:1",)
        assert asked[0] == f"/prefix/v2/app/manifests/1?ns={quote(distribution)}"
        every = Registry(mirrors={"*": Mirrors((f"http://{distribution}",))})
        assert pull(images, every, "nowhere.example/app:1").id == image.id


def test_a_mirror_that_breaks_off_leaves_nothing_to_the_next(
    images: ImageStore, distribution: str, journal: Journal, paths: Paths
) -> None:
    made = package("a", "b")
    root = push(Registry(), made, f"{distribution}/app:1")
    lost = list(made.layers)[-1]

    def without_layers(request: BaseHTTPRequestHandler) -> None:
        """A mirror that has the documents, and loses the rest."""
        if f"/blobs/{lost}" in request.path:
            return reply(request, 404)
        same = urllib.request.Request(
            f"http://{distribution}{request.path}", headers={"Accept": request.headers["Accept"] or "*/*"}
        )
        with urllib.request.urlopen(same) as answer:
            wanted = {"Content_Type": answer.headers["Content-Type"] or "", "Docker_Content_Digest": root}
            return reply(request, 200, answer.read(), **wanted)

    with faulty_registry(without_layers) as address:
        registry = Registry(mirrors={distribution: Mirrors((f"http://{address}",))})
        assert pull(images, registry, f"{distribution}/app:1").repo_tags == (f"{distribution}/app:1",)
    assert (os.listdir(paths.staging), journal.open_intents()) == ([], [])


def test_what_all_of_them_said_is_told(images: ImageStore) -> None:
    with (
        faulty_registry(lambda request: reply(request, 404)) as first,
        faulty_registry(lambda request: reply(request, 403)) as own,
    ):
        registry = Registry(mirrors={own: Mirrors((f"http://{first}",))})
        message = rf"^pull {own}/app:1: http://{own}: .*HTTP 403\); before that, its mirror http://{first}: .*HTTP 404"
        with pytest.raises(RegistryRefused, match=message):
            pull(images, registry, f"{own}/app:1")
        alone = Registry(mirrors={own: Mirrors((f"http://{first}",), fall_back=False)})
        with pytest.raises(RegistryRefused, match=rf"^pull {own}/app:1: http://{first}: .*HTTP 404\)$"):
            pull(images, alone, f"{own}/app:1")


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
