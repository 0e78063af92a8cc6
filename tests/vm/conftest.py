"""The fixture ``vm``; and that these tests run only where they are named: ``make test-vm``, not ``make test``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import mount
from tests.support.isolation import Run
from tests.support.requires import enforce
from tests.vm import image
from tests.vm.guest import Guests

HERE = Path(__file__).parent
INSIDE = HERE / "inside"
IS_GUEST = os.environ.get("KERNELET_VM") == "1"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out all of this directory unless an argument names it, and what runs in a guest unless this is one.

    What shows that the tests can fail runs only where it is asked for.
    """
    if collection_path == INSIDE:
        return True if not IS_GUEST else None
    if collection_path.name == "test_weakened.py" and os.environ.get("KERNELET_WEAKENED") != "1":
        return True
    named = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path == HERE or HERE in path.parents for path in named) else True


@pytest.fixture(scope="session")
def vm(run: Run, _run_leaves_nothing: None) -> Iterator[Guests]:
    """Boots guests: ``vm.run("uname -r", kernel="6.1", init="systemd").stdout``.

    What a guest writes is in a tmpfs in the run's own mount namespace: nothing is left, even of a run that is killed.
    """
    enforce(("root",))
    try:
        found = image.find()
    except LookupError as error:
        pytest.fail(str(error), pytrace=False)
    directory = run.directory / "vm"
    directory.mkdir()
    with mount.new_filesystem("tmpfs") as fresh:
        mount.attach(fresh, str(directory))
    yield Guests(found, directory)
    mount.unmount(str(directory))
    directory.rmdir()
