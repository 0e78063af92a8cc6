"""The root as a container sees it: what is hidden and write-protected, how mounts spread, and life without a pivot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kernel import mount as kernel_mount
from kernel.mountinfo import parse_mountinfo
from runtime.container import ground
from runtime.errors import InvalidSpec, StartFailed
from runtime.spec import schema
from tests.support import child, inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

T = TypeVar("T")
#: What runtimetest does: bind / somewhere, mount in /, and see whether that shows there.
SPREADS = (
    "mkdir /target /mount /file && touch /file/x && mount --rbind / /target && mount --bind /file /mount;"
    " test -e /target/mount/x && echo exposed || echo not exposed"
)


@pytest.fixture
def node(tmp_path: Path) -> inside.Node:
    (tmp_path / "volume/inner").mkdir(parents=True)
    (tmp_path / "volume/file").write_text("in the volume\n")
    return inside.make_node(tmp_path)


def spec(script: str, *, masked: tuple[str, ...] = (), readonly: tuple[str, ...] = ()) -> schema.Spec:
    wanted = inside.spec(script)
    wanted.linux.masked_paths, wanted.linux.readonly_paths = list(masked), list(readonly)
    return wanted


def volume(node: inside.Node) -> Path:
    return node.rootfs.parent / "volume"


def bind(source: Path, destination: str, *options: str) -> schema.Mount:
    return schema.Mount(destination=destination, type="bind", source=str(source), options=["rbind", *options])


def apart(function: Callable[[], T]) -> T:
    return child.run(function, namespaces=["mount"])


def test_a_read_only_root_and_what_is_mounted_on_it(node: inside.Node) -> None:
    wanted = spec("touch /x 2>&1; touch /dev/x /data/x && echo else")
    wanted.root = schema.Root(path="rootfs", readonly=True)
    wanted.mounts.append(bind(volume(node), "/data"))
    assert node.run(wanted).splitlines() == ["touch: /x: Read-only file system", "else"]
    assert not (node.rootfs / "x").exists()


def test_files_and_directories_are_hidden_wherever_they_are(node: inside.Node) -> None:
    (node.rootfs / "etc/secret").write_text("secret\n")
    (node.rootfs / "link").symlink_to("/data")
    (node.rootfs / "covered").mkdir()
    (node.rootfs / "covered/file").write_text("secret\n")
    hidden = (
        *("/etc/secret", "/etc/secret", "//etc//secret", "/none", "/link/file", "/data/inner", "/link/inner"),
        *(
            "/fresh/later/file",
            "/fresh/none",
            "/covered/file",
            "/dev/zero",
            "/data/inner/file",
            "/ram",
            "/proc/sys/net",
            "/proc/none",
        ),
    )
    wanted = spec(
        "cat /etc/secret /data/file /fresh/later/file /covered/file; ls /data/inner /proc/sys/net; head -c 1 /dev/zero;"
        " touch /data/inner/x 2>&1; grep -c ' /etc/secret ' /proc/self/mountinfo; chmod 0 /etc/secret 2>&1;"
        " for each in /etc/secret /data/file /fresh/later/file /covered/file /dev/zero; do stat -c %t:%T $each; done",
        masked=hidden,
    )
    (volume(node) / "inner/file").touch()
    wanted.mounts += [
        *(bind(volume(node), "/data"), schema.Mount(destination="/fresh", type="tmpfs")),
        bind(volume(node), "/fresh/later"),
        schema.Mount(destination="/covered", type="tmpfs", options=["tmpcopyup"]),
    ]
    assert node.run(wanted).splitlines() == [
        *("/data/inner:", "", "/proc/sys/net:"),
        "touch: /data/inner/x: Read-only file system",
        "1",
        "chmod: /etc/secret: Read-only file system",
        *["1:3"] * 5,
    ]


@pytest.mark.parametrize("is_old", [False, True])
def test_what_only_the_file_system_knows_is_hidden_too(node: inside.Node, is_old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file system of the node's that nobody has looked into: whether it is a file or a directory is seen then.

    Before Linux 6.15 what hides a file cannot be copied, so there is one more for each.
    """
    if is_old:
        monkeypatch.setattr(ground, "has_detached_copies", lambda: False)
    for name in ("lower/directory", "upper", "work"):
        (volume(node) / name).mkdir(parents=True)
    (volume(node) / "lower/directory/file").touch()
    (volume(node) / "lower/file").write_text("secret\n")
    layers = [f"{name}dir={volume(node)}/{name}" for name in ("lower", "upper", "work")]
    masked = ("/data/file", "/data/directory", "/data/none")
    wanted = spec("ls /data/directory; cat /data/file; stat -c %t:%T /data/file; ls /data", masked=masked)
    wanted.mounts.append(schema.Mount(destination="/data", type="overlay", source="overlay", options=layers))
    assert node.run(wanted).splitlines() == ["1:3", "directory", "file"]


