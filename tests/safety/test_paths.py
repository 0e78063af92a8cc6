"""Paths of an image that lead out of it: links where a mount, a device or a file is to be placed.

Every attack is made twice where that is cheap: on the runtime, and on one that resolves paths as open(2)
does (``gullible``), which shows that the attack would work.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine, Result, watched
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

INSIDE = ("../../../../tmp", "/tmp", "tmp")


def mount_behind_a_link(engine: Engine, bundle: Bundle, target: str) -> Result:
    volume = bundle.directory / "volume"
    volume.mkdir(exist_ok=True)
    (volume / "proof").write_text("mounted\n")
    bundle.link("link", target)
    bundle.mount(volume, "/link/made")
    bundle.script("cat /link/made/proof")
    return engine.run(bundle)


def test_a_mount_behind_a_link_to_the_host_stays_inside(engine: Engine, bundle: Bundle, outside: Path) -> None:
    """CVE-2019-18837, CVE-2022-23648: a link in the image as the target of a mount led to the host."""
    with watched(outside, outside.parent) as changes:
        result = mount_behind_a_link(engine, bundle, str(outside))
        assert not changes() - {f"{outside.parent}/{name}" for name in ("core", "oci", "bundle")}
    assert result.lines == ["mounted"]
    assert (bundle.rootfs / str(outside)[1:] / "made").is_dir()  # the same path, below the container's root


@pytest.mark.parametrize("target", INSIDE)
def test_a_mount_behind_a_link_that_stays_inside_is_made_there(engine: Engine, bundle: Bundle, target: str) -> None:
    """CVE-2019-18837: what climbs out of the root ends at the root."""
    assert mount_behind_a_link(engine, bundle, target).lines == ["mounted"]
    assert (bundle.rootfs / "tmp/made").is_dir()


def test_without_the_defence_the_place_is_made_on_the_host(gullible: Core, bundle: Bundle, outside: Path) -> None:
    """CVE-2019-18837: the attack works where paths are followed as strings."""
    mount_behind_a_link(gullible, bundle, str(outside))
    assert (outside / "made").is_dir()


def cover_a_file(engine: Engine, bundle: Bundle, target: str) -> Result:
    (bundle.directory / "krun.json").write_text("{}\n")
    bundle.link(".krun_config.json", target)
    bundle.mount(bundle.directory / "krun.json", "/.krun_config.json")
    bundle.script("cat /.krun_config.json")
    return engine.run(bundle)


def test_a_file_is_not_made_through_a_link(engine: Engine, bundle: Bundle, outside: Path) -> None:
    """CVE-2025-24965: crun's krun handler wrote its configuration through a link of the image's."""
    assert cover_a_file(engine, bundle, f"{outside}/new").lines == ["{}"]
    assert os.listdir(outside) == ["secret"]


def test_an_existing_file_behind_a_link_is_left_alone(engine: Engine, bundle: Bundle, outside: Path) -> None:
    """CVE-2025-24965: neither written to nor covered."""
    assert cover_a_file(engine, bundle, f"{outside}/secret").lines == ["{}"]
    assert (outside / "secret").read_text() == "the host's\n"


def test_without_the_defence_the_file_is_made_on_the_host(gullible: Core, bundle: Bundle, outside: Path) -> None:
    """CVE-2025-24965: the same link with paths followed as strings."""
    (outside / "directory").mkdir()
    bundle.link("directory", f"{outside}/directory")
    (bundle.directory / "file").touch()
    bundle.mount(bundle.directory / "file", "/directory/new")
    gullible.run(bundle)
    assert (outside / "directory/new").is_file()


@pytest.mark.parametrize("fresh", [True, False], ids=["tmpfs on /dev", "the image's /dev"])
@pytest.mark.parametrize("kind", ["absolute", "relative", "inside"])
def test_dev_that_is_a_link_makes_no_device_outside(
    engine: Engine, bundle: Bundle, outside: Path, kind: str, fresh: bool
) -> None:
    """CVE-2026-41579 (crun: CVE-2026-47766): devices and links were made where the image's /dev led, before the pivot."""
    target = {"absolute": str(outside), "relative": os.path.relpath(outside, bundle.rootfs), "inside": "/tmp"}[kind]
    bundle.link("dev", target)
    if not fresh:
        bundle.without("/dev")
    bundle.script("ls -l /dev/null /tmp/null")
    with watched("/", "/dev", outside) as changes:
        result = engine.run(bundle)
        assert not changes(), (changes(), result)
    assert not Path("/tmp/null").exists()
    if kind == "inside" and fresh:
        assert "1,   3" in result.output, result
    assert stat_of("/dev/null") == (1, 3)


def stat_of(path: str) -> tuple[int, int]:
    number = os.stat(path).st_rdev
    return os.major(number), os.minor(number)


def test_dev_below_a_link_makes_no_directory_outside(engine: Engine, bundle: Bundle, outside: Path) -> None:
    """CVE-2026-41579: devices in directories of their own, on a /dev that is the image's."""
    bundle.without("/dev")
    bundle.link("dev/net", str(outside))
    device = type(bundle.spec.linux.devices[0])(path="/dev/net/tun", type="c", major=10, minor=200)
    bundle.spec.linux.devices.append(device)
    with watched(outside, "/dev") as changes:
        engine.run(bundle)
        assert not changes()


@pytest.mark.parametrize("cwd", ["/work/dir", "/work"])
def test_a_working_directory_is_not_made_through_a_link(engine: Engine, bundle: Bundle, outside: Path, cwd: str) -> None:
    """CVE-2024-45310, CVE-2026-55686: the missing working directory was made wherever a link led."""
    bundle.link("work", f"{outside}/new" if cwd == "/work" else str(outside))
    bundle.process.cwd = cwd
    bundle.script("/bin/busybox pwd -P")
    assert engine.run(bundle).lines == [f"{outside}{'/new' if cwd == '/work' else '/dir'}"]  # below the container's root
    assert os.listdir(outside) == ["secret"]


def test_without_the_defence_the_working_directory_is_made_on_the_host(gullible: Core, bundle: Bundle, outside: Path) -> None:
    """CVE-2024-45310: the attack works where paths are followed as strings."""
    bundle.link("work", str(outside))
    bundle.process.cwd = "/work/dir"
    gullible.run(bundle)
    assert (outside / "dir").is_dir()


@pytest.mark.parametrize("path", ["/tmp/../../../x", "/../x", "/tmp/./x/..", "x", "../x"])
def test_a_place_with_dots_is_inside(engine: Engine, bundle: Bundle, outside: Path, path: str) -> None:
    """CVE-2019-18837: what climbs ends at the root, and what is made is what is mounted on."""
    bundle.mount(outside, path)
    bundle.script("cat /x/secret /tmp/secret 2>/dev/null")
    result = engine.run(bundle)
    assert result.lines == ["the host's"] or "not an absolute path" in result.refusal
    assert not Path("/x").exists()


@pytest.mark.parametrize("path", ["/", "//", "/.", "/tmp/..", "/..", "/root-link"])
def test_nothing_is_mounted_over_the_root(engine: Engine, bundle: Bundle, outside: Path, path: str) -> None:
    """CVE-2019-18837: what the runtime stands on is not what is mounted over."""
    bundle.link("root-link", "/")
    bundle.mount(outside, path)
    assert "mounts[6].destination" in engine.run(bundle).refusal
