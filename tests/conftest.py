"""The run's own node (``support/isolation.py``), what every test may ask for, and the audit after each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from kernel.procfs import share_procfs
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store
from tests.support import isolation, leaks, requires
from tests.support.image import BUSYBOX, busybox_package

RUN = pytest.StashKey[isolation.Run]()

#: From the bottom up: the first failure is the deepest one.
ORDER = ("test_checks.py", "test_imports.py", "support", "kernel", "runtime", "safety", "cri", "conformance", "e2e")

_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*words): what the test needs of the machine (tests/support/requires.py)")
    # An example takes as long as a busy machine makes it take; the run's own timeout is the limit.
    hypothesis.settings.register_profile("run", database=None, deadline=None, derandomize=os.environ.get("CI") == "true")
    hypothesis.settings.load_profile("run")
    if config.option.collectonly:
        return
    stack = ExitStack()
    config.stash[RUN] = run = stack.enter_context(isolation.isolated())
    config.add_cleanup(stack.close)
    config.option.basetemp = str(run.directory / "tmp")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        first = item.path.relative_to(Path(__file__).parent).parts[0]
        return ORDER.index(first) if first in ORDER else len(ORDER)

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        requires.enforce(mark.args)


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> isolation.Run:
    """This run's directory, bridge name and address range."""
    return request.config.stash[RUN]


@pytest.fixture(scope="session")
def _what_is_kept_is_there() -> None:
    """Pack busybox once, before the audit begins: the package keeps a file open for as long as it may be wanted.

    So is the procfs that this process writes through kept, of those that have one.
    """
    if os.geteuid() == 0:
        share_procfs().close()
    if BUSYBOX.exists():
        busybox_package("")


@pytest.fixture(scope="session", autouse=True)
def _run_leaves_nothing(_what_is_kept_is_there: None) -> Iterator[None]:
    before = leaks.take()
    yield
    leaks.settle(before)


@pytest.fixture(autouse=True)
def _test_leaves_nothing(_run_leaves_nothing: None) -> Iterator[None]:
    before = leaks.take()
    yield
    leaks.settle(before)


@pytest.fixture
def paths(run: isolation.Run) -> Paths:
    """A root and a run directory of this test's own, prepared; their names are short, for sockets are in there."""
    directory = run.directory / str(next(_numbers))
    found = Paths(root_dir=directory / "root", run_dir=directory / "run")
    found.prepare()
    return found


@pytest.fixture
def store(paths: Paths) -> Iterator[Store]:
    """An empty database under ``paths``."""
    opened = Store(paths.database)
    yield opened
    opened.close()


@pytest.fixture
def journal(store: Store) -> Journal:
    return Journal(store)
