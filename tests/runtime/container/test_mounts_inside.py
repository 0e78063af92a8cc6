"""Mounts as a container sees them: what /proc/self/mountinfo says inside, and what its processes can do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kernel import mount as kernel_mount
from kernel.mountinfo import Mount, parse_mountinfo
from kernel.program import Flags
from runtime.container.options import parse_options
from runtime.errors import InvalidSpec, StartFailed
from runtime.spec import schema
from tests.support import child, inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

T = TypeVar("T")


@pytest.fixture
def node(tmp_path: Path) -> inside.Node:
    made = inside.make_node(tmp_path)
    (tmp_path / "volume/inner").mkdir(parents=True)
    (tmp_path / "volume/file").write_text("in the volume\n")
    return made


def volume(node: inside.Node) -> Path:
    return node.rootfs.parent / "volume"


def bind(source: Path | str, destination: str = "/data", *options: str) -> schema.Mount:
    return schema.Mount(destination=destination, type="bind", source=str(source), options=["rbind", *options])


def tmpfs(destination: str = "/data", *options: str) -> schema.Mount:
    return schema.Mount(destination=destination, type="tmpfs", source="tmpfs", options=list(options))


def spec(script: str, *mounts: schema.Mount) -> schema.Spec:
    wanted = inside.spec(script)
    wanted.mounts += mounts
    return wanted


def rows(node: inside.Node, *mounts: schema.Mount, wanted: schema.Spec | None = None, **more: object) -> dict[str, Mount]:
    """What is mounted in a container with these *mounts*, by target; the uppermost where there are several."""
    wanted = wanted or spec("cat /proc/self/mountinfo")
    wanted.mounts += mounts
    return {row.target: row for row in parse_mountinfo(node.run(wanted, **more))}


def apart(function: Callable[[], T]) -> T:
    return child.run(function, namespaces=["mount"])


def with_mount_below(node: inside.Node) -> None:
    with kernel_mount.new_filesystem("tmpfs") as inner:
        kernel_mount.attach(inner, volume(node) / "inner")
    (volume(node) / "inner/seen").touch()


# Options.


@pytest.mark.parametrize(
    ("options", "of_mount", "of_file_system"),
    [
        (["ro"], {"ro"}, {"rw"}),
        (["ro", "rw"], {"rw"}, {"rw"}),
        (["nosuid", "nodev", "noexec"], {"rw", "nosuid", "nodev", "noexec", "relatime"}, {"rw"}),
        (["nosuid", "suid", "nodev", "dev", "noexec", "exec"], {"rw", "relatime"}, set()),
        (["noatime"], {"noatime"}, set()),
        (["noatime", "nodiratime"], {"noatime", "nodiratime"}, set()),
        (["noatime", "strictatime"], {"rw"}, set()),
        (["nosymfollow"], {"nosymfollow"}, set()),
        (["rnosymfollow", "rro"], {"ro", "nosymfollow"}, set()),
        (["sync"], set(), {"sync"}),
        (["sync", "async", "dirsync"], set(), {"dirsync"}),
        (["lazytime"], set(), {"lazytime"}),
        (["size=64k", "nr_inodes=7", "mode=0711"], set(), {"size=64k", "nr_inodes=7", "mode=711"}),
        (["silent", "nodev", "size=64k"], {"nodev"}, {"size=64k"}),
        (["iversion", "lazytime", "noexec", "size=64k"], {"noexec"}, {"lazytime", "size=64k"}),
        (
            ["defaults", "loud", "noiversion", "nolazytime", "nomand", "atime", "diratime", "norelatime", "nostrictatime"],
            {"rw"},
            set(),
        ),
    ],
)
def test_options_of_a_new_file_system(
    node: inside.Node, options: list[str], of_mount: set[str], of_file_system: set[str]
) -> None:
    row = rows(node, tmpfs("/data", *options))["/data"]
    assert of_mount <= set(row.options)
    assert of_file_system <= set(row.super_options)
    if of_mount == {"rw"}:
        assert not set(row.options) & {"ro", "nosuid", "nodev", "noexec", "noatime"}
    if "strictatime" in options:
        assert "relatime" not in row.options


def test_mandatory_locks_are_asked_of_the_kernel(node: inside.Node) -> None:
    """It has had none since 5.15, and takes the word."""
    assert "/data" in rows(node, tmpfs("/data", "mand"))


def test_an_option_that_the_file_system_does_not_know_is_named(node: inside.Node) -> None:
    with pytest.raises(StartFailed, match="tmpfs does not know the mount option sise"):
        rows(node, tmpfs("/data", "sise=1"))


@pytest.mark.parametrize("kind", ["ramfs", "securityfs", "overlay"])
def test_any_file_system_of_the_kernel_can_be_mounted(node: inside.Node, kind: str) -> None:
    for name in ("lower", "upper", "work"):
        (volume(node) / name).mkdir()
    layers = [f"{name}dir={volume(node)}/{name}" for name in ("lower", "upper", "work")]
    options = {"ramfs": ["mode=0700"], "overlay": layers}.get(kind, [])
    row = rows(node, schema.Mount(destination="/data", type=kind, source="me", options=["nosuid", *options]))["/data"]
    assert (row.filesystem, "nosuid" in row.options) == (kind, True)


def test_a_value_that_is_too_long_for_the_new_way_goes_the_old_one(node: inside.Node) -> None:
    """fsconfig(2) takes 255 bytes, and overlays of many layers have longer lists."""
    layers = [volume(node) / f"{number:060}" for number in range(8)]
    for layer in layers:
        layer.mkdir()
        (layer / layer.name[-1]).touch()
    option = "lowerdir=" + ":".join(map(str, layers))
    assert len(option) > 500
    mount = schema.Mount(destination="/data", type="overlay", source="overlay", options=["ro", "slave", option])
    assert node.run(spec("ls /data", mount)).split() == [str(number) for number in range(8)]


def test_a_file_system_that_there_is_not_is_named(node: inside.Node) -> None:
    with pytest.raises(StartFailed, match=r"mounts\[6\]\.type: the kernel has no file system fatfs"):
        rows(node, schema.Mount(destination="/data", type="fatfs", source="x"))
    with pytest.raises(InvalidSpec, match=r"mounts\[6\]\.type: /data"):
        rows(node, schema.Mount(destination="/data", source="x"))


def test_options_of_a_bind_mount_are_of_it_alone_or_of_all_below(node: inside.Node) -> None:
    def look() -> list[tuple[bool, bool]]:
        with_mount_below(node)
        found = []
        for option, word in (("ro", "ro"), ("rro", "ro"), ("noexec", "noexec"), ("rnoexec", "noexec"), ("rnoatime", "noatime")):
            seen = rows(node, bind(volume(node), "/data", option))
            found.append((word in seen["/data"].options, word in seen["/data/inner"].options))
        return found

    assert apart(look) == [(True, False), (True, True), (True, False), (True, True), (True, True)]


SOURCE_FLAGS = "ro,noexec,nosymfollow,nodiratime"


@pytest.mark.parametrize(
    ("options", "has", "has_not"),
    [
        ([], "ro noexec nosymfollow nodiratime", "rw"),
        (["dev"], "rw nodiratime", "ro noexec nosymfollow"),
        (["nosuid", "nodev"], "rw nosuid nodev nodiratime", "ro noexec"),
        (["rw"], "rw nodiratime", "ro noexec"),
        (["ro", "strictatime"], "ro", "noexec nodiratime relatime"),
        (["atime"], "rw nodiratime", "ro noexec"),
    ],
)
@pytest.mark.parametrize("is_inside", [False, True])
def test_a_bind_mount_has_exactly_the_flags_that_are_said(
    node: inside.Node, options: list[str], has: str, has_not: str, is_inside: bool
) -> None:
    """As runc and crun have it; a pod's volume keeps what its source has."""

    def look() -> tuple[str, ...]:
        with kernel_mount.clone_tree(volume(node)) as file:
            said = parse_options(SOURCE_FLAGS.split(","))
            kernel_mount.set_attributes(file, add=Flags(said.add).value(), clear=Flags(said.clear).value())
            kernel_mount.attach(file, volume(node))
        mounts = [bind(volume(node), "/data", *options)]
        if is_inside:
            mounts = [bind(volume(node), "/kept"), bind(node.rootfs / "kept", "/data", *options)]
        return rows(node, *mounts, rootfs=node.rootfs, in_order=True, exactly=True)["/data"].options

    found = set(apart(look))
    assert set(has.split()) <= found
    assert not set(has_not.split()) & found


