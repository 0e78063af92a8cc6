"""A /dev that was made ready is the one that a program makes step by step: looked at from inside both."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.container.descriptors import Descriptor
from runtime.monitor import ready_dev
from runtime.paths import Paths
from runtime.spec import schema, standard_dev
from tests.safety.bundle import Bundle
from tests.safety.engine import Core
from tests.support.requires import requires

SHM = schema.Mount(destination="/dev/shm", type="tmpfs", source="shm", options=["nosuid", "noexec", "nodev", "mode=1777"])
SEEN = """
cd /dev && ls -lnA . pts mqueue shm | sed 's/[A-Z][a-z][a-z]  *[0-9]* *[0-9:]*  *[0-9]*  *//'
sed 's/^[0-9]* [0-9]* [0-9]*:[0-9]* //' /proc/self/mountinfo | grep ' / /\\(dev\\|proc\\|sys/f\\)'
df -k /dev | tail -n 1
"""


def seen(paths: Paths, directory: Path, name: str, *, ready: bool, change: schema.Mount | None = None) -> list[str]:
    (directory / name).mkdir()
    bundle = Bundle(directory / name)
    bundle.spec.mounts.append(SHM)
    if change is not None:
        bundle.spec.mounts = [change if each.destination == change.destination else each for each in bundle.spec.mounts]
    bundle.script(SEEN)
    result = Core(paths.run_dir / f"core-{name}", begins_empty=ready).run(bundle)
    assert (result.refusal, result.code) == ("", 0), result
    return result.lines


@requires("root", "cgroup2")
def test_it_is_the_same_from_inside(paths: Paths, tmp_path: Path) -> None:
    made, ready = (seen(paths, tmp_path, name, ready=name == "ready") for name in ("made", "ready"))
    assert len(made) > 20
    assert ready == made


@requires("root", "cgroup2")
@pytest.mark.parametrize("option", ["mode=711", "size=64k", "noexec"])
def test_another_dev_is_made_as_it_is_wanted(paths: Paths, tmp_path: Path, option: str) -> None:
    options = [each for each in standard_dev.TMPFS_OPTIONS if each.partition("=")[0] != option.partition("=")[0]]
    change = schema.Mount(destination="/dev", type="tmpfs", source="tmpfs", options=[*options, option])
    made, ready = (seen(paths, tmp_path, name, ready=name == "ready", change=change) for name in ("made", "ready"))
    assert ready == made


@requires("root")
def test_modes_are_not_the_monitors() -> None:
    before = os.umask(0o077)
    try:
        made = ready_dev.make()
    finally:
        os.umask(before)
    try:
        modes = {name: stat.S_IMODE(os.stat(name, dir_fd=made[Descriptor.DEV].fileno()).st_mode) for name in ("null", "pts")}
        assert modes == {"null": 0o666, "pts": 0o755}
    finally:
        ready_dev.close(made)


@requires("root")
def test_nothing_is_left_when_it_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_dev, "DEVPTS_OPTIONS", ("no-such-option",))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no-such-option"):
        ready_dev.make()
    assert os.listdir("/proc/self/fd") == before


@requires("root", "cgroup2")
def test_it_is_used(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_dev, "LINKS", (*standard_dev.LINKS, ("nowhere", "proof")))
    assert any("proof -> nowhere" in line for line in seen(paths, tmp_path, "ready", ready=True))
    monkeypatch.setattr(standard_dev, "DIRECTORIES", (*standard_dev.DIRECTORIES, "more"))  # on which nothing is mounted
    assert not any(" more" in line for line in seen(paths, tmp_path, "made", ready=True))
