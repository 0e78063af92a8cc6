"""Devices as a container sees them: those that every one has, those of a spec, and what stands in their way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.errors import InvalidSpec
from runtime.spec import schema
from tests.support import inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

LOOK = "for each in {}; do stat -c '%n %F %t:%T %a %u:%g' $each; done"
DEFAULT = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}


@pytest.fixture
def node(tmp_path: Path) -> inside.Node:
    return inside.make_node(tmp_path)


def spec(script: str, *devices: schema.Device) -> schema.Spec:
    wanted = inside.spec(script)
    wanted.linux.devices += devices
    return wanted


def looked(node: inside.Node, *devices: schema.Device, with_users: bool = False) -> list[str]:
    wanted = spec(LOOK.format(" ".join(device.path for device in devices)), *devices)
    return node.run(inside.with_users(wanted) if with_users else wanted).splitlines()


def device(path: str, kind: str = "c", major: int = 1, minor: int = 5, **more: int) -> schema.Device:
    return schema.Device(path=path, type=kind, major=major, minor=minor, **more)


def give_to_users(node: inside.Node) -> None:
    """Files of the root as those of the user namespace's root, as whoever unpacks an image for one has them."""
    for above, _, names in os.walk(node.rootfs):
        for name in ("", *names):
            os.chown(os.path.join(above, name), inside.MAPPED, inside.MAPPED)


@pytest.mark.parametrize("with_users", [False, True])
def test_every_container_has_six_devices_and_the_links_beside_them(node: inside.Node, with_users: bool) -> None:
    give_to_users(node)
    names = " ".join(f"/dev/{name}" for name in DEFAULT)
    wanted = spec(f"{LOOK.format(names)}; for each in fd stdin stdout stderr core ptmx; do readlink /dev/$each; done; ls /dev")
    lines = node.run(inside.with_users(wanted) if with_users else wanted).splitlines()
    assert lines[:6] == [f"/dev/{name} character special file {number} 666 0:0" for name, number in DEFAULT.items()]
    links = ["/proc/self/fd", *(f"/proc/self/fd/{number}" for number in range(3)), "/proc/kcore", "pts/ptmx"]
    assert lines[6:12] == links
    assert set(lines[12:]) == {*DEFAULT, "fd", "stdin", "stdout", "stderr", "core", "ptmx", "pts", "mqueue"}


@pytest.mark.parametrize("with_users", [False, True])
def test_a_device_that_a_user_namespace_gets_can_be_used(node: inside.Node, with_users: bool) -> None:
    give_to_users(node)
    wanted = spec("echo x > /dev/null; dd if=/dev/zero bs=1 count=5 2>/dev/null | od -An -tx1; echo x > /dev/full 2>&1 || true")
    wanted.process.args[-1] += "; grep ' /dev/null ' /proc/self/mountinfo || true"  # type: ignore[union-attr]
    lines = node.run(inside.with_users(wanted) if with_users else wanted).splitlines()
    assert lines[0].split() == ["00"] * 5
    assert with_users == any("nosuid,noexec" in line for line in lines)


@pytest.mark.parametrize("with_users", [False, True])
def test_devices_of_every_kind_with_their_mode_and_owner(node: inside.Node, with_users: bool) -> None:
    give_to_users(node)
    old = os.umask(0o077)
    try:
        lines = looked(
            node,
            device("/dev/one", file_mode=0o157, uid=10, gid=11),
            device("/dev/two", "u", file_mode=0o20600),  # with the bits of the type, as some documents have it
            device("/dev/deep/er/three", "b", 8, 1),
            device("/dev/four", "p", 8, 666, file_mode=0o640, gid=3),  # numbers that mean nothing
            device("/elsewhere/five", file_mode=0o600),
            with_users=with_users,
        )
    finally:
        os.umask(old)
    assert lines == [
        "/dev/one character special file 1:5 157 10:11",
        "/dev/two character special file 1:5 600 0:0",
        "/dev/deep/er/three block special file 8:1 666 0:0",
        "/dev/four fifo 0:0 640 0:3",
        "/elsewhere/five character special file 1:5 600 0:0",
    ]


def test_a_default_device_that_the_spec_lists_is_made_once_and_as_listed(node: inside.Node) -> None:
    assert looked(node, device("/dev/tty", major=5, minor=0, file_mode=0o620)) == ["/dev/tty character special file 5:0 620 0:0"]
    assert node.run(spec("readlink /dev/ptmx", device("/dev/ptmx", major=5, minor=2))) == "pts/ptmx\n"


