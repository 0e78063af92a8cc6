"""The runtimes, a container for each test, and what is known to be otherwise with the peers (``peers.py``)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.oci import peers
from tests.conformance.oci.bundle import copy_busybox
from tests.conformance.oci.container import Container, Runtime
from tests.support import requires
from tests.support.isolation import Run

_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "runtime" in metafunc.fixturenames:
        names = [pytest.param(name, marks=requires.requires("root", "cgroup2", "busybox", name)) for name in peers.NAMES]
        metafunc.parametrize("runtime", names, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "runtime" in item.fixturenames and item.path.parent == Path(__file__).parent:
            _expect_differences(item)


def _expect_differences(item: pytest.Function) -> None:
    name = str(item.callspec.params["runtime"])
    found = peers.find_difference(name, item.originalname, item.name)
    if found is not None:
        item.add_marker(pytest.mark.xfail(reason=f"{name}: {found.reason}", strict=found.is_sure))


@pytest.fixture(scope="session")
def busybox(run: Run) -> Path:
    """The file that every bundle's programs are hard links to; its directory can be searched by mapped users, too."""
    run.directory.chmod(0o711)
    return copy_busybox(run.directory)


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """One of the runtimes that are compared."""
    return peers.runtime(request.param)


@pytest.fixture
def container(runtime: Runtime, busybox: Path) -> Iterator[Container]:
    """A bundle of this test's own; what the runtime made of it is removed afterwards."""
    directory = busybox.parent / f"oci{next(_numbers)}"
    directory.mkdir(mode=0o711)
    made = Container(runtime, directory, busybox)
    yield made
    made.clean_up()
