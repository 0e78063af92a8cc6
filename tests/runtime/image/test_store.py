from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from runtime.errors import ImageNotFound, InvalidArgument
from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Package, Packer
from runtime.image.pull import load
from runtime.image.records import Image, Usage, chain_ids_of
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.runtime.image.conftest import left_behind


def package(*files: str, user: str = "") -> Package:
    """An image with one layer per file."""
    packer = Packer()
    packer.user = user
    for name in files:
        layer = LayerWriter()
        layer.file(name, name.encode() * 5000)
        packer.add_layer(layer)
    return packer.pack()


def add(images: ImageStore, name: str, made: Package) -> Image:
    return load(images, made, name, made.root.digest)


def test_found_by_every_name(images: ImageStore) -> None:
    image = add(images, "app", package("a"))
    other = add(images, "127.0.0.1:5000/team/app:v1", package("b"))
    bare = image.id.removeprefix("sha256:")
    names = ["app", "app:latest", "docker.io/library/app", image.id, bare, bare[:12], f"sha256:{bare[:8]}", image.repo_digests[0]]
    for name in names:
        assert images.find(name) == image
    assert images.find("127.0.0.1:5000/team/app:v1") == other
    for name in ["", "app:v1", "nothing", "sha256:" + "0" * 64, bare[:4], "/etc", "127.0.0.1:5000/team/app"]:
        assert images.find(name) is None


def test_an_ambiguous_beginning_is_an_error(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.image.store.PREFIX_DIGITS", 1)
    firsts: list[str] = []
    while len(firsts) == len(set(firsts)):  # after seventeen at the latest
        firsts.append(add(images, f"app{len(firsts)}", package(f"{len(firsts)}")).id.removeprefix("sha256:")[0])
    with pytest.raises(InvalidArgument, match="the beginning of 2 ids; give more digits"):
        images.find(firsts[-1])
    assert all(images.find(first) is not None for first in firsts if first != firsts[-1])


def test_one_image_many_names(images: ImageStore) -> None:
    made = package("a")
    for name in ["zeta:1", "alpha:2", "quay.io/x/y:3"]:
        add(images, name, made)
    (image,) = images.list()
    assert image.repo_tags == ("docker.io/library/alpha:2", "docker.io/library/zeta:1", "quay.io/x/y:3")
    assert [name.partition("@")[0] for name in image.repo_digests] == [
        "docker.io/library/alpha",
        "docker.io/library/zeta",
        "quay.io/x/y",
    ]
    assert {name.partition("@")[2] for name in image.repo_digests} == {made.root.digest}
    assert images.find("alpha:2") is images.find(image.id)


def test_by_digest_there_is_no_tag(images: ImageStore) -> None:
    made = package("a")
    image = load(images, made, f"app:1@{made.root.digest}", made.root.digest)
    assert (image.repo_tags, image.repo_digests) == ((), (f"docker.io/library/app@{made.root.digest}",))


def test_a_tag_moves(images: ImageStore) -> None:
    old, new = add(images, "app:1", package("a")), add(images, "app:1", package("b"))
    assert images.find("app:1") == new
    found = images.find(old.id)
    assert found is not None
    assert (found.repo_tags, len(found.repo_digests)) == ((), 1)


def test_remove_by_any_name_removes_all(images: ImageStore, paths: Paths) -> None:
    made = package("a")
    for name in ["one", "two", "quay.io/x/y:3"]:
        image = add(images, name, made)
    images.remove("two:latest")
    images.remove("two:latest")
    assert (images.list(), images.find("one"), images.find(image.id)) == ([], None, None)
    assert left_behind(paths) == []
    assert images.usage() == Usage(0, 0)


def test_concurrent_removes_all_succeed(images: ImageStore, paths: Paths) -> None:
    image = add(images, "app", package("a", "b"))
    failures: list[BaseException] = []

    def remove() -> None:
        try:
            images.remove(image.id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=remove) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, left_behind(paths)) == ([], [])