def test_words_that_are_for_a_file_system_are_nothing_to_a_bind_mount(node: inside.Node) -> None:
    """As for mount(2): documents give every mount the same ones, as those of the validation suite do."""
    options = ["mode=755", "size=1k", "sync", "lazytime", "iversion", "silent", "mand", "nosuid"]
    assert "nosuid" in rows(node, bind(volume(node), "/data", *options))["/data"].options


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
@pytest.mark.parametrize("name", ["private", "slave", "shared", "unbindable"])
def test_propagation_of_a_mount(node: inside.Node, kind: str, name: str) -> None:
    for words in ([name], [f"r{name}"]):
        mount = tmpfs("/data", *words) if kind == "tmpfs" else bind(volume(node), "/data", *words)
        line = next(line for line in node.run(spec("cat /proc/self/mountinfo", mount)).splitlines() if " /data " in line)
        tags = line.split(" - ")[0].split()[6:]
        assert [tag.partition(":")[0] for tag in tags] == {"shared": ["shared"], "unbindable": ["unbindable"]}.get(name, [])


def test_a_slave_of_the_nodes_mount_that_is_shared_in_the_container(node: inside.Node) -> None:
    def look() -> str:
        kernel_mount.bind(volume(node), volume(node))
        kernel_mount.set_propagation(volume(node), "shared")
        said = node.run(spec("cat /proc/self/mountinfo", bind(volume(node), "/data", "rslave", "shared")))
        return next(line for line in said.splitlines() if " /data " in line)

    assert [tag.partition(":")[0] for tag in apart(look).split(" - ")[0].split()[6:]] == ["shared", "master"]


