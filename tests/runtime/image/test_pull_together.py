"""Pulls given up, and pulls at the same time."""

from __future__ import annotations

import os
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest

from runtime.errors import (
    Cancelled,
    LayerRefused,
)
from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Package, Packer
from runtime.image.pull import pull
from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from tests.runtime.image.conftest import left_behind
from tests.runtime.image.serving import package, serving, stall
from tests.runtime.image.test_tar import archive, member
from tests.support.registry import faulty_registry
from tests.support.wait import until


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
            threading.Thread(target=lambda name=name: found.append(pull(images, registry, f"{address}/{name}").id))
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
