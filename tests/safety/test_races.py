"""What a neighbour swaps while a container is being set up: directories for links, files for links, without pause.

A volume that several containers share is the classic place.  The attack is won once in some tries where
a path is checked and then used; here it must not be won at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel import mount
from kernel.fd import Fd
from runtime.container import ground
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine, Result
from tests.safety.racing import SECONDS, attempts, swapping
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


def won(engine: Engine, bundle: Bundle, is_won: Callable[[Result], bool], *swapped: Path) -> tuple[int, int, int]:
    """How often the attack was won, how often the container ran, how often it was tried."""
    victories = ran = tries = 0
    with swapping(*swapped) as swaps:
        for _ in attempts():
            result = engine.run(bundle)
            tries += 1
            ran += not result.refusal
            victories += is_won(result)
        assert swaps() > 100
    return victories, ran, tries


def is_won_once(engine: Engine, bundle: Bundle, is_won: Callable[[Result], bool], *swapped: Path) -> bool:
    """Whether the attack is ever won, in more time than it is given above."""
    with swapping(*swapped):
        return any(is_won(engine.run(bundle)) for _ in attempts(10 * SECONDS))


def runs_undisturbed(engine: Engine, bundle: Bundle, directory: Path, link: Path) -> bool:
    """Whether it is for the swaps that it was never let run: with four places to be made, one of them often is a link."""
    if directory.is_symlink():
        directory.rename(directory.with_name("spare"))
        link.rename(directory)
        directory.with_name("spare").rename(link)
    return not engine.run(bundle).refusal


def volume_with_a_link(bundle: Bundle, target: Path) -> tuple[Path, Path]:
    """A volume on /vol whose "data" is sometimes a directory and sometimes a link to *target*; another one goes to /vol/data."""
    volume, other = bundle.directory / "volume", bundle.directory / "other"
    (volume / "data").mkdir(parents=True)
    other.mkdir()
    (volume / "link").symlink_to(target)
    bundle.mount(volume, "/vol")
    bundle.mount(other, "/vol/data")
    bundle.script("cut -d' ' -f5 /proc/self/mountinfo")
    return volume / "data", volume / "link"


def is_outside(result: Result) -> bool:
    """The container runs, and what was to be mounted in it is nowhere in it: not at the two names, nor where the link leads."""
    mounted = set(result.lines)
    return not result.refusal and not {"/vol/data", "/vol/link"} & mounted and not any("/outside" in place for place in mounted)


def test_a_mount_target_that_is_swapped_for_a_link_stays_inside(engine: Engine, bundle: Bundle, outside: Path) -> None:
    """CVE-2021-30465: the target was a directory when it was checked and a link to the host when it was mounted on."""
    victories, _, tries = won(engine, bundle, is_outside, *volume_with_a_link(bundle, outside))
    assert (victories, os.listdir(outside)) == (0, ["secret"]), tries


def test_without_the_defence_the_race_for_a_mount_target_is_won(gullible: Core, bundle: Bundle, outside: Path) -> None:
    """CVE-2021-30465: the attack works where paths are followed as strings."""
    assert is_won_once(gullible, bundle, is_outside, *volume_with_a_link(bundle, outside))


def test_a_parent_that_is_swapped_for_a_link_makes_nothing_outside(engine: Engine, bundle: Bundle, outside: Path) -> None:
    """CVE-2024-45310: directories and files were made on the host while the missing parents of a mount were made."""
    swapped, made = parent_with_a_link(bundle, outside)
    victories, ran, tries = won(engine, bundle, lambda _: os.listdir(outside) != ["secret"], *swapped)
    assert (victories, ran > 0 or runs_undisturbed(engine, bundle, *swapped)) == (0, True), tries
    assert not made.exists()


def test_without_the_defence_the_race_for_a_parent_is_won(gullible: Core, bundle: Bundle, outside: Path) -> None:
    """CVE-2024-45310: the attack works where paths are followed as strings."""
    swapped, made = parent_with_a_link(bundle, outside)
    assert is_won_once(gullible, bundle, lambda _: made.exists(), *swapped)


def parent_with_a_link(bundle: Bundle, outside: Path) -> tuple[tuple[Path, Path], Path]:
    (bundle.rootfs / "parent").mkdir()
    (bundle.rootfs / "link").symlink_to(outside)
    (bundle.directory / "file").touch()
    for number in range(4):
        bundle.mount(bundle.directory / "file", f"/parent/{number}/deep/file")
    return (bundle.rootfs / "parent", bundle.rootfs / "link"), outside / "0"


def test_a_source_that_is_swapped_for_a_link_is_one_or_the_other(engine: Engine, bundle: Bundle, outside: Path) -> None:
    """CVE-2021-30465: a source is opened once; it is what it was then, its kind and its place are told of the same file."""
    source = bundle.directory / "source"
    source.mkdir()
    (source / "mine").touch()
    file = bundle.directory / "file"
    file.write_text("a file\n")
    bundle.mount(source, "/data")
    bundle.script("ls -d /data/mine || cat /data")
    victories, ran, tries = won(engine, bundle, lambda result: bool(result.code), source, file)
    assert victories == 0
    assert ran, tries


def test_a_null_device_that_is_swapped_hides_nothing_else(engine: Engine, bundle: Bundle, outside: Path) -> None:
    """CVE-2025-31133: the image's /dev/null was a link to a file of the host, which a mask then bound, writable."""
    victories, ran, tries = won(engine, bundle, lambda _: is_overwritten(outside), *masked_with_the_images_null(bundle, outside))
    assert victories == 0
    assert ran == tries


