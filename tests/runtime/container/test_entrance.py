"""A process that is exec'd into a container: it is in all its namespaces, and no more than the container's own may be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup
from kernel.fd import memory
from kernel.process import open_pidfd
from runtime.container import entrance, init, join
from runtime.container.descriptors import FIRST_PRESERVED
from runtime.errors import ContainerNotRunning, StartFailed
from runtime.oci.launch import launch, private_ends
from runtime.spec import schema
from tests.support import cgroup as tree
from tests.support import inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

LIST = "for each in pid mnt ipc uts net cgroup time user; do readlink /proc/self/ns/$each; done"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> inside.Node:
    return inside.make_node(tmp_path_factory.mktemp("entrance"))


@contextmanager
def container(node: inside.Node, wanted: schema.Spec, **more: object) -> Iterator[int]:
    """The pid of the init of a container that waits to be started."""
    with closing(node.prepare(wanted, **more)) as prepared:
        program = init.program("test", wanted, prepared.facts)
        with launch(program, prepared.descriptors, private_ends(program)) as launched:
            try:
                assert launched.hear() == "c"
                yield launched.pid
            finally:
                launched.end()


def execute(process: schema.Process, pid: int, cgroup: Cgroup | None = None, **more: object) -> str:
    """What *process* says in the container of *pid*."""
    given = {"has_reaper": False, **more}
    opened = entrance.prepare(process, pid, None if cgroup is None else cgroup.open(), **given)  # type: ignore[arg-type]
    with closing(opened):
        return inside.execute(join.program("exec", process, opened.entrance), opened.descriptors)


def process(script: str, **more: object) -> schema.Process:
    found = inside.spec(script, **more).process
    assert found is not None
    return found


def namespaces_of(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "mnt", "ipc", "uts", "net", "cgroup", "time", "user")]


@pytest.mark.parametrize("users", [False, True])
@pytest.mark.parametrize("kinds", [inside.KINDS, (*inside.KINDS, "time"), ("mount", "uts"), ("pid", "uts")])
def test_it_is_in_the_containers_namespaces(node: inside.Node, kinds: tuple[str, ...], users: bool) -> None:
    wanted = inside.spec("true", kinds=kinds)
    if users and "mount" in kinds:
        inside.with_users(wanted)
    with container(node, wanted) as pid:
        *namespaces, root = execute(process(f"{LIST}; ls -d /bin/busybox /home 2>/dev/null || true"), pid).split()
        assert namespaces == namespaces_of(pid)
        assert root == "/bin/busybox"


def test_it_has_the_containers_root_and_processes(node: inside.Node) -> None:
    with container(node, inside.spec("true")) as pid:
        assert execute(process("ls /bin/busybox; cat /proc/1/stat | cut -d' ' -f1"), pid).split() == ["/bin/busybox", "1"]


def test_it_is_root_of_the_containers_users_and_nothing_more(node: inside.Node) -> None:
    script = "cat /proc/self/uid_map; id -u; grep -E '^(Groups|CapEff)' /proc/self/status; cat /proc/self/oom_score_adj"
    with container(node, inside.with_users(inside.spec("true"))) as pid:
        sets = schema.Capabilities(bounding=["CAP_KILL"], permitted=["CAP_KILL"], effective=["CAP_KILL"])
        said = execute(process(script, capabilities=sets, oom_score_adj=700), pid).split()
    assert said == ["0", "100000", "65536", "0", "Groups:", "CapEff:", "0000000000000020", "700"]


def test_a_user_of_the_containers(node: inside.Node) -> None:
    user = schema.User(uid=7, gid=8, additional_gids=[9])
    with container(node, inside.with_users(inside.spec("true"))) as pid:
        assert execute(process("id -u; id -g; id -G", user=user), pid).split() == ["7", "8", "8", "9"]


def test_its_clock_is_the_containers(node: inside.Node) -> None:
    wanted = inside.spec("true", kinds=(*inside.KINDS, "time"))
    wanted.linux.time_offsets = {"boottime": schema.TimeOffset(secs=5_000_000)}
    with container(node, wanted) as pid:
        assert float(execute(process("cat /proc/uptime"), pid).split()[0]) > 5_000_000


def test_it_shares_the_containers_keyring(node: inside.Node) -> None:
    """By its name: a key of one is found by the other."""
    for users in (False, True):
        wanted = inside.spec("true")
        if users:
            inside.with_users(wanted)
        with container(node, wanted, keyring="_ses.shared") as pid:
            first, again = (execute(process("grep _ses.shared /proc/keys"), pid, keyring="_ses.shared") for _ in range(2))
        assert len(first.splitlines()) == 1
        assert first.split()[0] == again.split()[0]


@requires("cgroup2")
def test_it_is_born_in_the_cgroup(node: inside.Node) -> None:
    group = Cgroup(tree.ROOT / "entrance")
    group.create()
    try:
        with container(node, inside.spec("true", kinds=("mount",))) as pid:
            assert execute(process("cat /proc/self/cgroup"), pid, group).splitlines()[-1].endswith("/entrance")
    finally:
        group.remove()


@requires("cgroup2", "controllers hugetlb")
def test_a_cgroup_that_takes_no_process_is_told_by_its_step(node: inside.Node) -> None:
    group = Cgroup(tree.ROOT / "full")
    group.create()
    try:
        (tree.ROOT / "cgroup.subtree_control").write_text("+hugetlb")
        group.write("cgroup.subtree_control", "+hugetlb")
        with (
            container(node, inside.spec("true", kinds=("mount",))) as pid,
            pytest.raises(StartFailed, match=r"clone3.*busy.*no process"),
        ):
            execute(process("true"), pid, group)
    finally:
        group.remove()
        (tree.ROOT / "cgroup.subtree_control").write_text("-hugetlb")


def test_the_cgroup_of_the_init_is_found(node: inside.Node) -> None:
    with container(node, inside.spec("true", kinds=("mount",))) as pid, entrance.cgroup_of(pid, tree.ROOT) as found:
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        assert os.readlink(f"/proc/self/fd/{found.fileno()}").rstrip("/") == str(tree.ROOT) + own[3:].rstrip("/")


# Where it runs.


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two processors")
def test_it_runs_where_the_spec_says(node: inside.Node) -> None:
    allowed = "grep Cpus_allowed_list /proc/self/status"
    with container(node, inside.spec("true")) as pid:
        for affinity, seen in (
            (schema.CpuAffinity(initial="1"), "1"),
            (schema.CpuAffinity(initial="0", final="1"), "1"),
            (schema.CpuAffinity(final="0-1"), "0-1"),
        ):
            assert execute(process(allowed, exec_cpu_affinity=affinity), pid).split()[1] == seen


def test_processors_that_are_not_there_are_refused_by_their_step(node: inside.Node) -> None:
    affinity = schema.CpuAffinity(final="4000")
    with container(node, inside.spec("true")) as pid, pytest.raises(StartFailed, match=r"sched_setaffinity.*none of these"):
        execute(process("true", exec_cpu_affinity=affinity), pid)


def test_what_holds_for_all_processes_holds_for_it(node: inside.Node) -> None:
    wanted = inside.spec("true")
    wanted.linux.personality = schema.Personality(domain="LINUX32")
    wanted.linux.memory_policy = schema.MemoryPolicy(mode="MPOL_BIND", nodes="0")
    with container(node, wanted) as pid:
        said = execute(process("cat /proc/self/personality; head -n 1 /proc/self/numa_maps"), pid, linux=wanted.linux)
    assert said.split()[0] == "00000008"
    assert " bind:0 " in said


def test_descriptors_are_handed_down(node: inside.Node) -> None:
    wanted = process("readlink /proc/self/fd/3; ls /proc/self/fd | wc -l")
    with (
        container(node, inside.spec("true")) as pid,
        memory("handed", b"") as file,
        closing(entrance.prepare(wanted, pid, None, has_reaper=False, preserved=1)) as opened,
    ):
        steps = join.program("exec", wanted, opened.entrance)
        said = inside.execute(steps, {**opened.descriptors, FIRST_PRESERVED: file})
    assert said.splitlines() == ["/memfd:handed (deleted)", "5"]


def test_a_container_that_has_ended_is_told(node: inside.Node) -> None:
    with container(node, inside.spec("true")) as pid, open_pidfd(pid):
        pass
    with pytest.raises(ContainerNotRunning):
        entrance.prepare(process("true"), pid, None)


@pytest.mark.parametrize("users", [False, True])
def test_another_container_joins_every_kind_by_path(node: inside.Node, users: bool) -> None:
    """All but the mount namespace, whose root would change; pid and time are for the process that is born into them."""
    wanted = inside.spec("true", kinds=(*inside.KINDS, "time"))
    wanted.linux.time_offsets = {"boottime": schema.TimeOffset(secs=3_000_000)}
    if users:
        inside.with_users(wanted)
    names = {"pid": "pid", "ipc": "ipc", "uts": "uts", "network": "net", "cgroup": "cgroup", "time": "time"}
    names |= {"user": "user"} if users else {}
    with container(node, wanted) as pid:
        other = inside.spec(f"{LIST}; cat /proc/uptime", kinds=("mount", "network", "cgroup", "ipc"))
        other.linux.namespaces = [schema.Namespace(type="mount")]
        other.linux.namespaces += [schema.Namespace(type=kind, path=f"/proc/{pid}/ns/{name}") for kind, name in names.items()]
        *found, uptime, _ = node.run(other).split()
        theirs = namespaces_of(pid)
    assert [each for each in found if not each.startswith("mnt")] == [each for each in theirs if not each.startswith("mnt")]
    assert float(uptime) > 3_000_000
