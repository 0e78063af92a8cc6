"""Containers of a user who is not root: with its own id alone, and with a range that newuidmap gives."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from runtime.container import rootless
from runtime.errors import InvalidSpec, StartFailed
from runtime.spec import schema
from tests.runtime.container.test_entrance import LIST, container, execute, namespaces_of, process
from tests.runtime.container.test_userns import PERSON, become_person, give_range
from tests.support import child, inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")


@pytest.fixture
def node(tmp_path: Path) -> inside.Node:
    """One that belongs to PERSON."""
    made = inside.make_node(tmp_path)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.lchown(path, PERSON, PERSON)
    for above in tmp_path.parents:
        if above != Path("/") and above.stat().st_mode & 0o5 != 0o5:
            above.chmod(0o755)
    return made


def spec(script: str, *, ids: int = 1, **more: object) -> schema.Spec:
    """A container with PERSON as its root, and *ids* ids in all."""
    wanted = inside.spec(script, **more)  # type: ignore[arg-type]
    wanted.linux.namespaces.append(schema.Namespace(type="user"))
    for mappings in (wanted.linux.uid_mappings, wanted.linux.gid_mappings):
        mappings.append(schema.IdMapping(container_id=0, host_id=PERSON, size=1))
        if ids > 1:
            mappings.append(schema.IdMapping(container_id=1, host_id=100_000, size=ids - 1))
    for each in wanted.mounts:  # a terminal's group is not mapped
        each.options = [option for option in each.options if option != "gid=5"]
    return wanted


def run(node: inside.Node, wanted: schema.Spec, *, with_range: bool = False) -> str:
    def start() -> str:
        if with_range:
            give_range(100_000)
        become_person()
        assert rootless.enter(wanted)
        return node.run(wanted)

    return child.run(start, namespaces=["mount"])


def test_a_user_runs_a_container_with_its_own_id(node: inside.Node) -> None:
    wanted = spec("id -u; id -g; cat /proc/self/uid_map; cat /proc/self/setgroups; echo hello > /tmp/file; echo $$; hostname")
    wanted.hostname = "box"
    assert run(node, wanted).split() == ["0", "0", "0", str(PERSON), "1", "deny", "1", "box"]
    assert (node.rootfs / "tmp/file").stat().st_uid == PERSON


@requires("newuidmap")
def test_a_user_with_a_range_has_other_users_in_the_container(node: inside.Node) -> None:
    user = schema.User(uid=33, gid=34, additional_gids=[35])
    assert run(node, spec("id -u; id -G", ids=1000, user=user), with_range=True).split() == ["33", "34", "35"]


def test_its_devices_are_the_nodes(node: inside.Node) -> None:
    assert run(node, spec("head -c 5 /dev/zero | wc -c; echo x > /dev/null; stat -c %t:%T /dev/null")).split() == ["5", "1:3"]


def test_groups_that_it_cannot_have_are_refused_by_their_step(node: inside.Node) -> None:
    with pytest.raises(StartFailed, match=r"setgroups.*a user alone has made has no other groups"):
        run(node, spec("true", user=schema.User(additional_gids=[0])))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda linux: linux.namespaces.pop(), "linux.namespaces: .*needs a user namespace"),
        (lambda linux: setattr(linux.uid_mappings[0], "host_id", 7), f"linux.uidMappings: 0 must stand for {PERSON}"),
        (lambda linux: setattr(linux.gid_mappings[0], "container_id", 7), f"linux.gidMappings: 0 must stand for {PERSON}"),
    ],
)
def test_a_spec_that_only_root_can_run_is_refused_by_the_field(change: object, match: str) -> None:
    def start() -> None:
        wanted = spec("true")
        change(wanted.linux)  # type: ignore[operator]
        become_person()
        rootless.enter(wanted)

    with pytest.raises(InvalidSpec, match=match):
        child.run(start, namespaces=["mount"])


def test_root_enters_nothing() -> None:
    wanted = inside.spec("true")
    before = list(wanted.linux.namespaces)
    assert not rootless.enter(wanted)
    assert not rootless.follow(os.getpid())
    assert wanted.linux.namespaces == before


def test_an_exec_follows_into_the_containers_user_namespace(node: inside.Node) -> None:
    """From a process of the user's outside, as another command is."""

    def start() -> tuple[list[str], list[str]]:
        become_person()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _hold_a_container(node, writer)
        os.close(writer)
        init = int(os.read(reader, 16))
        try:
            assert rootless.follow(init)
            return execute(process(LIST), init).split(), namespaces_of(init)
        finally:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            os.close(reader)

    said, expected = child.run(start, namespaces=["mount"])
    assert said == expected


def _hold_a_container(node: inside.Node, writer: int) -> NoReturn:
    """Be the command that created a container, until SIGTERM."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        wanted = spec("true")
        rootless.enter(wanted)
        with container(node, wanted) as pid:
            os.write(writer, str(pid).encode())
            signal.sigwait([signal.SIGTERM])
    finally:
        os._exit(0)


@pytest.mark.parametrize(
    ("linux", "needs"),
    [
        (schema.Linux(), False),
        (schema.Linux(resources=schema.Resources(devices=[schema.DeviceRule(allow=False)])), False),
        (schema.Linux(resources=schema.Resources(memory=schema.Memory())), False),
        (schema.Linux(resources=schema.Resources(memory=schema.Memory(limit=1 << 20))), True),
        (schema.Linux(resources=schema.Resources(unified={"pids.max": "5"})), True),
        (schema.Linux(cgroups_path="/mine"), True),
    ],
)
def test_a_cgroup_is_needed_for_a_place_or_a_limit(linux: schema.Linux, needs: bool) -> None:
    assert rootless.needs_cgroup(linux) is needs
