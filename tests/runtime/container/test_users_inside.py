"""Mounts in and for user namespaces: owners seen through maps, what may not be made inside, what is locked."""

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
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema
from tests.support import child, inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

T = TypeVar("T")
OVERFLOW = 65534


@pytest.fixture
def node(tmp_path: Path) -> inside.Node:
    made = inside.make_node(tmp_path)
    for above, _, names in os.walk(made.rootfs):
        for name in ("", *names):
            os.chown(os.path.join(above, name), inside.MAPPED, inside.MAPPED)
    (volume(made) / "inner").mkdir(parents=True)
    (volume(made) / "file").touch()
    os.chown(volume(made) / "file", 100, 211)
    return made


def volume(node: inside.Node) -> Path:
    return node.rootfs.parent / "volume"


def apart(function: Callable[[], T]) -> T:
    return child.run(function, namespaces=["mount"])


def with_mount_below(node: inside.Node) -> None:
    with kernel_mount.new_filesystem("tmpfs") as inner:
        kernel_mount.attach(inner, volume(node) / "inner")
    (volume(node) / "inner/file").touch()
    os.chown(volume(node) / "inner/file", 100, 211)


def ids(inside_id: int, outside_id: int, size: int) -> list[schema.IdMapping]:
    return [schema.IdMapping(container_id=inside_id, host_id=outside_id, size=size)]


def mapped(node: inside.Node, *options: str, uids: tuple[int, int, int] | None = None, **more: object) -> schema.Mount:
    given = {} if uids is None else {"uid_mappings": ids(*uids), "gid_mappings": ids(200, uids[1], 100)}
    source = str(volume(node))
    return schema.Mount(destination="/data", source=source, options=["rbind", *options], **{**given, **more})  # type: ignore[arg-type]


def owners(node: inside.Node, mount: schema.Mount, *, with_users: bool) -> list[str]:
    wanted = inside.spec("stat -c %u:%g /data/file; test -e /data/inner/file && stat -c %u:%g /data/inner/file || true")
    wanted.mounts.append(mount)
    return node.run(inside.with_users(wanted) if with_users else wanted).split()


@pytest.mark.parametrize(("word", "below"), [("idmap", "100:211"), ("ridmap", "5000:5011"), ("", "100:211")])
def test_owners_are_seen_through_the_maps_of_a_mount(node: inside.Node, word: str, below: str) -> None:
    def look() -> list[str]:
        with_mount_below(node)
        return owners(node, mapped(node, *([word] if word else []), uids=(100, 5000, 100)), with_users=False)

    assert apart(look) == ["5000:5011", below]


@pytest.mark.parametrize(("word", "below"), [("idmap", f"{OVERFLOW}:{OVERFLOW}"), ("ridmap", "100:211")])
def test_without_maps_of_its_own_it_has_the_containers(node: inside.Node, word: str, below: str) -> None:
    def look() -> list[str]:
        with_mount_below(node)
        return owners(node, mapped(node, word), with_users=True)

    assert apart(look) == ["100:211", below]


def test_maps_of_a_mount_in_a_user_namespace_are_of_the_nodes_ids(node: inside.Node) -> None:
    first = inside.MAPPED
    assert owners(node, mapped(node, uids=(100, first + 7, 3)), with_users=True) == ["7:18"]
    assert owners(node, mapped(node), with_users=True) == [f"{OVERFLOW}:{OVERFLOW}"]


def test_an_id_mapped_mount_can_be_written_to_shared_and_read_only(node: inside.Node) -> None:
    wanted = inside.with_users(inside.spec("touch /data/new && stat -c %u:%g /data/new && grep ' /data ' /proc/self/mountinfo"))
    wanted.mounts.append(mapped(node, "idmap", "shared", "noexec"))
    os.chmod(volume(node), 0o777)
    owner, line = node.run(wanted).splitlines()
    assert (owner, (volume(node) / "new").stat().st_uid) == ("0:0", 0)
    assert " shared:" in line
    assert "noexec" in line
    assert "idmapped" in line


def test_a_source_inside_the_root_is_mapped_as_it_is_by_then(node: inside.Node) -> None:
    wanted = inside.spec("stat -c %u:%g /copy/file /data/file")
    copy = schema.Mount(destination="/copy", source=f"{node.rootfs}/data", options=["bind", "idmap"])
    copy.uid_mappings, copy.gid_mappings = ids(100, 5000, 100), ids(200, 5000, 100)
    wanted.mounts += [schema.Mount(destination="/data", source=str(volume(node)), options=["bind"]), copy]
    assert node.run(wanted, rootfs=node.rootfs).split() == ["5000:5011", "100:211"]


