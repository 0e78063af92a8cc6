"""User namespaces made beforehand: what is mapped, who owns them, and that nothing stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.namespace import identity, set_namespace
from kernel.user_namespace import IdRange, deny_setgroups, new_user_namespace, write_map
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root")


def test_a_process_that_enters_has_the_ids_of_the_maps() -> None:
    def write(pid: int) -> None:
        write_map(pid, "uid", [IdRange(0, 100000, 1000), IdRange(1000, 5, 1)])
        write_map(pid, "gid", [IdRange(0, 200000, 65536)])

    with new_user_namespace(write) as namespace:

        def inside() -> tuple[str, str, str]:
            set_namespace(namespace, "user")
            return tuple(Path(f"/proc/self/{name}").read_text() for name in ("uid_map", "gid_map", "setgroups"))  # type: ignore[return-value]

        uids, gids, setgroups = child.run(inside)
    assert [line.split() for line in uids.splitlines()] == [["0", "100000", "1000"], ["1000", "5", "1"]]
    assert [line.split() for line in gids.splitlines()] == [["0", "200000", "65536"]]
    assert setgroups == "allow\n"


def test_each_is_another_namespace_than_ours() -> None:
    with new_user_namespace(lambda pid: None) as one, new_user_namespace(lambda pid: None) as two:
        assert len({identity(one), identity(two), identity(Path("/proc/self/ns/user"))}) == 3


def test_setgroups_can_be_denied_before_groups_are_mapped() -> None:
    def write(pid: int) -> None:
        deny_setgroups(pid)
        write_map(pid, "gid", [IdRange(0, 0, 1)])

    with new_user_namespace(write) as namespace:

        def inside() -> str:
            set_namespace(namespace, "user")
            return Path("/proc/self/setgroups").read_text()

        assert child.run(inside) == "deny\n"


def test_what_the_writer_raises_is_raised_and_nothing_stays() -> None:
    pids = []

    def write(pid: int) -> None:
        pids.append(pid)
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        new_user_namespace(write)
    assert not Path(f"/proc/{pids[0]}").exists()


def test_maps_that_overlap_are_refused_with_the_file_named() -> None:
    with pytest.raises(OSError, match="uid_map") as caught:
        new_user_namespace(lambda pid: write_map(pid, "uid", [IdRange(0, 1, 10), IdRange(5, 100, 10)]))
    assert caught.value.errno == 22


def test_above_the_limit_of_namespaces_the_errno_is_told() -> None:
    def inside() -> int | None:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        try:
            new_user_namespace(lambda pid: None)
        except OSError as error:
            return error.errno
        return None

    # In a user namespace of the test's own the limit is that namespace's.
    assert child.run(inside, namespaces=["user"]) == 28