def test_the_root_itself_cannot_be_hidden(node: inside.Node) -> None:
    for path in ("/", "/etc/.."):
        with pytest.raises(InvalidSpec, match=r"linux\.maskedPaths .*: nothing would be left"):
            node.run(spec("true", masked=(path,)))


def test_paths_are_read_only_with_all_that_is_mounted_below(node: inside.Node) -> None:
    wanted = spec(
        "for each in /data/x /data/sub/x /etc/x /file /proc/sys/kernel/hostname; do"
        " (echo x > $each) 2>/dev/null && echo $each; done; cat /proc/self/mountinfo | grep ' /data '",
        readonly=("/data", "/etc", "/file", "/proc/sys", "/none", "/file/none"),
    )
    (node.rootfs / "file").touch()
    wanted.mounts += [bind(volume(node), "/data", "nosuid", "nodev"), schema.Mount(destination="/data/sub", type="tmpfs")]
    rows = parse_mountinfo(node.run(wanted))
    assert "ro" not in rows[0].options
    assert {"ro", "nosuid", "nodev"} <= set(rows[-1].options)


def test_all_can_be_read_only(node: inside.Node) -> None:
    assert node.run(spec("touch /x /dev/x 2>&1 | grep -c Read-only", readonly=("/",))).split() == ["2"]


@pytest.mark.parametrize(
    ("propagation", "tags", "says"),
    [
        ("", [], "not exposed"),
        ("private", [], "not exposed"),
        ("rprivate", [], "not exposed"),
        ("slave", [], "not exposed"),
        ("rslave", [], "not exposed"),
        ("shared", ["shared"], "exposed"),
        ("rshared", ["shared"], "exposed"),
    ],
)
def test_mounts_spread_from_the_root_as_it_says(node: inside.Node, propagation: str, tags: list[str], says: str) -> None:
    wanted = spec(f"head -n 1 /proc/self/mountinfo; {SPREADS}")
    wanted.linux.rootfs_propagation = propagation
    line, said = node.run(wanted).splitlines()
    assert [tag.partition(":")[0] for tag in line.split(" - ")[0].split()[6:]] == tags
    assert said == says
    assert all(not row.target.startswith(str(node.rootfs)) for row in parse_mountinfo(Path("/proc/self/mountinfo").read_text()))


@pytest.mark.parametrize("propagation", ["unbindable", "runbindable"])
def test_a_root_that_cannot_be_bound(node: inside.Node, propagation: str) -> None:
    wanted = spec("mkdir /target; mount --bind / /target 2>&1 || true")
    wanted.linux.rootfs_propagation = propagation
    assert "Invalid argument" in node.run(wanted)


def test_a_slave_sees_what_the_node_mounts_and_a_private_root_does_not(node: inside.Node) -> None:
    """And nobody's mounts come out: the node's own are shared here, as on most hosts."""

    def look() -> dict[str, tuple[bool, bool]]:
        kernel_mount.bind(node.rootfs, node.rootfs)
        kernel_mount.set_propagation(node.rootfs, "shared")
        found = {}
        for propagation in ("private", "rslave", "rshared", ""):
            wanted = spec("head -n 1 /proc/self/mountinfo; mkdir -p /made; mount -t tmpfs none /made")
            wanted.linux.rootfs_propagation = propagation
            first = node.run(wanted).splitlines()[0]
            leaked = any(row.target == f"{node.rootfs}/made" for row in parse_mountinfo(Path("/proc/self/mountinfo").read_text()))
            found[propagation] = "master:" in first, leaked
        return found

    nothing = (False, False)
    assert apart(look) == {"private": nothing, "rslave": (True, False), "rshared": nothing, "": nothing}


