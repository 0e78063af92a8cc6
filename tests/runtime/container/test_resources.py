"""Resources on a real cgroup: written where the controller is, refused by name where it is not, and given away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup, find_tree
from runtime.container import resources
from runtime.container.resources import delegate, owner_of
from runtime.errors import ControllerMissing, InvalidSpec
from runtime.spec import schema
from tests.support.requires import requires


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(find_tree() / "kernelet-pods" / "container")
    made.create()
    yield made
    Cgroup(made.path.parent).remove()


@requires("root", "cgroup2")
def test_a_controller_that_the_node_lacks_is_named_and_nothing_is_written(group: Cgroup) -> None:
    tree = find_tree()
    missing = next(name for name in ("memory", "pids", "cpu", "rdma", "nonesuch") if name not in Cgroup(tree).controllers())
    with pytest.raises(
        ControllerMissing, match=f"requested cgroup controller `{missing}` is not available: the cgroup v2 tree at {tree}"
    ):
        resources.apply(group, tree, schema.Resources(unified={f"{missing}.max": "1"}))
    assert group.processes() == []


@requires("root", "cgroup2", "controllers hugetlb")
def test_limits_are_written_and_controllers_handed_down(group: Cgroup) -> None:
    limit = schema.HugepageLimit(page_size="2MB", limit=1 << 21)
    resources.apply(group, find_tree(), schema.Resources(hugepage_limits=[limit]))
    assert group.read("hugetlb.2MB.max") == f"{1 << 21}\n"
    assert "hugetlb" in Cgroup(group.path.parent).read("cgroup.subtree_control")


@requires("root", "cgroup2", "controllers hugetlb")
def test_a_file_that_there_is_not_and_a_value_that_is_none(group: Cgroup) -> None:
    tree = find_tree()
    with pytest.raises(ControllerMissing, match=r"hugetlb\.3MB\.max=1: no such file or directory"):
        resources.apply(group, tree, schema.Resources(unified={"hugetlb.3MB.max": "1"}))
    with pytest.raises(InvalidSpec, match=r"Invalid argument: writing 'plenty'"):
        resources.apply(group, tree, schema.Resources(unified={"hugetlb.2MB.max": "plenty"}))


@requires("root", "cgroup2")
@pytest.mark.parametrize("name", ["../cgroup.procs", "cgroup/x", "/etc/passwd", "cgroup.procs", "cgroup.kill"])
def test_a_unified_file_is_a_name_and_no_path(group: Cgroup, name: str) -> None:
    with pytest.raises((InvalidSpec, ControllerMissing)):
        resources.apply(group, find_tree(), schema.Resources(unified={name: "0"}))


@requires("root", "cgroup2", "controllers hugetlb")
def test_what_counts_is_handed_down_when_nothing_is_asked_for(group: Cgroup) -> None:
    resources.apply(group, find_tree(), None)
    assert group.controllers() == Cgroup(find_tree()).controllers()
    resources.apply(group, find_tree(), None)  # and once more is nothing to do
    assert group.number("hugetlb.2MB.current") == 0


@requires("root", "cgroup2", "controllers hugetlb")
def test_a_cgroup_with_processes_above_refuses_limits_by_name_and_is_let_be_without(group: Cgroup, child_in: object) -> None:
    tree = find_tree()
    limit = schema.HugepageLimit(page_size="2MB", limit=1 << 21)
    with pytest.raises(ControllerMissing, match=r"hugepageLimits\[0\]: .*kernelet-pods has processes of its own"):
        resources.apply(group, tree, schema.Resources(hugepage_limits=[limit]))
    resources.apply(group, tree, None)
    assert "hugetlb" not in group.controllers()


@pytest.fixture
def child_in(group: Cgroup) -> Iterator[int]:
    """A process in the cgroup above."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    Cgroup(group.path.parent).write("cgroup.procs", str(pid))
    yield pid
    os.kill(pid, 9)
    os.waitpid(pid, 0)


@requires("root", "cgroup2", "controllers hugetlb")
def test_below_a_threaded_cgroup_it_becomes_threaded_or_says_why_not() -> None:
    tree = find_tree()
    top = Cgroup(tree / "threads")
    try:
        for name in ("first", "second", "third"):
            (top / name).create()
        (top / "first").write("cgroup.type", "threaded")
        assert (top / "second").kind() == "domain invalid"
        limit = schema.HugepageLimit(page_size="2MB", limit=1 << 21)
        with pytest.raises(ControllerMissing, match=r"limit of hugetlb: .*second lies below a threaded cgroup"):
            resources.apply(top / "second", tree, schema.Resources(hugepage_limits=[limit]))
        resources.apply(top / "third", tree, None)
        assert (top / "third").kind() == "threaded"
    finally:
        top.remove()


# Where a kernel has what this one has not: files that stand for a cgroup's.


