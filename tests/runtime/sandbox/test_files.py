"""hosts, hostname, resolv.conf and /dev/shm of a pod."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.mountinfo import load_mountinfo
from runtime.errors import InvalidArgument
from runtime.paths import Paths
from runtime.sandbox import files
from runtime.sandbox.files import Dns
from tests.support import child
from tests.support.requires import requires

ID = "b2" * 32


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "root", tmp_path / "run")
    paths.prepare()
    return paths


def test_resolv_conf_says_what_was_asked(paths: Paths) -> None:
    dns = Dns(["10.96.0.10", "fd00::10"], ["default.svc.cluster.local", "cluster.local"], ["ndots:5", "edns0"])
    files.write(paths, ID, hostname="web-0", addresses=["10.85.0.2"], dns=dns)
    assert (paths.sandbox(ID) / "resolv.conf").read_text() == (
        "nameserver 10.96.0.10\nnameserver fd00::10\nsearch default.svc.cluster.local cluster.local\noptions ndots:5 edns0\n"
    )


def test_a_given_dns_with_nothing_in_it_is_an_empty_file(paths: Paths) -> None:
    files.write(paths, ID, hostname="web-0", addresses=["10.85.0.2"], dns=Dns())
    assert (paths.sandbox(ID) / "resolv.conf").read_bytes() == b""


def test_without_dns_and_addresses_the_nodes_files_are_copied(paths: Paths) -> None:
    files.write(paths, ID, hostname="node-1", addresses=[], dns=None)
    assert (paths.sandbox(ID) / "resolv.conf").read_bytes() == Path("/etc/resolv.conf").read_bytes()
    assert (paths.sandbox(ID) / "hosts").read_bytes() == Path("/etc/hosts").read_bytes()
    assert (paths.sandbox(ID) / "hostname").read_text() == "node-1\n"


def test_hosts_has_the_loopback_and_each_address(paths: Paths) -> None:
    files.write(paths, ID, hostname="web-0", addresses=["10.85.0.2", "fd00::2"], dns=None)
    lines = [line.split() for line in (paths.sandbox(ID) / "hosts").read_text().splitlines()]
    assert ["127.0.0.1", "localhost"] in lines
    assert lines[-2:] == [["10.85.0.2", "web-0"], ["fd00::2", "web-0"]]


def test_files_can_be_read_by_everybody_whatever_the_umask(paths: Paths) -> None:
    before = os.umask(0o077)
    try:
        files.write(paths, ID, hostname="web-0", addresses=["10.85.0.2"], dns=None)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths.sandbox(ID).iterdir()}
    assert modes == {"hosts": 0o644, "hostname": 0o644, "resolv.conf": 0o644}


@pytest.mark.parametrize("dns", [
    Dns(servers=["10.0.0.1\nnameserver 6.6.6.6"]),
    Dns(searches=["a b"]),
    Dns(searches=["a\tb"]),
    Dns(options=["ndots:5\roptions debug"]),
    Dns(options=[""]),
    Dns(servers=["10.0.0.1\u2028"]),
])  # fmt: skip
def test_a_word_that_would_be_a_line_of_its_own_is_refused_before_anything_is_written(paths: Paths, dns: Dns) -> None:
    with pytest.raises(InvalidArgument, match=r"dns .*: must be one word"):
        files.write(paths, ID, hostname="web-0", addresses=["10.85.0.2"], dns=dns)
    assert not paths.sandbox(ID).exists()


def test_a_host_name_with_a_newline_is_refused(paths: Paths) -> None:
    with pytest.raises(InvalidArgument, match="host name"):
        files.write(paths, ID, hostname="web\n10.0.0.1 registry", addresses=["10.85.0.2"], dns=None)
    assert not paths.sandbox(ID).exists()


@given(st.lists(st.text(max_size=8)), st.lists(st.text(max_size=8)), st.lists(st.text(max_size=8)))
def test_resolv_conf_never_has_a_word_that_was_not_asked_for(servers: list[str], searches: list[str], options: list[str]) -> None:
    try:
        text = files.resolv_conf(Dns(servers, searches, options))
    except InvalidArgument:
        return
    lines = [line.split(" ") for line in text.splitlines()]
    assert [line[1] for line in lines if line[0] == "nameserver"] == servers
    assert [word for line in lines if line[0] == "search" for word in line[1:]] == searches
    assert [word for line in lines if line[0] == "options" for word in line[1:]] == options
    assert len(lines) == len(servers) + bool(searches) + bool(options)


@requires("root")
def test_shared_memory_is_a_tmpfs_for_everybody_of_64_mib(paths: Paths) -> None:
    def test() -> None:
        target = files.mount_shm(paths, ID)
        assert files.mount_shm(paths, ID) == target == paths.run_sandbox(ID) / "shm"
        (row,) = [row for row in load_mountinfo() if row.target == str(target)]
        assert row.filesystem == "tmpfs"
        assert {"nosuid", "nodev", "noexec"} <= set(row.options)
        assert stat.S_IMODE(target.stat().st_mode) == 0o1777
        size = os.statvfs(target)
        assert size.f_blocks * size.f_frsize == 64 * 1024 * 1024
        files.remove(paths, ID)
        assert not target.exists()
        assert all(row.target != str(target) for row in load_mountinfo())

    child.run(test, namespaces=("mount",))


@requires("root")
def test_removing_takes_all_and_is_idempotent(paths: Paths) -> None:
    def test() -> None:
        files.remove(paths, ID)
        files.write(paths, ID, hostname="web-0", addresses=["10.85.0.2"], dns=None)
        files.mount_shm(paths, ID)
        (paths.sandbox(ID) / ".hosts").touch()  # a draft that a crash left
        files.remove(paths, ID)
        files.remove(paths, ID)
        assert not paths.sandbox(ID).exists()
        assert not paths.run_sandbox(ID).exists()

    child.run(test, namespaces=("mount",))
