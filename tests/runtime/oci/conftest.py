"""The command line, and a bundle for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.oci.place import HOME
from tests.support import cgroup, requires
from tests.support.oci import CommandLine, make_bundle


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[CommandLine]:
    """``kernelet-oci`` with a bundle that sleeps; what is left is deleted."""
    requires.enforce(("root", "cgroup2", "busybox"))
    command_line = CommandLine(tmp_path / "state", tmp_path / "bundle")
    make_bundle(command_line.bundle)
    command_line.configure("sleep", "1000")
    yield command_line
    command_line.delete_all()
    cgroup.remove(cgroup.ROOT / HOME)  # which stays, for the next container