def test_without_the_defence_the_race_for_the_null_device_is_won(
    core: Core, bundle: Bundle, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-31133: the attack works where the mask is the image's own /dev/null."""

    def from_image() -> Fd:
        return mount.clone_tree(bundle.rootfs / "dev/null")

    monkeypatch.setattr(ground, "open_null_device", from_image)
    assert is_won_once(core, bundle, lambda _: is_overwritten(outside), *masked_with_the_images_null(bundle, outside))


def masked_with_the_images_null(bundle: Bundle, outside: Path) -> tuple[Path, Path]:
    bundle.without("/dev")
    bundle.spec.linux.devices = []
    null, link = bundle.rootfs / "dev/null", bundle.rootfs / "dev/link"
    os.mknod(null, 0o20666, os.makedev(1, 3))
    link.symlink_to(outside / "secret")
    (bundle.rootfs / "etc/masked").write_text("to be hidden\n")
    bundle.spec.linux.masked_paths.append("/etc/masked")
    bundle.script("echo overwritten > /etc/masked")
    return null, link


def is_overwritten(outside: Path) -> bool:
    return (outside / "secret").read_text() != "the host's\n"


def test_a_console_that_is_swapped_for_a_link_covers_nothing_else(core: Core, bundle: Bundle, outside: Path) -> None:
    """CVE-2025-52565: the terminal's slave was found by its path in the container, and bound by path on /dev/console.

    With no /dev of the container's own, what stands there is the image's to say, or a neighbour's.
    """
    bundle.process.terminal = True
    bundle.spec.mounts = [mount for mount in bundle.spec.mounts if mount.destination != "/dev"]
    bundle.spec.linux.devices = []
    (bundle.rootfs / "dev/pts").mkdir()
    (bundle.rootfs / "dev/pts/0").symlink_to(outside / "secret")
    console, link = bundle.rootfs / "dev/console", bundle.rootfs / "dev/console.link"
    console.touch()
    link.symlink_to("/etc/passwd")
    bundle.script("[ -t 0 ] && head -n 1 /etc/passwd | grep -q root:x:0:0")
    victories, ran, tries = won(core, bundle, lambda result: not result.refusal and bool(result.code), console, link)
    assert (victories, is_overwritten(outside)) == (0, False)
    assert ran, tries


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_console_of_the_images_own_is_not_used(core: Core, bundle: Bundle, outside: Path, kind: str) -> None:
    """CVE-2025-52565: /dev/console and /dev/pts/0 of the image lead to a file of the host, or are no files."""
    bundle.process.terminal = True
    bundle.spec.mounts = [mount for mount in bundle.spec.mounts if mount.destination != "/dev"]
    bundle.spec.linux.devices = []
    console = bundle.rootfs / "dev/console"
    match kind:
        case "link":
            console.symlink_to(outside / "secret")
        case "fifo":
            os.mkfifo(console)
        case _:
            console.mkdir()
    bundle.script("[ -t 0 ] && echo over 1<> /dev/console")
    core.run(bundle)
    assert not is_overwritten(outside)