def test_without_a_dev_of_its_own_the_images_gets_them(node: inside.Node) -> None:
    wanted = spec("stat -c %t:%T /dev/null /dev/deep/x; readlink /dev/fd", device("/dev/deep/x"))
    wanted.mounts = []
    assert node.run(wanted).split() == ["1:3", "1:5", "/proc/self/fd"]
    status = (node.rootfs / "dev/null").stat()
    assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, os.makedev(1, 3))
    again = spec("stat -c %t:%T /dev/null")
    again.mounts = []
    assert node.run(again) == "1:3\n"


def test_what_is_there_and_no_such_device_is_refused_and_left(node: inside.Node) -> None:
    (node.rootfs / "there").write_text("precious\n")
    os.mknod(node.rootfs / "other", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    for path in ("/there", "/other", "/etc"):
        with pytest.raises(InvalidSpec, match=rf"linux\.devices {path}: something else stands there, not the device c 1:5"):
            node.run(spec("true", device(path)))
    assert (node.rootfs / "there").read_text() == "precious\n"
    os.mknod(node.rootfs / "same", 0o640 | stat.S_IFCHR, os.makedev(1, 5))
    assert looked(node, device("/same")) == ["/same character special file 1:5 640 0:0"]


def test_a_device_in_the_place_of_a_mount_is_looked_at(node: inside.Node, tmp_path: Path) -> None:
    for source, fits in (("/dev/zero", True), (tmp_path / "file", False)):
        Path(source).touch()
        wanted = spec("stat -c %t:%T /dev/mine", device("/dev/mine"))
        wanted.mounts.append(schema.Mount(destination="/dev/mine", source=str(source), options=["bind"]))
        if fits:
            assert node.run(wanted) == "1:5\n"
        else:
            with pytest.raises(InvalidSpec, match=r"linux\.devices /dev/mine: something else stands there"):
                node.run(wanted)


def test_a_dev_of_the_nodes_gets_nothing(node: inside.Node, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    wanted = spec("ls /dev", device("/dev/mine"), device("/dev/sub/other"))
    wanted.mounts = [schema.Mount(destination="/dev", type="none", source=str(tmp_path / "dev"), options=["bind"])]
    assert node.run(wanted) == ""
    assert os.listdir(tmp_path / "dev") == []


@pytest.mark.parametrize("target", ["/etc", "etc", "/nowhere/yet", "../../../tmp"])
@pytest.mark.parametrize("has_mount", [False, True])
def test_a_dev_that_is_a_link_leads_inside(node: inside.Node, target: str, has_mount: bool) -> None:
    """CVE-2026-41579."""
    (node.rootfs / "dev").rmdir()
    (node.rootfs / "dev").symlink_to(target)
    before = sorted(os.listdir("/dev")), sorted(os.listdir("/etc"))
    wanted = spec("stat -c %t:%T /dev/null")
    wanted.mounts = [mount for mount in wanted.mounts if has_mount and mount.destination.startswith("/dev")]
    if has_mount:
        assert node.run(wanted) == "1:3\n"
    else:
        with pytest.raises(InvalidSpec, match="/dev of the image is a link"):
            node.run(wanted)
    assert (sorted(os.listdir("/dev")), sorted(os.listdir("/etc"))) == before
    assert not any(os.path.lexists(path) for path in ("/tmp/null", "/tmp/ptmx", "/nowhere"))


@pytest.mark.parametrize(("major", "minor"), [(4096, 0), (1, 1 << 20), (2**32 - 1, 1)])
def test_a_number_that_the_kernel_would_cut_is_refused(node: inside.Node, major: int, minor: int) -> None:
    with pytest.raises(InvalidSpec, match="more than a device number holds"):
        node.run(spec("true", device("/dev/x", major=major, minor=minor)))


def test_a_device_on_a_read_only_volume_is_told(node: inside.Node, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    wanted = spec("true", device("/volume/x"))
    wanted.mounts.append(schema.Mount(destination="/volume", source=str(tmp_path / "volume"), options=["bind", "ro"]))
    with pytest.raises(InvalidSpec, match=r"linux\.devices /volume/x: nothing stands there, and what is below is read-only"):
        node.run(wanted)
