"""Namespaces of a container, seen from inside: made, joined, left out, and owned by its user namespace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import mount
from kernel._linux import lib
from kernel.fd import Fd
from kernel.namespace import in_new_thread, open_namespace, pin, unshare
from runtime.errors import HostPathNotFound, InvalidSpec, StartFailed, Unsupported
from runtime.spec import schema
from tests.support import inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

NAMES = {
    "pid": "pid",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "network": "net",
    "cgroup": "cgroup",
    "time": "time",
    "user": "user",
}
LIST = "for each in pid mnt ipc uts net cgroup time user; do readlink /proc/self/ns/$each; done"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> inside.Node:
    return inside.make_node(tmp_path_factory.mktemp("namespaces"))


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[Path]:
    """A directory with a network, an ipc and a uts namespace under their names."""

    def make() -> None:
        unshare(lib.CLONE_NEWNET | lib.CLONE_NEWIPC | lib.CLONE_NEWUTS)
        for kind in ("net", "ipc", "uts"):
            pin(kind, tmp_path / kind)  # type: ignore[arg-type]

    in_new_thread(make)
    yield tmp_path
    for kind in ("net", "ipc", "uts"):
        mount.unmount(tmp_path / kind)


def identities(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.split())


def ours() -> dict[str, str]:
    return identities(" ".join(inside.own_identity(kind) for kind in NAMES.values()))  # type: ignore[arg-type]


def test_each_kind_that_is_named_is_new_and_each_other_is_ours(node: inside.Node) -> None:
    kinds = ("pid", "mount", "uts", "time")
    found = identities(node.run(inside.spec(LIST, kinds=kinds)))
    assert {kind for kind, name in NAMES.items() if found[name] != ours()[name]} == set(kinds)


def test_without_a_pid_namespace_the_nodes_processes_are_seen(node: inside.Node) -> None:
    said = node.run(inside.spec("cat /proc/$PPID/comm; echo $$", kinds=("mount", "uts")))
    assert said.split()[0] == Path("/proc/self/comm").read_text().strip()
    assert int(said.split()[1]) > 1


def test_namespaces_are_joined_by_path(node: inside.Node, pinned: Path) -> None:
    wanted = inside.spec(LIST, kinds=("pid", "mount", "cgroup"))
    for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")):
        wanted.linux.namespaces.append(schema.Namespace(type=kind, path=str(pinned / name)))
    found = identities(node.run(wanted))
    for name in ("net", "ipc", "uts"):
        assert found[name] == f"[{os.stat(pinned / name).st_ino}]"
    assert found["pid"] != ours()["pid"]


def test_a_path_of_another_type_is_refused_by_name(node: inside.Node, pinned: Path) -> None:
    wanted = inside.spec("true", kinds=("mount",))
    wanted.linux.namespaces.append(schema.Namespace(type="ipc", path=str(pinned / "net")))
    with pytest.raises(InvalidSpec, match=r"linux.namespaces\[1\].path .*/net: a net namespace, not one of type ipc"):
        node.prepare(wanted)


@pytest.mark.parametrize(
    ("path", "kind", "match"),
    [
        ("/dev/null", InvalidSpec, "not a namespace"),
        ("/nowhere", HostPathNotFound, "no such file"),
        ("/dev/null/x", HostPathNotFound, "no such file"),
    ],
)
def test_a_path_that_is_no_namespace_is_refused_by_name(node: inside.Node, path: str, kind: type[Exception], match: str) -> None:
    wanted = inside.spec("true", kinds=("mount",))
    wanted.linux.namespaces.append(schema.Namespace(type="network", path=path))
    with pytest.raises(kind, match=rf"linux.namespaces\[1\].path {path}: {match}"):
        node.prepare(wanted)


def test_a_fifo_in_place_of_a_namespace_does_not_hang_the_start(node: inside.Node, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    wanted = inside.spec("true", kinds=("mount",))
    wanted.linux.namespaces.append(schema.Namespace(type="pid", path=str(tmp_path / "fifo")))
    with pytest.raises(InvalidSpec, match="not a namespace"):
        node.prepare(wanted)


def test_the_nodes_own_mount_namespace_is_not_pivoted(node: inside.Node) -> None:
    wanted = inside.spec("true", kinds=())
    wanted.linux.namespaces.append(schema.Namespace(type="mount", path="/proc/self/ns/mnt"))
    with pytest.raises(Unsupported, match="the node's own mount namespace"):
        node.prepare(wanted)


def test_a_clock_runs_ahead_in_a_time_namespace(node: inside.Node) -> None:
    wanted = inside.spec("cat /proc/uptime; cat /proc/self/timens_offsets", kinds=(*inside.KINDS, "time"))
    wanted.linux.time_offsets = {
        "boottime": schema.TimeOffset(secs=1_000_000),
        "monotonic": schema.TimeOffset(secs=77, nanosecs=500),
    }
    uptime, *offsets = node.run(wanted).splitlines()
    assert float(uptime.split()[0]) > 1_000_000
    assert [line.split() for line in offsets] == [["monotonic", "77", "500"], ["boottime", "1000000", "0"]]


def test_a_clock_that_would_stand_before_zero_is_refused_by_its_step(node: inside.Node) -> None:
    wanted = inside.spec("true", kinds=(*inside.KINDS, "time"))
    wanted.linux.time_offsets = {"monotonic": schema.TimeOffset(secs=-(10**9))}
    with pytest.raises(StartFailed, match="numerical result out of range — the clock would stand before zero"):
        node.run(wanted)


def test_the_container_has_its_names(node: inside.Node) -> None:
    wanted = inside.spec("hostname; cat /proc/sys/kernel/domainname")
    wanted.hostname, wanted.domainname = "box", "example.org"
    assert node.run(wanted).split() == ["box", "example.org"]


def test_names_need_a_uts_namespace(node: inside.Node) -> None:
    for field in ("hostname", "domainname"):
        wanted = inside.spec("true", kinds=("mount", "pid"))
        setattr(wanted, field, "box")
        with pytest.raises(InvalidSpec, match=f"^{field}: the container is in the node's uts namespace"):
            node.run(wanted)


# With a user namespace.

WHO = "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g; id -G; cat /proc/self/setgroups; stat -c %u:%g /proc/self/"


def test_a_user_namespace_maps_the_ids(node: inside.Node) -> None:
    said = node.run(inside.with_users(inside.spec(WHO))).split()
    assert said == ["0", "100000", "65536", "0", "100000", "65536", "0", "0", "0", "allow", "0:0"]


def test_a_user_of_the_namespace_is_another_to_the_node(node: inside.Node) -> None:
    user = schema.User(uid=1000, gid=1001, additional_gids=[5, 6])
    said = node.run(inside.with_users(inside.spec("grep -E '^(Uid|Gid|Groups)' /proc/self/status", user=user)))
    rows = [line.split() for line in said.splitlines()]
    assert rows == [["Uid:", *["1000"] * 4], ["Gid:", *["1001"] * 4], ["Groups:", "5", "6"]]


def test_an_id_that_is_not_mapped_is_refused_by_its_step(node: inside.Node) -> None:
    wanted = inside.with_users(inside.spec("true", user=schema.User(uid=70000)))
    with pytest.raises(StartFailed, match=r"setresuid.*the user namespace must map this id"):
        node.run(wanted)


def test_the_new_namespaces_belong_to_the_user_namespace(node: inside.Node) -> None:
    """What takes a right in the owner of a namespace can be done: rename, configure, mount."""
    script = "hostname other && hostname; ip link set lo down && ip link set lo up && mount -t tmpfs none /tmp && echo mounted"
    assert node.run(inside.with_users(inside.spec(script))).split() == ["other", "mounted"]


def test_root_of_the_namespace_is_nobody_on_the_node(node: inside.Node) -> None:
    secret = node.rootfs / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    said = node.run(inside.with_users(inside.spec("stat -c %u:%g:%a /secret; cat /secret 2>&1 || true")))
    assert said.splitlines()[0] == "65534:65534:600"
    assert "Permission denied" in said.splitlines()[1]


def test_a_user_namespace_is_joined_by_path_and_others_go_with_it(node: inside.Node, pinned: Path) -> None:
    """The network namespace is the node's, so it is entered before the user namespace; in which nothing may be done to it."""
    wanted = inside.with_users(inside.spec(LIST, kinds=("pid", "mount", "uts")))
    wanted.linux.namespaces.append(schema.Namespace(type="network", path=str(pinned / "net")))
    found = identities(node.run(wanted))
    assert found["net"] == f"[{os.stat(pinned / 'net').st_ino}]"
    assert found["user"] != ours()["user"]


