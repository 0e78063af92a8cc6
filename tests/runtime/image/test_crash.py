"""kill -9 in the middle of a pull: recover() leaves nothing, and the same pull succeeds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Package, Packer
from runtime.image.pull import pull
from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.runtime.image.conftest import left_behind
from tests.runtime.image.serving import serving
from tests.support.registry import faulty_registry
from tests.support.wait import until

SCRIPT = """
import sys
from pathlib import Path
from runtime.image.pull import pull
from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store

paths = Paths(Path(sys.argv[1]), Path(sys.argv[2]))
store = Store(paths.database)
print(pull(ImageStore(paths, store, Journal(store), durable=False), Registry(), sys.argv[3]).id)
"""

TREE = Path(__file__).resolve().parents[3]


def package(layers: int = 4, size: int = 300_000) -> Package:
    packer = Packer()
    for number in range(layers):
        layer = LayerWriter()
        for part in range(20):
            layer.file(f"layer{number}/file{part}", os.urandom(size // 20))
        packer.add_layer(layer)
    return packer.pack()


def start(paths: Paths, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(paths.root_dir), str(paths.run_dir), name]
    return subprocess.Popen(command, cwd=TREE, stdout=subprocess.PIPE)


def after_restart(paths: Paths) -> tuple[Store, ImageStore]:
    store = Store(paths.database)
    images = ImageStore(paths, store, Journal(store), durable=False)
    images.recover()
    return store, images


def held_back(over: threading.Event, made: Package, number: int, bytes_sent: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Serve *made*, but stop in the middle of its layer *number*."""
    digest = list(made.layers)[number]

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        if not request.path.endswith(digest):
            return False
        request.send_response(200)
        request.send_header("Content-Length", str(made.layers[digest].size))
        request.end_headers()
        request.wfile.write(b"".join(made.layers[digest].chunks())[:bytes_sent])
        request.wfile.flush()
        over.wait(30)
        request.close_connection = True
        return True

    return serving(made, fault)


def in_staging(paths: Paths) -> bool:
    return any(path.name.startswith("layer-") for path in paths.staging.glob("*/*"))


def file_unpacked(paths: Paths) -> bool:
    return any(paths.staging.glob("*/layer-*/layer*/file*"))


def layer_published(paths: Paths) -> bool:
    return any(paths.layers.iterdir())


@pytest.mark.parametrize("moment", [in_staging, file_unpacked, layer_published])
def test_killed_in_the_middle(paths: Paths, moment: Callable[[Paths], bool]) -> None:
    made, over = package(), threading.Event()
    with faulty_registry(held_back(over, made, 1, 200_000)) as address:
        process = start(paths, f"{address}/app:1")
        try:
            until(lambda: moment(paths), 20)
        finally:
            process.kill()
            process.communicate()
            over.set()
        store = Store(paths.database)
        assert [intent.owner for intent in Journal(store).open_intents()] == [f"image:{address}/app:1"]
        store.close()
        assert left_behind(paths) != []
        store, images = after_restart(paths)
        assert (images.list(), left_behind(paths), Journal(store).open_intents()) == ([], [], [])
    with faulty_registry(serving(made)) as address:
        image = pull(images, Registry(), f"{address}/app:1")
        assert len(images.lower_directories(image)) == 4
    store.close()


def test_killed_at_any_time_it_is_all_or_nothing(paths: Paths) -> None:
    made = package(layers=3, size=100_000)
    with faulty_registry(serving(made)) as address:
        begun = time.monotonic()
        assert start(paths, f"{address}/app:1").communicate()[0].startswith(b"sha256:")
        whole = time.monotonic() - begun
        store, images = after_restart(paths)
        images.remove("app:1")
        images.remove(f"{address}/app:1")
        store.close()
        assert left_behind(paths) == []
        for step in range(8):
            process = start(paths, f"{address}/app:1")
            time.sleep(whole * (0.6 + step * 0.06))  # the moment does not matter: every one must do
            process.kill()
            process.communicate()
            store, images = after_restart(paths)
            found = images.list()
            if found:
                assert len(images.lower_directories(found[0])) == 3
                images.remove(found[0].id)
            assert (left_behind(paths), Journal(store).open_intents()) == ([], [])
            store.close()