def test_shared_layers_stay_for_the_other_image(images: ImageStore, paths: Paths) -> None:
    add(images, "small", package("base"))
    big = add(images, "big", package("base", "more"))
    images.remove("small")
    assert all(
        (directory / name).exists() for directory, name in zip(images.lower_directories(big), ["more", "base"], strict=True)
    )
    images.remove("big")
    assert left_behind(paths) == []


def test_layers_stay_while_a_container_uses_them(paths: Paths, store: Store, journal: Journal) -> None:
    used: set[str] = set()
    images = ImageStore(paths, store, journal, layer_in_use=used.__contains__, durable=False)
    image = add(images, "app", package("base", "more"))
    used.update(image.chain_ids)
    images.remove("app")
    assert images.list() == []
    assert len(os.listdir(paths.layers)) == 2
    assert images.usage().inodes == 4
    images.recover()
    assert len(os.listdir(paths.layers)) == 2
    used.clear()
    images.collect()
    assert left_behind(paths) == []


def test_held_layers_survive_a_removal(images: ImageStore, paths: Paths) -> None:
    image = add(images, "app", package("a"))
    with images.hold(image):
        images.remove("app")
        assert images.lower_directories(image)[0].is_dir()
    images.collect()
    assert left_behind(paths) == []
    with pytest.raises(ImageNotFound), images.hold(image):
        pass


def test_usage_is_what_the_disk_holds(images: ImageStore, paths: Paths) -> None:
    add(images, "one", package("base"))
    image = add(images, "two", package("base", "more"))
    files = [Path(name) for name in left_behind(paths)]
    assert images.usage().inodes == len(files)
    on_disk = sum(path.stat().st_blocks * 512 if path.is_relative_to(paths.layers) else path.stat().st_size for path in files)
    assert images.usage().bytes == on_disk
    assert 0 < image.size_bytes < images.usage().bytes


def test_layers_are_stacked_topmost_first_and_cut_at_an_opaque_root(images: ImageStore) -> None:
    packer = Packer()
    for number in range(3):
        layer = LayerWriter()
        if number == 1:
            layer.opaque()
        layer.file(f"f{number}")
        packer.add_layer(layer)
    stack = images.lower_directories(add(images, "app", packer.pack()))
    assert [sorted(os.listdir(directory)) for directory in stack] == [["f2"], ["f1"]]


def test_everything_is_known_again_after_a_restart(images: ImageStore, paths: Paths, store: Store, journal: Journal) -> None:
    made = package("a", "b", user="1000")
    for name in ["one", "two"]:
        add(images, name, made)
    again = ImageStore(paths, store, journal)
    again.recover()
    assert (again.list(), again.usage()) == (images.list(), images.usage())
    assert again.list()[0].config.uid == 1000


def test_recover_drops_what_is_incomplete(images: ImageStore, paths: Paths, store: Store, journal: Journal) -> None:
    broken, whole = add(images, "broken", package("a", "b")), add(images, "whole", package("a", "c"))
    images.lower_directories(broken)[0].rename(paths.root_dir / "lost")
    (paths.staging / "left").mkdir()
    (paths.staging / "left/file").write_text("x")
    (paths.layers / ("e" * 64)).mkdir()
    (paths.blobs / ("f" * 64)).write_text("x")
    (paths.blobs / "lost+found").mkdir()
    journal.begin("image:docker.io/library/x:1", "pull")
    journal.begin("sandbox:1", "run")
    again = ImageStore(paths, store, journal)
    again.recover()
    assert again.list() == [whole]
    assert len(os.listdir(paths.layers)) == 2
    assert not (paths.blobs / ("f" * 64)).exists()
    assert os.listdir(paths.staging) == []
    assert [intent.owner for intent in journal.open_intents()] == ["sandbox:1"]
    assert add(again, "broken", package("a", "b")).id == broken.id


def test_chain_ids_are_those_of_the_image_spec() -> None:
    first, second = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    # echo -n "sha256:aa.. sha256:bb.." | sha256sum
    assert chain_ids_of([first, second]) == (first, "sha256:" + _sha256(f"{first} {second}"))
    assert chain_ids_of([]) == ()


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