def test_a_source_that_nobody_inside_can_reach_is_mounted_all_the_same(node: inside.Node) -> None:
    (volume(node) / "hidden/deep").mkdir(parents=True)
    (volume(node) / "hidden/deep/file").write_text("reached\n")
    (volume(node) / "hidden").chmod(0o700)
    wanted = inside.with_users(inside.spec("cat /data/file"))
    wanted.mounts.append(schema.Mount(destination="/data", source=str(volume(node) / "hidden/deep"), options=["bind", "ro"]))
    assert node.run(wanted) == "reached\n"


@pytest.mark.parametrize(
    ("what", "word"),
    [("bind", word) for word in ("ro", "nosuid", "nodev", "noexec", "noatime")] + [("root", "ro"), ("root", "nodev")],
)
def test_what_the_nodes_mounts_are_nobody_inside_can_undo(node: inside.Node, word: str, what: str) -> None:
    """Who may mount inside could otherwise write to what is read-only for the node itself."""
    back = {"ro": "rw", "noatime": "strictatime"}.get(word, word.removeprefix("no"))
    target, source = ("/data", volume(node)) if what == "bind" else ("/", node.rootfs)
    os.chmod(volume(node), 0o777)
    (node.rootfs / "data").mkdir()

    def look() -> str:
        with kernel_mount.clone_tree(source) as file:
            options = parse_options([word])
            kernel_mount.set_attributes(file, add=Flags(options.add).value(), clear=Flags(options.clear).value())
            kernel_mount.attach(file, source)
        script = f"mount -o remount,bind,{back} {target} 2>&1; grep ' {target} ' /proc/self/mountinfo"
        wanted = inside.with_users(inside.spec(script))
        wanted.mounts.append(schema.Mount(destination="/data", source=str(volume(node)), options=["rbind"]))
        return node.run(wanted, rootfs=node.rootfs)

    said = apart(look)
    assert "ermission denied" in said
    if what == "bind":
        assert word in parse_mountinfo(said.splitlines()[-1])[0].options


def test_what_is_locked_is_told_to_who_would_have_it_otherwise(node: inside.Node) -> None:
    def look() -> None:
        kernel_mount.bind(volume(node), volume(node), read_only=True)
        wanted = inside.with_users(inside.spec("true"))
        wanted.mounts.append(schema.Mount(destination="/data", source=str(volume(node)), options=["rbind", "rw"]))
        node.run(wanted)

    with pytest.raises(Unsupported, match="mount /data: options: cannot clear locked flags"):
        apart(look)


def test_flags_that_are_locked_are_kept_and_the_others_are_not(node: inside.Node) -> None:
    """Of a command line, which is asked for exactly these flags (runc's mounts_sshfs.bats)."""

    def look() -> str:
        with kernel_mount.clone_tree(volume(node)) as file:
            said = parse_options(["ro", "noexec", "nosymfollow", "nodiratime"])
            kernel_mount.set_attributes(file, add=Flags(said.add).value())
            kernel_mount.attach(file, volume(node))
        wanted = inside.with_users(inside.spec("grep ' /data ' /proc/self/mountinfo"))
        wanted.mounts.append(schema.Mount(destination="/data", source=str(volume(node)), options=["rbind", "dev", "nosuid"]))
        return node.run(wanted, in_order=True, exactly=True)

    found = set(parse_mountinfo(apart(look))[0].options)
    assert {"ro", "noexec", "nodiratime", "nosuid"} <= found
    assert not {"nosymfollow", "rw"} & found


def test_what_mounts_of_the_nodes_cover_is_not_uncovered(node: inside.Node) -> None:
    def look() -> None:
        with_mount_below(node)
        wanted = inside.with_users(inside.spec("true"))
        wanted.mounts.append(schema.Mount(destination="/data", source=str(volume(node)), options=["bind"]))
        node.run(wanted)

    with pytest.raises(InvalidSpec, match=r"mount /data: .* in a user namespace these come along \(rbind\)"):
        apart(look)


def test_places_that_are_made_belong_to_the_containers_root(node: inside.Node) -> None:
    wanted = inside.with_users(inside.spec("stat -c %u:%g /new /new/place /work/here", cwd="/work/here"))
    wanted.mounts.append(schema.Mount(destination="/new/place/x", type="tmpfs"))
    assert node.run(wanted).split() == ["0:0"] * 3