def test_clocks_are_set_in_a_user_namespace_too(node: inside.Node) -> None:
    wanted = inside.with_users(inside.spec("cat /proc/self/timens_offsets", kinds=(*inside.KINDS, "time")))
    wanted.linux.time_offsets = {"monotonic": schema.TimeOffset(secs=5)}
    assert node.run(wanted).split()[:3] == ["monotonic", "5", "0"]


def test_the_user_namespace_of_a_process_is_joined(node: inside.Node) -> None:
    from kernel.user_namespace import IdRange, new_user_namespace, write_map

    def write(pid: int) -> None:
        for kind in ("uid", "gid"):
            write_map(pid, kind, [IdRange(0, 200_000, 1000)])  # type: ignore[arg-type]

    with new_user_namespace(write) as users:
        wanted = inside.spec(f"cat /proc/self/uid_map; {LIST}", kinds=("pid", "mount", "uts"))
        wanted.linux.namespaces.append(schema.Namespace(type="user", path=f"/proc/self/fd/{users.fileno()}"))
        first, *rest = node.run(wanted).splitlines()
    assert first.split() == ["0", "200000", "1000"]
    assert identities(" ".join(rest))["user"] != ours()["user"]


def test_a_mount_namespace_is_joined_by_path(node: inside.Node, tmp_path: Path) -> None:
    """What is mounted there alone is there no more behind the pivot, as in a new one; ours stays as it was."""

    def make() -> Fd:
        unshare(lib.CLONE_NEWNS | lib.CLONE_FS)
        mount.set_propagation("/", "private", recursive=True)
        return open_namespace("thread-self", "mnt")

    before = Path("/proc/self/mountinfo").read_text()
    with in_new_thread(make) as mounts:
        wanted = inside.spec("readlink /proc/self/ns/mnt; ls /", kinds=("pid", "uts"))
        wanted.linux.namespaces.append(schema.Namespace(type="mount", path=f"/proc/self/fd/{mounts.fileno()}"))
        first, *rest = node.run(wanted).split()
        assert first == f"mnt:[{os.fstat(mounts.fileno()).st_ino}]"
    assert {"bin", "proc", "tmp"} <= set(rest)
    assert "home" not in rest
    assert Path("/proc/self/mountinfo").read_text() == before


def test_without_a_mount_namespace_it_is_confined_to_a_tree_that_is_in_no_table(node: inside.Node) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    script = (
        "readlink /proc/self/ns/mnt; ls /; cat /proc/self/comm; echo x > /dev/null; mount -t tmpfs none /tmp 2>&1; ls /../../home"
    )
    wanted = inside.spec(f"{script} 2>&1 || true", kinds=("pid", "uts"))
    wanted.linux.masked_paths, wanted.linux.readonly_paths = ["/proc/kcore"], ["/proc/sys"]
    first, *rest = node.run(wanted).splitlines()
    assert first == inside.own_identity("mnt")
    assert {"bin", "proc", "tmp", "cat"} <= set(rest)
    assert "home" not in rest[:-1]
    assert Path("/proc/self/mountinfo").read_text() == before


def test_with_a_user_namespace_it_needs_a_mount_namespace(node: inside.Node) -> None:
    with pytest.raises(Unsupported, match=r"^linux.namespaces: with a user namespace a container needs a mount namespace"):
        node.prepare(inside.with_users(inside.spec("true", kinds=("pid",))))
