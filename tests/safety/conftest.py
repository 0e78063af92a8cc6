"""A bundle and those who run it, for each attack."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.fd import Fd
from runtime.paths import Paths
from tests.runtime.conftest import make_node, node
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine, following_all_links
from tests.safety.oci import Oci
from tests.support import cgroup

__all__ = ["make_node", "node"]  # fixtures of the runtime's tests, of use here too


@pytest.fixture
def bundle(paths: Paths) -> Bundle:
    """Busybox with an ordinary spec, for the test to make something bad of."""
    return Bundle(paths.run_dir / "bundle")


@pytest.fixture
def core(paths: Paths) -> Core:
    """The runtime itself, as the daemon and its monitor use it."""
    return Core(paths.run_dir / "core")


@pytest.fixture
def outside(paths: Paths) -> Path:
    """A directory of the host's, which nothing in a bundle may reach."""
    directory = paths.run_dir / "outside"
    directory.mkdir()
    (directory / "secret").write_text("the host's\n")
    return directory


@pytest.fixture
def gullible(core: Core, monkeypatch: pytest.MonkeyPatch) -> Core:
    """The core with one defence less: paths are resolved as open(2) does it, before and in the program."""

    def open_as_string(
        root: Fd, path: str | bytes, flags: int = os.O_PATH, mode: int = 0, *, follow: bool = True, links: bool = True
    ) -> Fd:
        name = os.fsencode(path).lstrip(b"/") or b"."
        return Fd(os.open(name, flags & ~os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=root.fileno()))

    for name, module in list(sys.modules.items()):
        if name.startswith(("kernel.", "runtime.container.")) and hasattr(module, "open_in_root"):
            monkeypatch.setattr(module, "open_in_root", open_as_string)
    return core.weakened(following_all_links)


@pytest.fixture
def oci(paths: Paths) -> Iterator[Oci]:
    """The command line, with containers of this test's own."""
    engine = Oci(paths.run_dir / "oci")
    home = cgroup.ROOT / "kernelet-oci"  # which stays when containers go
    home.mkdir()
    yield engine
    assert engine.names() == []
    home.rmdir()  # empty, or it was not given back


@pytest.fixture(params=["core", "monitor", "oci"])
def engine(request: pytest.FixtureRequest, paths: Paths) -> Engine:
    """Each in turn: the core, the core as a monitor has it begin (in an empty mount namespace), the command line."""
    if request.param == "monitor":
        return Core(paths.run_dir / "core", begins_empty=True)
    found: Engine = request.getfixturevalue(request.param)
    return found
