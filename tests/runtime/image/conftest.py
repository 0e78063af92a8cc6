"""An image store, a registry, and what a pull must not leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.support.registry import docker_registry
from tests.support.requires import enforce


@pytest.fixture
def images(paths: Paths, store: Store, journal: Journal) -> ImageStore:
    """An empty image store; not synced to the disk, which other tests are writing to."""
    return ImageStore(paths, store, journal, durable=False)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(scope="session")
def distribution() -> Iterator[str]:
    """The address of a docker-registry, for the whole run."""
    enforce(("docker-registry",))
    with docker_registry() as address:
        yield address


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "layer"
    made.mkdir()
    return made


def left_behind(paths: Paths) -> list[str]:
    """Every file of the image store, whatever it is for."""
    return sorted(str(path) for root in (paths.blobs, paths.layers, paths.staging) for path in _tree(root))


def _tree(root: Path) -> list[Path]:
    return [Path(base) / name for base, directories, files in os.walk(root) for name in [*directories, *files]]