@pytest.mark.parametrize("options", [[], ["private"], ["slave"], ["unbindable"], ["rprivate"], ["rslave"]])
@pytest.mark.parametrize("kind", ["bind", "rbind"])
def test_nothing_that_is_mounted_below_comes_back_to_the_node(node: inside.Node, kind: str, options: list[str]) -> None:
    """Mounts below the source are shared with everybody on most nodes, and not every document speaks of them."""

    def look() -> tuple[list[str], bool]:
        kernel_mount.bind(volume(node), volume(node))
        kernel_mount.set_propagation(volume(node), "shared")
        with kernel_mount.new_filesystem("tmpfs") as inner:
            kernel_mount.attach(inner, volume(node) / "inner")
        (volume(node) / "inner/below").mkdir()
        words = [*(["rbind"] if kind == "bind" else []), *options]
        mount = schema.Mount(destination="/data", type=kind, source=str(volume(node)), options=words)
        wanted = spec("mount -t tmpfs none /data/inner/below; cat /proc/self/mountinfo")
        wanted.mounts.append(mount)
        said = node.run(wanted)
        [line] = [line for line in said.splitlines() if " /data/inner " in line]
        leaked = f" {volume(node)}/inner/below " in Path("/proc/self/mountinfo").read_text()
        return [tag.partition(":")[0] for tag in line.split(" - ")[0].split()[6:]], leaked

    tags, leaked = apart(look)
    assert "shared" not in tags
    assert not leaked


def test_an_unknown_propagation_is_refused_by_the_field(node: inside.Node) -> None:
    wanted = spec("true")
    wanted.linux.rootfs_propagation = "loud"
    with pytest.raises(InvalidSpec, match=r"linux\.rootfsPropagation"):
        node.run(wanted)


def test_without_a_pivot_the_root_is_the_same(node: inside.Node) -> None:
    (node.rootfs / "proof").write_text("here\n")
    wanted = spec("cat /proof; ls /; grep -c ' / / ' /proc/1/mountinfo; touch /x 2>&1 || true", masked=("/etc",))
    wanted.root = schema.Root(path="rootfs", readonly=True)
    lines = node.run(wanted, pivots=False).splitlines()
    assert lines[0] == "here"
    assert set(lines[1:-2]) == set(os.listdir(node.rootfs))
    assert lines[-2:] == ["0", "touch: /x: Read-only file system"]


def test_without_a_pivot_nothing_of_the_nodes_can_be_reached(node: inside.Node) -> None:
    """Neither its tree, nor the right to mount a new procfs that a whole one below would give (runc's msMoveRoot)."""
    climb = "cd /; i=0; while [ $i -lt 20 ]; do cd ..; i=$((i+1)); done; ls -d bin work 2>&1"
    anew = "unshare -mrpf sh -c 'mount -t proc none /proc' 2>&1 || echo refused"
    said = node.run(spec(f"{climb}; {anew}", masked=("/proc/sys",)), pivots=False)
    assert said.splitlines()[-2:] == ["mount: permission denied (are you root?)", "refused"]
    assert "ls: work: No such file or directory" in said
    assert "bin" in said.splitlines()


@requires("kernel 6.15")
def test_without_a_mount_namespace_it_has_all_its_mounts_and_the_node_none(node: inside.Node) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    kinds = tuple(kind for kind in inside.KINDS if kind != "mount")
    wanted = inside.spec("cat /etc/hidden /data/file /copy/file; touch /data/x 2>&1; ls /", kinds=kinds)
    wanted.mounts += [
        *(bind(volume(node), "/data", "ro", "unbindable"), schema.Mount(destination="/fresh", type="tmpfs")),
        bind(node.rootfs / "etc", "/copy"),
    ]
    (node.rootfs / "etc/hidden").write_text("secret\n")
    (node.rootfs / "etc/file").write_text("in the image\n")
    wanted.linux.masked_paths, wanted.linux.readonly_paths = ["/etc/hidden"], ["/etc"]
    lines = node.run(wanted, in_order=True, exactly=True, rootfs=node.rootfs).splitlines()
    assert lines[:3] == ["in the volume", "in the image", "touch: /data/x: Read-only file system"]
    assert {"data", "fresh", "copy"} <= set(lines[3:])
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_step_that_fails_leaves_nothing_mounted(node: inside.Node) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    wanted = spec("true")
    wanted.mounts.append(schema.Mount(destination="/data", type="tmpfs", options=["nonsense=1"]))
    with pytest.raises(StartFailed, match="nonsense"):
        node.run(wanted)
    assert Path("/proc/self/mountinfo").read_text() == before
