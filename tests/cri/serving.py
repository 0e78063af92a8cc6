"""A real daemon, on a node of the test's own that has busybox already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.support import image
from tests.support.daemon import Daemon
from tests.support.isolation import Run


def store_busybox(paths: Paths) -> None:
    """Put busybox where a daemon that is started later finds it."""
    store = Store(paths.database)
    image.store_busybox(ImageStore(paths, store, Journal(store)))
    store.close()


@contextmanager
def serving(paths: Paths, run: Run) -> Iterator[Daemon]:
    """A daemon that answers; stopped in order at the end, unless the test has ended it."""
    daemon = Daemon(paths, run)
    daemon.start()
    try:
        with daemon.client() as client:
            client.wait_until_ready()
        yield daemon
    finally:
        if daemon.is_running:
            assert daemon.stop() == 0, daemon.log.read_text()


def config_of(paths: Paths) -> Path:
    """The configuration file with which a daemon of *paths* was started."""
    return paths.run_dir.parent / "kernelet.toml"