@pytest.fixture
def drawn(tmp_path: Path) -> Cgroup:
    """A directory with files as in a cgroup that has every controller, as the top of its tree."""
    every = "cpu cpuset io memory pids"
    for name in ("io.weight", "cpu.max", "cpu.max.burst", "memory.max", "memory.low", "io.max"):
        (tmp_path / name).write_text("")
    (tmp_path / "cgroup.controllers").write_text(every)
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "memory.swap.current").write_text("100\n")
    return Cgroup(tmp_path)


def test_a_weight_goes_to_the_file_that_there_is(drawn: Cgroup) -> None:
    asked = schema.Resources(block_io=schema.BlockIo(weight=1000))
    resources.apply(drawn, drawn.path, asked)
    assert drawn.read("io.weight") == "10000"
    (drawn.path / "io.bfq.weight").write_text("")
    (drawn.path / "io.weight").write_text("")
    resources.apply(drawn, drawn.path, asked)
    assert (drawn.read("io.bfq.weight"), drawn.read("io.weight")) == ("1000", "")


def test_without_accounting_of_swap_no_amount_can_be_promised(drawn: Cgroup) -> None:
    resources.apply(drawn, drawn.path, schema.Resources(memory=schema.Memory(limit=5000, swap=5000)))
    assert drawn.read("memory.max") == "5000"
    with pytest.raises(ControllerMissing, match=r"memory\.swap: memory\.swap\.max=1: no such file"):
        resources.apply(drawn, drawn.path, schema.Resources(memory=schema.Memory(limit=5000, swap=5001)))


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (schema.Memory(limit=4096, check_before_update=True), r"memory\.limit: rejecting memory limit 4096: 4096 bytes"),
        (
            schema.Memory(limit=4097, swap=4196, check_before_update=True),
            r"memory\.swap: rejecting memory\+swap limit 4196: 4196",
        ),
    ],
)
def test_a_limit_that_is_used_up_is_refused_if_that_is_to_be_looked_at(
    drawn: Cgroup, memory: schema.Memory, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        resources.apply(drawn, drawn.path, schema.Resources(memory=memory))
    assert drawn.read("memory.max") == ""
    memory.check_before_update = False
    memory.swap = None
    resources.apply(drawn, drawn.path, schema.Resources(memory=memory))
    assert drawn.read("memory.max") == str(memory.limit)


# Giving the cgroup away.

CGROUP_MOUNT = schema.Mount(destination="/sys/fs/cgroup", type="cgroup", options=["rw"])


def delegating(uid: int = 0, *, users: bool = True, mount: schema.Mount | None = CGROUP_MOUNT, path: str = "") -> schema.Spec:
    namespaces = [schema.Namespace(type="cgroup", path=path), *([schema.Namespace(type="user")] if users else [])]
    return schema.Spec(
        process=schema.Process(args=["true"], user=schema.User(uid=uid)),
        mounts=[mount] if mount is not None else [],
        linux=schema.Linux(
            namespaces=namespaces,
            uid_mappings=[
                schema.IdMapping(container_id=0, host_id=100_000, size=10),
                schema.IdMapping(container_id=1000, host_id=5000, size=1),
            ],
        ),
    )


@pytest.mark.parametrize(
    ("spec", "owner"),
    [
        (delegating(), 100_000),
        (delegating(3), 100_003),
        (delegating(1000), 5000),
        (delegating(10), None),  # not mapped
        (delegating(mount=None), None),
        (delegating(mount=schema.Mount(destination="/sys/fs/cgroup", type="cgroup", options=["ro"])), None),
        (delegating(mount=schema.Mount(destination="/sys/fs/cgroup/", type="cgroup")), 100_000),
        (delegating(path="/proc/1/ns/cgroup"), None),
        (delegating(users=False), None),
        (delegating(1000, users=False), 1000),
    ],
)
def test_the_owner_is_the_containers_user_where_the_specification_lets_it_be(spec: schema.Spec, owner: int | None) -> None:
    assert owner_of(spec) == owner


@requires("root", "cgroup2")
def test_what_is_given_away_is_what_the_kernel_lists(group: Cgroup) -> None:
    delegate(group, delegating(3))
    listed = set(Path("/sys/kernel/cgroup/delegate").read_text().split())
    given = {path.name for path in group.path.iterdir() if path.stat().st_uid == 100_003}
    assert given == listed & set(os.listdir(group.path))
    assert "cgroup.procs" in given
    assert group.path.stat().st_uid == 100_003
    assert group.path.parent.stat().st_uid == 0


@requires("root", "cgroup2")
def test_without_a_list_the_specifications_own_is_used(group: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "DELEGATE_LIST", Path("/nonexistent"))
    delegate(group, delegating())
    given = {path.name for path in group.path.iterdir() if path.stat().st_uid == 100_000}
    assert given == {"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}


@requires("root", "cgroup2")
def test_what_is_not_to_be_given_away_stays(group: Cgroup) -> None:
    delegate(group, delegating(mount=None))
    assert {path.stat().st_uid for path in [group.path, *group.path.iterdir()]} == {0}
