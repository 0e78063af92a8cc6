"""User namespaces from the maps of a spec: made by root, by a user alone, and with newuidmap's help."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel import mount
from kernel.fd import Fd
from kernel.namespace import set_namespace
from runtime.container import joins, userns
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec.schema import IdMapping, Linux, Namespace
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root")

PERSON = 12345


def mapping(inside: int, outside: int, size: int) -> IdMapping:
    return IdMapping(container_id=inside, host_id=outside, size=size)


def maps_in(namespace: Fd) -> dict[str, list[str]]:
    """What a process that enters sees."""

    def inside() -> dict[str, list[str]]:
        set_namespace(namespace, "user")
        return {name: Path(f"/proc/self/{name}").read_text().split() for name in ("uid_map", "gid_map", "setgroups")}

    return child.run(inside)


def become_person() -> None:
    os.setgroups([])
    os.setresgid(PERSON, PERSON, PERSON)
    os.setresuid(PERSON, PERSON, PERSON)


def test_the_maps_are_those_of_the_spec() -> None:
    with userns.make([mapping(0, 100000, 65536)], [mapping(0, 200000, 10), mapping(10, 5, 2)]) as namespace:
        assert maps_in(namespace) == {
            "uid_map": ["0", "100000", "65536"],
            "gid_map": ["0", "200000", "10", "10", "5", "2"],
            "setgroups": ["allow"],
        }


def test_a_user_alone_may_map_its_own_id() -> None:
    def inside() -> dict[str, list[str]]:
        become_person()
        with userns.make([mapping(0, PERSON, 1)], [mapping(0, PERSON, 1)]) as namespace:
            return maps_in(namespace)

    assert child.run(inside) == {
        "uid_map": ["0", str(PERSON), "1"],
        "gid_map": ["0", str(PERSON), "1"],
        "setgroups": ["deny"],
    }


@requires("newuidmap")
def test_a_user_with_a_range_is_given_it_by_newuidmap() -> None:
    def inside() -> dict[str, list[str]]:
        give_range(100000)
        become_person()
        ids = [mapping(0, PERSON, 1), mapping(1, 100000, 65536)]
        with userns.make(ids, ids) as namespace:
            return maps_in(namespace)

    ids = ["0", str(PERSON), "1", "1", "100000", "65536"]
    assert child.run(inside, namespaces=["mount"]) == {"uid_map": ids, "gid_map": ids, "setgroups": ["allow"]}


@requires("newuidmap")
def test_a_range_of_somebody_else_is_refused_by_the_field() -> None:
    def inside() -> None:
        give_range(300000)
        become_person()
        ids = [mapping(0, PERSON, 1), mapping(1, 100000, 65536)]
        userns.make(ids, ids)

    with pytest.raises(InvalidSpec, match=r"linux.gidMappings: newgidmap refuses it: .*look into /etc/subgid"):
        child.run(inside, namespaces=["mount"])


def test_without_a_helper_the_message_says_what_to_install() -> None:
    def inside() -> None:
        os.environ["PATH"] = "/nowhere"
        become_person()
        userns.make([mapping(0, PERSON, 1)], [mapping(0, 1, 2)], where="mounts[3]")

    with pytest.raises(InvalidSpec, match=r"^mounts\[3\].gidMappings: .*install newgidmap"):
        child.run(inside)


@pytest.mark.parametrize(
    ("uids", "gids", "match"),
    [
        ([], [mapping(0, 0, 1)], "linux.uidMappings: .*needs a mapping"),
        ([mapping(0, 0, 1)], [], "linux.gidMappings: .*needs a mapping"),
        ([mapping(0, 0, 10), mapping(9, 100, 10)], [mapping(0, 0, 1)], "linux.uidMappings: .*overlap"),
        ([mapping(0, 0, 1)], [mapping(each, each, 1) for each in range(341)], "linux.gidMappings: .*340"),
    ],
)
def test_maps_that_cannot_be_are_refused_by_the_field(uids: list[IdMapping], gids: list[IdMapping], match: str) -> None:
    with pytest.raises(InvalidSpec, match=match):
        userns.make(uids, gids)


def test_a_node_that_forbids_them_is_told_about() -> None:
    def inside() -> None:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        userns.make([mapping(0, 0, 1)], [mapping(0, 0, 1)])

    with pytest.raises(Unsupported, match=r"no user namespace can be made here: no space left.*max_user_namespaces"):
        child.run(inside, namespaces=["user"])


def test_the_maps_of_one_that_is_there_are_read() -> None:
    uids, gids = [mapping(0, 100000, 10), mapping(10, 5, 1)], [mapping(0, 7, 3)]
    with userns.make(uids, gids) as namespace:
        assert userns.maps_of(namespace) == (uids, gids)


def test_a_joined_one_has_the_maps_of_the_spec_or_is_refused() -> None:
    ids = [mapping(0, 100000, 10)]
    with userns.make(ids, ids) as namespace:
        path = f"/proc/self/fd/{namespace.fileno()}"
        linux = Linux(namespaces=[Namespace(type="user", path=path)])
        with joins.open_user(linux) or pytest.fail("there is one to join"):
            assert linux.uid_mappings == linux.gid_mappings == ids
        linux.gid_mappings = [mapping(0, 100000, 11)]
        with pytest.raises(InvalidSpec, match=r"linux.gidMappings: not the map"):
            joins.open_user(linux)


def test_one_that_is_our_own_is_not_entered() -> None:
    assert joins.open_user(Linux(namespaces=[Namespace(type="user", path="/proc/self/ns/user")])) is None


def test_an_id_is_found_outside() -> None:
    ids = [mapping(0, 1000, 1), mapping(1, 100000, 10)]
    assert [userns.host_id(ids, inside) for inside in (0, 1, 10, 11)] == [1000, 100000, 100009, None]


def give_range(first: int) -> None:
    """Let PERSON have a range of ids, in this mount namespace."""
    with mount.new_filesystem("tmpfs") as own:
        mount.attach(own, "/mnt")
    person = f"person:x:{PERSON}:{PERSON}::/:/bin/sh\n"  # newuidmap asks for a name
    for name, line in (("passwd", person), ("subuid", f"{PERSON}:{first}:65536\n"), ("subgid", f"{PERSON}:{first}:65536\n")):
        Path("/mnt", name).write_text(line)
        mount.bind(Path("/mnt", name), Path("/etc", name))