@pytest.mark.parametrize("old", ["rw", "ro"])
def test_a_mount_that_is_there_is_mounted_anew(node: inside.Node, old: str) -> None:
    again = schema.Mount(destination="/data", options=["remount", "bind", "ro", "nosuid"])
    row = rows(node, bind(volume(node), "/data", old, "nodev"), again)["/data"]
    assert {"ro", "nosuid", "nodev"} <= set(row.options)


def test_a_file_system_that_is_there_is_changed(node: inside.Node) -> None:
    again = schema.Mount(destination="/data", type="tmpfs", source="tmpfs", options=["remount", "size=128k", "noexec"])
    seen = rows(node, tmpfs("/data", "size=64k"), again)
    assert "size=128k" in seen["/data"].super_options
    assert "noexec" in seen["/data"].options


def test_a_tmpfs_has_the_mode_of_what_it_covers_unless_another_is_said(node: inside.Node) -> None:
    (node.rootfs / "covered").mkdir()
    (node.rootfs / "covered").chmod(0o710)
    (node.rootfs / "tmp").chmod(0o1777)
    mounts = tmpfs("/covered"), tmpfs("/tmp"), tmpfs("/new"), tmpfs("/covered2/x", "mode=1500")
    assert node.run(spec("stat -c %a /covered /tmp /new /covered2/x", *mounts)).split() == ["710", "1777", "1777", "1500"]
    assert (node.rootfs / "covered").stat().st_mode & 0o7777 == 0o710


def test_a_read_only_tmpfs_is_filled_first(node: inside.Node) -> None:
    script = "cat /data/a/file; touch /data/x 2>&1 || true; touch /data/a/x && ls /data"
    mounts = tmpfs("/data", "ro"), bind(volume(node), "/data/a"), bind(volume(node) / "file", "/data/f")
    assert node.run(spec(script, *mounts)).splitlines() == [
        *("in the volume", "touch: /data/x: Read-only file system", "a", "f"),
    ]


