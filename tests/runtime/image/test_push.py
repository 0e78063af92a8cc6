from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler

import pytest

from runtime.errors import RegistryRefused, RegistryUnavailable
from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Packer, package_of
from runtime.image.pull import pull
from runtime.image.push import push
from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from tests.support.registry import faulty_registry, free_port, reply


def big_packer() -> Packer:
    packer = Packer()
    layer = LayerWriter()
    layer.file("f", os.urandom(3_000_000))
    packer.add_layer(layer)
    return packer


def test_what_was_pulled_can_be_pushed_elsewhere(images: ImageStore, registry: Registry, distribution: str) -> None:
    made = big_packer().pack()
    push(registry, made, f"{distribution}/push/from:1")
    image = pull(images, registry, f"{distribution}/push/from:1")
    assert push(registry, package_of(images, image.id), f"{distribution}/push/to:2") == made.root.digest
    assert pull(images, registry, f"{distribution}/push/to:2").id == image.id


def test_blobs_that_are_there_are_not_sent_again(registry: Registry) -> None:
    asked: list[str] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.command)
        request.rfile.read(int(request.headers["Content-Length"] or 0))
        reply(request, 201 if request.command == "PUT" else 200)

    with faulty_registry(handle) as address:
        push(registry, big_packer().pack(), f"{address}/x:1")
    assert asked == ["HEAD", "HEAD", "PUT"]


def test_a_registry_that_takes_no_uploads(registry: Registry) -> None:
    with (
        faulty_registry(lambda request: reply(request, 404 if request.command == "HEAD" else 405)) as address,
        pytest.raises(RegistryRefused, match=rf"^push {address}/x:1: .*upload of blob sha256:.* \(HTTP 405\)"),
    ):
        push(registry, big_packer().pack(), f"{address}/x:1")


def test_a_registry_that_names_no_place(registry: Registry) -> None:
    with (
        faulty_registry(lambda request: reply(request, 404 if request.command == "HEAD" else 202)) as address,
        pytest.raises(RegistryRefused, match="names no place"),
    ):
        push(registry, big_packer().pack(), f"{address}/x:1")


def test_nobody_there(registry: Registry) -> None:
    with pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable: "):
        push(registry, big_packer().pack(), f"127.0.0.1:{free_port()}/x:1")
