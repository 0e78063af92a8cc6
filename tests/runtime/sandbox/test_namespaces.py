"""A pod's namespaces are pinned, set up as asked, and leave nothing."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel import mount, namespace
from kernel._linux import lib
from kernel.fd import Fd, open_path
from kernel.mountinfo import load_mountinfo
from runtime.errors import InvalidArgument
from runtime.paths import Paths
from runtime.sandbox import namespaces
from tests.support import network
from tests.support.requires import requires

pytestmark = requires("root")

T = TypeVar("T")
ID = "a1" * 32


@contextmanager
def prepared(directory: Path) -> Iterator[Paths]:
    paths = Paths(directory / "root", directory / "run")
    paths.prepare()
    namespaces.prepare(paths)
    try:
        yield paths
    finally:
        namespaces.remove(paths, ID)
        namespaces.release(paths)
        assert list(paths.run_sandboxes.iterdir()) == []
        assert mounts_below(directory) == []


def mounts_below(directory: Path, process: int | str = "self") -> list[str]:
    return [row.target for row in load_mountinfo(process) if row.target.startswith(str(directory))]


def inside(pin: Path, kind: namespace.Kind, function: Callable[[], T]) -> T:
    with open_path(pin) as found:
        return namespace.in_namespace(found, kind, function)


def sysctl(key: str) -> str:
    return Path("/proc/sys", *key.split(".")).read_text().strip()


def test_what_was_asked_for_is_pinned_and_differs_from_the_node(tmp_path: Path) -> None:
    def test() -> None:
        with prepared(tmp_path) as paths:
            node = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in namespaces.KINDS}
            namespaces.create(paths, ID, network=True, ipc=True, hostname="web-0", sysctls={})
            pins = namespaces.pinned(paths, ID)
            assert pins == {kind: paths.run_sandbox(ID) / kind for kind in ("net", "ipc", "uts")}
            assert all(namespace.identity(pin) != node[kind] for kind, pin in pins.items())
            assert {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in namespaces.KINDS} == node
            assert inside(pins["uts"], "uts", socket.gethostname) == "web-0"
            assert socket.gethostname() != "web-0"

    network.in_a_node(test)


@pytest.mark.parametrize(("network_too", "ipc", "hostname", "kinds"), [
    (False, False, None, set()),
    (True, False, None, {"net"}),
    (False, True, None, {"ipc"}),
    (False, True, "name", {"ipc", "uts"}),
])  # fmt: skip
def test_what_was_not_asked_for_stays_the_nodes(
    tmp_path: Path, network_too: bool, ipc: bool, hostname: str | None, kinds: set[str]
) -> None:
    def test() -> set[str]:
        with prepared(tmp_path) as paths:
            namespaces.create(paths, ID, network=network_too, ipc=ipc, hostname=hostname, sysctls={})
            return set(namespaces.pinned(paths, ID))

    assert network.in_a_node(test) == kinds


def test_the_loopback_is_up_low_ports_are_free_and_everybody_may_ping(tmp_path: Path) -> None:
    def test() -> None:
        node = sysctl("net.ipv4.ip_unprivileged_port_start")
        with prepared(tmp_path) as paths:
            namespaces.create(paths, ID, network=True, ipc=False, hostname=None, sysctls={})
            pin = namespaces.pinned(paths, ID)["net"]
            assert inside(pin, "net", lambda: sysctl("net.ipv4.ip_unprivileged_port_start")) == "0"
            assert inside(pin, "net", lambda: sysctl("net.ipv4.ping_group_range")).split() == ["0", "2147483647"]
            with open_path(pin) as found, network.listen(found) as listener:
                assert network.peer_of_a_connection(listener, found, "127.0.0.1") == "127.0.0.1"
        assert sysctl("net.ipv4.ip_unprivileged_port_start") == node == "1024"

    network.in_a_node(test)


def test_sysctls_are_set_in_the_pod_and_not_on_the_node(tmp_path: Path) -> None:
    wanted = {
        "net.ipv4.ip_unprivileged_port_start": "500",
        "net.ipv4.conf.lo.forwarding": "1",
        "kernel.shm_rmid_forced": "1",
        "kernel.msgmax": "9000",
        "fs.mqueue.msg_max": "99",
    }

    def test() -> None:
        before = {key: sysctl(key) for key in wanted}
        with prepared(tmp_path) as paths:
            namespaces.create(paths, ID, network=True, ipc=True, hostname=None, sysctls=wanted)
            pins = namespaces.pinned(paths, ID)
            for key, value in wanted.items():
                kind: namespace.Kind = "net" if key.startswith("net.") else "ipc"
                assert inside(pins[kind], kind, lambda key=key: sysctl(key)) == value  # type: ignore[misc]
        assert {key: sysctl(key) for key in wanted} == before

    network.in_a_node(test)


@pytest.mark.parametrize(("key", "value", "reason"), [
    ("kernel.core_pattern", "|/bin/sh", "belongs to the node"),
    ("kernel.hostname", "other", "belongs to the node"),
    ("vm.swappiness", "1", "belongs to the node"),
    ("kernel.shm_rmid_forced+kernel.core_pattern", "1", "not a name"),
    ("kernel/core_pattern", "x", "not a name"),
    ("net.ipv4/../../kernel.core_pattern", "x", "not a name"),
    ("net...kernel.core_pattern", "x", "not a name"),
    ("net.ipv4.ip_forward\n", "1", "not a name"),
    ("net", "1", "not a name"),
    ("", "1", "not a name"),
    ("net.ipv4.ip_forward", "1\nkernel.core_pattern=x", "control characters"),
    ("net.ipv4.no_such_thing", "1", "none of this name"),
    ("net.ipv4.ip_default_ttl", "many", "refuses 'many': Invalid argument"),
])  # fmt: skip
def test_a_sysctl_that_is_not_the_pods_is_refused_by_name_and_nothing_is_left(
    tmp_path: Path, key: str, value: str, reason: str
) -> None:
    def test() -> None:
        with prepared(tmp_path) as paths:
            with pytest.raises(InvalidArgument, match=reason) as caught:
                namespaces.create(paths, ID, network=True, ipc=True, hostname="name", sysctls={key: value})
            assert key.strip() in str(caught.value)
            assert not paths.run_sandbox(ID).exists()
            assert mounts_below(tmp_path) == [str(paths.run_sandboxes)]

    network.in_a_node(test)


@pytest.mark.parametrize(
    ("key", "owner"), [("net.ipv4.ip_forward", "network"), ("kernel.sem", "IPC"), ("fs.mqueue.msg_max", "IPC")]
)
def test_a_sysctl_of_a_namespace_that_the_pod_shares_with_the_node_is_refused(tmp_path: Path, key: str, owner: str) -> None:
    def test() -> None:
        with prepared(tmp_path) as paths, pytest.raises(InvalidArgument, match=f"{key}: the pod shares the node's {owner} n"):
            namespaces.create(paths, ID, network=False, ipc=False, hostname=None, sysctls={key: "1"})

    network.in_a_node(test)


@given(st.text(st.sampled_from("ab./\0-_+=\n~%"), max_size=24))
def test_no_key_leads_out_of_its_tree(text: str) -> None:
    key = f"net.{text}"
    try:
        namespaces._check_sysctl(key, "1", network=True, ipc=True)
    except InvalidArgument:
        return
    path = Path("/proc/sys", *key.split("."))
    assert os.path.normpath(path) == str(path)
    assert path.is_relative_to("/proc/sys/net")


@pytest.mark.parametrize("hostname", ["", "x" * 65, "two\nlines"])
def test_a_host_name_that_cannot_be_one_is_refused(tmp_path: Path, hostname: str) -> None:
    paths = Paths(tmp_path / "root", tmp_path / "run")
    paths.prepare()
    with pytest.raises(InvalidArgument, match="host name"):
        namespaces.create(paths, ID, network=False, ipc=False, hostname=hostname, sysctls={})
    assert not paths.run_sandbox(ID).exists()


def test_removing_is_idempotent_and_copes_with_what_a_crash_left(tmp_path: Path) -> None:
    def test() -> None:
        with prepared(tmp_path) as paths:
            namespaces.remove(paths, ID)
            namespaces.create(paths, ID, network=True, ipc=True, hostname="name", sysctls={})
            mount.unmount(paths.run_sandbox(ID) / "ipc")  # a file is left where a pin was
            mount.bind(paths.run_sandbox(ID) / "uts", paths.run_sandbox(ID) / "uts", recursive=False)  # pinned twice
            assert set(namespaces.pinned(paths, ID)) == {"net", "uts"}
            namespaces.remove(paths, ID)
            namespaces.remove(paths, ID)
            assert namespaces.pinned(paths, ID) == {}
            assert not paths.run_sandbox(ID).exists()

    network.in_a_node(test)


def test_pins_do_not_appear_in_mount_namespaces_that_listen_to_the_node(tmp_path: Path) -> None:
    def listen() -> Fd:
        namespace.unshare(lib.CLONE_NEWNS)
        mount.set_propagation("/", "slave", recursive=True)
        return namespace.open_namespace("thread-self", "mnt")

    def test() -> None:
        mount.set_propagation("/", "shared", recursive=True)
        with namespace.in_new_thread(listen) as listener, prepared(tmp_path) as paths:
            namespaces.create(paths, ID, network=True, ipc=True, hostname="name", sysctls={})
            seen = namespace.in_namespace(listener, "mnt", lambda: mounts_below(tmp_path, "thread-self"))
            assert len(mounts_below(tmp_path)) == 4, "the node sees the directory and three pins"
            assert seen == [str(paths.run_sandboxes)]

    network.in_a_node(test)


def test_preparing_again_keeps_one_private_mount(tmp_path: Path) -> None:
    def test() -> None:
        mount.set_propagation("/", "shared", recursive=True)
        with prepared(tmp_path) as paths:
            namespaces.prepare(paths)
            rows = [row for row in load_mountinfo() if row.target == str(paths.run_sandboxes)]
            assert [row.is_shared for row in rows] == [False]
        namespaces.release(paths)

    network.in_a_node(test)


def test_releasing_under_a_living_pod_is_refused(tmp_path: Path) -> None:
    def test() -> None:
        with prepared(tmp_path) as paths:
            namespaces.create(paths, ID, network=True, ipc=False, hostname=None, sysctls={})
            with pytest.raises(OSError, match="sandboxes") as caught:
                namespaces.release(paths)
            assert caught.value.errno == errno.EBUSY
            assert set(namespaces.pinned(paths, ID)) == {"net"}

    network.in_a_node(test)