def test_tmpcopyup_begins_with_what_it_covers(node: inside.Node) -> None:
    covered = node.rootfs / "covered"
    (covered / "directory").mkdir(parents=True)
    (covered / "directory").chmod(0o777)
    (covered / "directory/file").write_text("content\n")
    os.chown(covered / "directory/file", 7, 8)
    (covered / "directory/file").chmod(0o4751)
    (covered / "link").symlink_to("/nowhere")
    os.mkfifo(covered / "pipe")
    os.setxattr(covered / "directory/file", "security.capability", bytes.fromhex("0100000202000000000000000000000000000000"))
    covered.chmod(0o750)
    script = (
        "stat -c '%n %A %u:%g' /covered /covered/directory /covered/directory/file /covered/link /covered/pipe;"
        " cat /covered/directory/file; readlink /covered/link; touch /covered/new; stat -f -c %T /covered"
    )
    assert node.run(spec(script, tmpfs("/covered", "tmpcopyup", "size=1m"))).splitlines() == [
        "/covered drwxr-x--- 0:0",
        "/covered/directory drwxrwxrwx 0:0",
        "/covered/directory/file -rwsr-x--x 7:8",
        "/covered/link lrwxrwxrwx 0:0",
        "/covered/pipe prw-r--r-- 0:0",
        *("content", "/nowhere", "tmpfs"),
    ]
    assert not (covered / "new").exists()


def test_tmpcopyup_is_for_tmpfs_and_needs_room(node: inside.Node) -> None:
    for mount in (bind(volume(node), "/data", "tmpcopyup"), schema.Mount(destination="/x", type="ramfs", options=["tmpcopyup"])):
        with pytest.raises(InvalidSpec, match="tmpcopyup is for tmpfs"):
            rows(node, mount)
    (node.rootfs / "etc/large").write_bytes(bytes(100_000))
    with pytest.raises(OSError, match="No space left"):
        rows(node, tmpfs("/etc", "tmpcopyup", "size=16k"))


# Places.


def test_places_are_found_as_the_container_will_see_them(node: inside.Node) -> None:
    """A link in the image that leads nowhere yet, one in a volume that leads out of it, and a mount upon a mount."""
    (node.rootfs / "jump").symlink_to("/far/away")
    (node.rootfs / "etc/hosts").symlink_to("/jump/there/hosts")
    (volume(node) / "out").symlink_to("/outside")
    mounts = (
        *(bind(volume(node) / "file", "/etc/hosts"), bind(volume(node), "/data"), bind(volume(node) / "file", "/data/out/file")),
        *(tmpfs("/outside/new"), bind(volume(node) / "file", "/data/out/new/deep/er/file")),
    )
    script = "cat /etc/hosts /far/away/there/hosts /outside/file /outside/new/deep/er/file; cd /data/out/new/deep && ls"
    assert node.run(spec(script, *mounts)).split("\n") == [*["in the volume"] * 4, "er", ""]
    assert (node.rootfs / "far/away/there/hosts").is_file()
    assert sorted(os.listdir(volume(node))) == ["file", "inner", "out"]


def test_a_mount_that_comes_later_covers_what_came_before(node: inside.Node) -> None:
    (volume(node) / "inner/deep").mkdir()
    mounts = bind(volume(node), "/a/b"), tmpfs("/a"), bind(volume(node) / "file", "/a/b/file")
    assert node.run(spec("ls -R /a", *mounts)).split() == ["/a:", "b", "/a/b:", "file"]