def test_tmpcopyup_keeps_the_owners(node: inside.Node) -> None:
    (node.rootfs / "etc/file").touch()
    os.chown(node.rootfs / "etc/file", inside.MAPPED + 7, inside.MAPPED + 8)
    wanted = inside.with_users(inside.spec("stat -c %u:%g /etc /etc/file; touch /etc/new; stat -c %u:%g /etc/new"))
    wanted.mounts.append(schema.Mount(destination="/etc", type="tmpfs", options=["tmpcopyup", "nodev"]))
    assert node.run(wanted).split() == ["0:0", "7:8", "0:0"]


@pytest.mark.parametrize(("missing", "target"), [("network", "/sys"), ("ipc", "/dev/mqueue"), ("pid", "/proc")])
def test_what_only_its_owner_may_mount_anew_is_the_nodes(node: inside.Node, missing: str, target: str) -> None:
    """A new sysfs shows a network namespace, and takes the rights over it; without one of its own there is the node's."""
    wanted = inside.spec("cat /proc/self/mountinfo", kinds=tuple(kind for kind in inside.KINDS if kind != missing))
    if target not in {mount.destination for mount in wanted.mounts}:
        kind = {"/sys": "sysfs", "/dev/mqueue": "mqueue"}[target]
        wanted.mounts.append(
            schema.Mount(destination=target, type=kind, source=kind, options=["nosuid", "noexec", "nodev", "ro"])
        )
    found = {row.target: row for row in parse_mountinfo(node.run(inside.with_users(wanted)))}
    row: Mount = found[target]
    assert row.filesystem == {"/sys": "sysfs", "/dev/mqueue": "mqueue", "/proc": "proc"}[target]
    assert {"nosuid", "noexec", "nodev"} <= set(row.options)


def test_a_read_only_root_and_masks_in_a_user_namespace(node: inside.Node) -> None:
    wanted = inside.spec("touch /x 2>&1; ls /etc; cat /file; mount -o remount,bind,rw / 2>/dev/null && touch /x 2>&1; true")
    wanted.root = schema.Root(path="rootfs", readonly=True)
    wanted.linux.masked_paths, wanted.linux.readonly_paths = ["/etc", "/file"], ["/proc/sys"]
    (node.rootfs / "file").write_text("secret\n")
    (node.rootfs / "etc/secret").touch()
    said = node.run(inside.with_users(wanted))
    assert said.splitlines()[0] == "touch: /x: Read-only file system"
    assert "secret" not in said


@pytest.mark.parametrize("with_users", [False, True])
@pytest.mark.parametrize("user", [0, 1000])
def test_a_terminal_belongs_to_the_user_and_to_the_group_of_terminals(node: inside.Node, with_users: bool, user: int) -> None:
    look = "stat -c '%n %u:%g' /dev/console /dev/pts/0; readlink /proc/self/fd/0; readlink /proc/self/fd/1"
    script = f"{look}; tty; echo x > /dev/tty"
    wanted = inside.spec(script, terminal=True)
    assert wanted.process is not None
    wanted.process.user = schema.User(uid=user, gid=user)
    wanted.mounts.insert(1, schema.Mount(destination="/first", source=str(volume(node)), options=["bind"]))
    wanted.mounts.append(schema.Mount(destination="/last", source=str(volume(node)), options=["bind"]))
    lines = node.run_in_terminal(inside.with_users(wanted) if with_users else wanted, in_order=True).split()
    owner = f"{user}:5"
    assert lines == ["/dev/console", owner, "/dev/pts/0", owner, *["/dev/pts/0"] * 3, "x"]


def test_a_terminal_takes_a_devpts(node: inside.Node) -> None:
    wanted = inside.spec("true", terminal=True)
    wanted.mounts = [mount for mount in wanted.mounts if mount.type != "devpts"]
    with pytest.raises(InvalidSpec, match="needs a devpts"):
        node.run_in_terminal(wanted)


def test_an_id_map_without_ids_needs_a_user_namespace(node: inside.Node) -> None:
    with pytest.raises(InvalidSpec, match="uidMappings: it has none, and the container has no user namespace"):
        owners(node, mapped(node, "idmap"), with_users=False)
    half = schema.Mount(destination="/data", source=str(volume(node)), options=["bind"], uid_mappings=ids(0, 5, 1))
    with pytest.raises(InvalidSpec, match=r"gidMappings: missing, and the other one is there"):
        owners(node, half, with_users=False)
    new = schema.Mount(destination="/data", type="tmpfs", uid_mappings=ids(0, 5, 1), gid_mappings=ids(0, 5, 1))
    with pytest.raises(Unsupported, match="only bind mounts are id-mapped"):
        owners(node, new, with_users=False)
