"""The root, ``mounts``, devices, masked and read-only paths: what the container sees in its file systems."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from kernel.mountinfo import Mount, parse_mountinfo
from tests.conformance.oci.bundle import bind, map_ids, mount
from tests.conformance.oci.container import Container
from tests.support.requires import requires

DEFAULT_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


def mounts(container: Container) -> dict[str, Mount]:
    """The mounts that the container sees, by their target; of several in one place the last."""
    text = container.run(["cat", "/proc/self/mountinfo"]).output
    return {row.target: row for row in parse_mountinfo(text)}


def source(container: Container, name: str = "source") -> Path:
    """A directory of the host's with a file in it."""
    made = container.directory / name
    made.mkdir()
    (made / "file").write_text(f"{name}\n")
    return made


def test_the_root_is_the_bundles_and_nothing_leads_out_of_it(container: Container) -> None:
    (container.rootfs / "data/mark").write_text("ours")
    done = container.run("cat /data/mark; cd /; cd ../../..; pwd; ls -d /proc/1/root/data")
    assert done.lines == ["ours/", "/proc/1/root/data"]


def test_the_hosts_mounts_are_not_seen(container: Container) -> None:
    targets = set(mounts(container))
    assert targets == {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys"}


@pytest.mark.parametrize("is_readonly", [True, False])
def test_the_root_is_writable_unless_it_is_read_only(container: Container, is_readonly: bool) -> None:
    container.config["root"]["readonly"] = is_readonly
    done = container.run("touch /data/new && echo written", expect=None)
    assert done.output == ("" if is_readonly else "written\n")
    assert (container.rootfs / "data/new").exists() is not is_readonly


def test_mounts_on_a_read_only_root_are_writable(container: Container) -> None:
    container.config["root"]["readonly"] = True
    container.config["mounts"].append(mount("/data", "tmpfs"))
    container.run("touch /data/new /dev/shm/new")


def test_mounts_come_in_the_order_that_is_listed(container: Container) -> None:
    container.config["mounts"] += [
        mount("/data", "tmpfs"),
        mount("/data/inner", "tmpfs"),
        bind(source(container), "/data/inner/bound"),
    ]
    assert container.run(["cat", "/data/inner/bound/file"]).output == "source\n"


def test_a_later_mount_covers_an_earlier_one(container: Container) -> None:
    container.config["mounts"] += [bind(source(container, "first"), "/data"), bind(source(container, "second"), "/data")]
    assert container.run(["cat", "/data/file"]).output == "second\n"


@pytest.mark.parametrize("destination", ["/made/for/it", "/data/made"])
def test_a_missing_destination_is_made(container: Container, destination: str) -> None:
    container.config["mounts"].append(bind(source(container), destination))
    assert container.run(["cat", f"{destination}/file"]).output == "source\n"


def test_a_file_is_bound_to_a_file(container: Container) -> None:
    container.config["mounts"] += [
        bind(source(container) / "file", "/made/file"),
        bind(source(container, "other") / "file", "/etc/passwd"),
    ]
    assert container.run(["cat", "/made/file", "/etc/passwd"]).lines == ["source", "other"]


def test_a_relative_source_is_below_the_bundle(container: Container) -> None:
    (container.bundle / "beside").mkdir()
    (container.bundle / "beside/file").write_text("beside\n")
    container.config["mounts"].append(bind("beside", "/data"))
    assert container.run(["cat", "/data/file"]).output == "beside\n"


def test_a_source_that_is_not_there_is_refused(container: Container) -> None:
    container.config["mounts"].append(bind("/nowhere", "/data"))
    assert container.create(expect=None).code != 0
    assert not container.exists()


@pytest.mark.parametrize("link", ["/data", "../../../../../data", "/../data"])
def test_links_in_a_destination_stay_inside(container: Container, link: str) -> None:
    (container.rootfs / "link").symlink_to(link)
    container.config["mounts"].append(bind(source(container), "/link/bound"))
    assert container.run(["cat", "/data/bound/file"]).output == "source\n"
    assert not Path("/data/bound").exists()


@pytest.mark.parametrize("destination", ["/proc", "/sys"])
def test_proc_and_sysfs_are_not_mounted_through_a_link(container: Container, destination: str) -> None:
    (container.rootfs / destination.strip("/")).rmdir()
    (container.rootfs / destination.strip("/")).symlink_to("/data")
    assert container.run("true", expect=None).code != 0
    assert not container.exists()


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime"])
def test_an_option_becomes_a_flag_of_the_mount(container: Container, option: str) -> None:
    container.config["mounts"] += [mount("/data", "tmpfs", [option]), bind(source(container), "/run", option)]
    found = mounts(container)
    assert {option in found[target].options for target in ("/data", "/run")} == {True}


@pytest.mark.parametrize(
    ("on", "off"), [("ro", "rw"), ("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec"), ("noatime", "atime")]
)
def test_of_an_option_and_its_opposite_the_last_one_counts(container: Container, on: str, off: str) -> None:
    container.config["mounts"] += [mount("/data", "tmpfs", [on, off]), mount("/run", "tmpfs", [off, on])]
    found = mounts(container)
    assert on not in found["/data"].options
    assert on in found["/run"].options


def test_options_that_are_no_flags_are_the_file_systems(container: Container) -> None:
    container.config["mounts"].append(mount("/data", "tmpfs", ["size=64k", "mode=700", "uid=7", "gid=8"]))
    done = container.run("stat -c '%a %u %g' /data; df -k /data | tail -n 1")
    assert done.lines[0] == "700 7 8"
    assert done.lines[1].split()[1] == "64"


def test_an_option_that_the_file_system_does_not_know_is_refused(container: Container) -> None:
    container.config["mounts"].append(mount("/data", "tmpfs", ["nonsense=1"]))
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_a_file_system_that_does_not_exist_is_refused(container: Container) -> None:
    container.config["mounts"].append(mount("/data", "nonsensefs"))
    assert container.create(expect=None).code != 0


@pytest.mark.parametrize(("option", "expected"), [("bind", False), ("rbind", True)])
def test_a_bind_takes_what_is_mounted_below_only_when_it_is_recursive(container: Container, option: str, expected: bool) -> None:
    container.config["mounts"].append(mount("/data", "none", [option], "/sys"))
    assert ("/data/fs/cgroup" in mounts(container)) is expected


@pytest.mark.parametrize(
    ("option", "field"),
    [("rshared", "shared"), ("shared", "shared"), ("rslave", "master"), ("private", ""), ("unbindable", "unbindable")],
)
def test_the_propagation_of_a_mount(container: Container, option: str, field: str) -> None:
    container.config["mounts"].append(bind(source(container), "/data", option))
    text = container.run(["cat", "/proc/self/mountinfo"]).output
    (line,) = (line for line in text.splitlines() if line.split()[4] == "/data")
    optional = line.split(" - ")[0].split()[6:]
    if field == "master":
        assert not any(each.startswith("shared") for each in optional)
    else:
        assert [each.partition(":")[0] for each in optional] == ([field] if field else [])


@pytest.mark.parametrize(("propagation", "field"), [("private", ""), ("unbindable", "unbindable"), ("shared", "shared")])
def test_the_propagation_of_the_root(container: Container, propagation: str, field: str) -> None:
    container.linux["rootfsPropagation"] = propagation
    text = container.run(["cat", "/proc/self/mountinfo"]).output
    (line,) = (line for line in text.splitlines() if line.split()[4] == "/")
    optional = line.split(" - ")[0].split()[6:]
    assert [each.partition(":")[0] for each in optional] == ([field] if field else [])


def test_a_tmpfs_begins_with_what_it_covers(container: Container) -> None:
    (container.rootfs / "data/file").write_text("copied\n")
    container.config["mounts"].append(mount("/data", "tmpfs", ["tmpcopyup"]))
    assert container.run("cat /data/file; rm /data/file").output == "copied\n"
    assert container.read("data/file") == "copied\n"


@requires("kernel 5.12")
def test_a_recursive_option_covers_what_is_mounted_below(container: Container) -> None:
    container.config["mounts"].append(mount("/data", "none", ["rbind", "rro"], "/sys"))
    found = mounts(container)
    covered = [row for target, row in found.items() if target.startswith("/data")]
    assert len(covered) > 1
    assert {"ro" in row.options for row in covered} == {True}


def test_the_devices_that_every_container_has(container: Container) -> None:
    done = container.run(["stat", "-c", "%n %F %t %T %a", *(f"/dev/{name}" for name in DEFAULT_DEVICES)])
    expected = [f"/dev/{name} character special file {major:x} {minor:x} 666" for name, (major, minor) in DEFAULT_DEVICES.items()]
    assert done.lines == expected


def test_the_links_that_every_container_has(container: Container) -> None:
    script = "".join(f"readlink /dev/{name};" for name in LINKS)
    assert container.run(script).lines == list(LINKS.values())


def test_devices_work(container: Container) -> None:
    script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; echo x > /dev/full || echo full"
    assert container.run(script).lines == ["3", "5", "full"]


@pytest.mark.parametrize(
    ("device", "seen"),
    [
        ({"path": "/dev/made", "type": "c", "major": 1, "minor": 3}, "character special file 1 3 666 0 0"),
        (
            {"path": "/dev/deep/made", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600},
            "character special file 1 5 600 0 0",
        ),
        ({"path": "/dev/made", "type": "b", "major": 7, "minor": 9, "uid": 7, "gid": 8}, "block special file 7 9 666 7 8"),
        ({"path": "/dev/made", "type": "p", "fileMode": 0o640}, "fifo 0 0 640 0 0"),
        ({"path": "/dev/made", "type": "u", "major": 1, "minor": 9}, "character special file 1 9 666 0 0"),
    ],
    ids=["plain", "deep", "owned", "fifo", "unbuffered"],
)
def test_devices_are_made(container: Container, device: dict[str, Any], seen: str) -> None:
    container.linux["devices"] = [device]
    assert container.run(["stat", "-c", "%F %t %T %a %u %g", device["path"]]).lines == [seen]


def test_a_device_of_no_known_type_is_refused(container: Container) -> None:
    container.linux["devices"] = [{"path": "/dev/made", "type": "x", "major": 1, "minor": 3}]
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_devices_in_a_user_namespace_are_the_hosts(container: Container) -> None:
    map_ids(container.config)
    done = container.run(["stat", "-c", "%F %t %T", "/dev/null", "/dev/zero"])
    assert done.lines == ["character special file 1 3", "character special file 1 5"]


def test_masked_paths_have_no_content(container: Container) -> None:
    (container.rootfs / "data/file").write_text("secret")
    (container.rootfs / "data/directory").mkdir()
    (container.rootfs / "data/directory/file").write_text("secret")
    container.linux["maskedPaths"] = ["/data/file", "/data/directory", "/data/nowhere", "/proc/kcore"]
    script = "cat /data/file; ls -A /data/directory; head -c 1 /proc/kcore | wc -c; ls /data"
    done = container.run(f"{script}; (echo x > /data/directory/new) || echo refused")
    assert done.lines == ["0", "directory", "file", "refused"]


def test_read_only_paths_cannot_be_written_to(container: Container) -> None:
    (container.rootfs / "data/directory").mkdir()
    (container.rootfs / "data/file").write_text("kept")
    container.linux["readonlyPaths"] = ["/data/directory", "/data/file", "/data/nowhere", "/proc/sys"]
    files = "/data/directory/new /data/file /proc/sys/kernel/hostname"
    script = f"for each in {files}; do (echo x > $each) || echo refused; done; cat /data/file"
    assert container.run(script).lines == ["refused", "refused", "refused", "kept"]


def test_devpts_is_an_instance_of_its_own(container: Container) -> None:
    assert container.run("ls /dev/pts; stat -c %a /dev/pts/ptmx").lines == ["ptmx", "666"]


def test_mqueue_is_the_ipc_namespaces(container: Container) -> None:
    container.config["mounts"].append(mount("/dev/mqueue", "mqueue", ["nosuid", "noexec", "nodev"]))
    assert mounts(container)["/dev/mqueue"].filesystem == "mqueue"


def test_nothing_is_left_of_a_start_that_failed_at_a_mount(container: Container) -> None:
    container.config["mounts"] += [mount("/data", "tmpfs"), mount("/tmp", "nonsensefs")]
    before = os.listdir(container.rootfs)
    assert container.create(expect=None).code != 0
    assert sorted(os.listdir(container.rootfs)) == sorted(before)
    assert not stat.S_ISLNK(os.lstat(container.rootfs / "data").st_mode)