@pytest.mark.parametrize("in_order", [False, True])
def test_mounts_are_seen_in_the_order_of_the_spec(node: inside.Node, in_order: bool) -> None:
    """Those opened beforehand are older; since Linux 6.8 that is what mountinfo goes by."""

    def look() -> list[tuple[str, str]]:
        kernel_mount.bind(volume(node), volume(node))
        kernel_mount.set_propagation(volume(node), "shared")
        with_mount_below(node)
        targets = ("/a", "/b", "/c", "/d", "/e", "/f")
        mounts = (
            *(bind(volume(node), "/a", "ro"), tmpfs("/b"), bind(volume(node) / "file", "/c", "unbindable")),
            *(bind(volume(node), "/d", "rshared"), tmpfs("/e"), bind(volume(node), "/f", "runbindable", "rro")),
        )
        lines = node.run(spec("cat /proc/self/mountinfo; cat /c; ls /d/inner", *mounts), in_order=in_order).splitlines()
        assert lines[-2:] == ["in the volume", "seen"]
        assert os.listdir(volume(node) / "inner") == ["seen"]  # nothing was unmounted here
        fields = [line.split(" ") for line in lines[:-2]]
        return [(each[4], each[5].partition(",")[0] + " " + each[6].partition(":")[0]) for each in fields if each[4] in targets]

    found = apart(look)
    if in_order:
        assert found == [
            *(("/a", "ro -"), ("/b", "rw -"), ("/c", "rw unbindable")),
            *(("/d", "rw shared"), ("/e", "rw -"), ("/f", "ro unbindable")),
        ]
    assert sorted(target for target, _ in found) == ["/a", "/b", "/c", "/d", "/e", "/f"]


def test_a_source_inside_the_root_shows_what_was_mounted_there(node: inside.Node) -> None:
    for name in ("a/x", "b/y", "c/z"):
        (volume(node) / name).mkdir(parents=True)
        (volume(node) / name / "file").write_text(f"{name}\n")
    root = node.rootfs
    mounts = (
        *(bind(volume(node) / "a", "/mnt"), bind(volume(node) / "b", "/mnt/x"), bind(volume(node) / "c", "/mnt/x/y")),
        bind(f"{root}/mnt/x", f"{root}/copy", "ro"),
        bind(f"{root}/etc", "/of_the_image"),
    )
    assert node.run(spec("cat /copy/y/z/file; ls /of_the_image", *mounts), rootfs=root).splitlines() == ["c/z"]
    assert "ro" in rows(node, *mounts, rootfs=root)["/copy"].options


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("instead", ["link", "file"])
def test_a_proc_or_sysfs_comes_on_an_ordinary_directory(node: inside.Node, name: str, instead: str) -> None:
    (node.rootfs / name).rmdir()
    if instead == "link":
        (node.rootfs / name).symlink_to("/tmp")
    else:
        (node.rootfs / name).touch()
    with pytest.raises(InvalidSpec, match=f"mount /{name}: .* must be mounted on ordinary directory"):
        node.run(spec("true"))


def test_without_proc_or_dev_it_starts_all_the_same(node: inside.Node) -> None:
    wanted = spec("ls / && stat -c %t:%T /dev/null")
    wanted.mounts = []
    said = node.run(wanted).split()
    assert said[-1] == "1:3"
    assert {"proc", "dev"} <= set(said)


def test_a_cgroup_is_ones_own_directory_without_a_namespace_for_it(node: inside.Node) -> None:
    """A cgroup2 mounted in the node's namespace would show the node's groups, and reset the mount options of all."""
    kinds = tuple(kind for kind in inside.KINDS if kind != "cgroup")
    for kind in ("cgroup", "cgroup2"):
        wanted = inside.spec("cat /proc/self/mountinfo", kinds=kinds)
        own = Path("/sys/fs/cgroup/pytest")
        cgroup = schema.Mount(destination="/sys/fs/cgroup", type=kind, source="cgroup", options=["ro", "nosuid", "nsdelegate"])
        row = rows(node, cgroup, wanted=wanted, cgroup=own)["/sys/fs/cgroup"]
        assert (row.filesystem, row.root) == ("cgroup2", "/pytest")
        assert {"ro", "nosuid"} <= set(row.options)


def test_a_small_limit_of_descriptors_is_the_programs_and_not_the_set_ups(node: inside.Node) -> None:
    wanted = spec("ulimit -n", *(bind(volume(node), f"/data{number}") for number in range(20)))
    assert wanted.process is not None
    wanted.process.rlimits = [schema.Rlimit(type="RLIMIT_NOFILE", soft=20, hard=20)]
    assert node.run(wanted, in_order=True) == "20\n"
