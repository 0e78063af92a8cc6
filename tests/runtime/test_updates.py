"""Updates as transactions, on files that are drawn here; in guests, limits that hold (tests/vm/inside/test_stats.py)."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup, find_tree
from runtime import updates
from runtime.container import resources as limits
from runtime.container import update
from runtime.errors import ContainerNotRunning, ControllerMissing, InvalidSpec, SandboxNotReady
from runtime.node import Node
from runtime.spec import schema
from tests.support import wait, wishes
from tests.support.requires import requires

FILES = {
    "cgroup.type": "domain\n",
    "cgroup.controllers": "cpu cpuset io memory pids\n",
    "cgroup.subtree_control": "cpu cpuset io memory pids\n",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.low": "0\n",
    "memory.current": "5000\n",
    "cpu.weight": "100\n",
    "cpu.max": "max 100000\n",
    "cpuset.cpus": "\n",
    "cpuset.mems": "\n",
    "io.max": "8:0 rbps=1 wbps=max riops=max wiops=max\n",
    "pids.max": "max\n",
}
WANTED = schema.Resources(
    memory=schema.Memory(limit=9000, swap=9500),
    cpu=schema.Cpu(shares=2048, quota=5000, period=10_000, cpus="0-1"),
    unified={"io.max": "8:16 wbps=7", "pids.max": "5"},
)


class Drawn(Cgroup):
    """A cgroup of plain files, of which ``refuses`` may refuse a write as the kernel does."""

    refuses: Callable[[str, str], int] = staticmethod(lambda file, value: 0)

    def write(self, file: str, value: str) -> None:
        if code := self.refuses(file, value):
            raise OSError(code, "refused", str(self.path / file))
        if file == "io.max":  # by device
            device, *rates = value.split()
            lines = {line.split()[0]: line for line in self.read(file).splitlines()}
            lines.pop(device, None)
            if not all(rate.endswith("=max") for rate in rates):
                lines[device] = value
            value = "".join(f"{line}\n" for line in sorted(lines.values()))
        (self.path / file).write_text(value if value.endswith("\n") else f"{value}\n")


def said(cgroup: Cgroup) -> dict[str, str]:
    return {name: (cgroup.path / name).read_text() for name in FILES}


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    for directory in (tmp_path, tmp_path / "c"):
        directory.mkdir(exist_ok=True)
        for name, text in FILES.items():
            (directory / name).write_text(text)
    return Drawn(tmp_path / "c")


def apply(cgroup: Drawn, resources: schema.Resources = WANTED) -> None:
    with update.all_or_nothing(cgroup, resources):
        limits.apply(cgroup, cgroup.path.parent, update.careful(cgroup, resources))


def test_all_of_it_is_written(drawn: Drawn) -> None:
    apply(drawn)
    assert said(drawn) == FILES | {
        "memory.max": "9000\n",
        "memory.swap.max": "500\n",
        "cpu.weight": "174\n",
        "cpu.max": "5000 10000\n",
        "cpuset.cpus": "0-1\n",
        "io.max": "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 wbps=7\n",
        "pids.max": "5\n",
    }


@pytest.mark.parametrize("file", ["memory.max", "memory.swap.max", "cpu.weight", "cpu.max", "cpuset.cpus", "io.max", "pids.max"])
def test_whichever_file_is_refused_all_say_again_what_they_said(drawn: Drawn, file: str) -> None:
    before = said(drawn)
    drawn.refuses = lambda name, value: errno.EINVAL if name == file and value + "\n" != before[file] else 0  # type: ignore[method-assign]
    with pytest.raises(InvalidSpec, match=file):
        apply(drawn)
    assert said(drawn) == before


def test_what_is_refused_while_another_value_holds_is_put_back_after_it(drawn: Drawn) -> None:
    """The kernel takes no weight for what is idle."""
    (drawn.path / "cpu.idle").write_text("0\n")
    idle = schema.Resources(cpu=schema.Cpu(idle=1), unified={"cpu.weight": "100", "pids.max": "1"})

    def refuses(name: str, value: str) -> int:
        if name == "pids.max":
            return errno.EINVAL
        return errno.EINVAL if name == "cpu.weight" and drawn.read("cpu.idle") == "1\n" else 0

    with pytest.raises(OSError, match="refused"), update.all_or_nothing(drawn, idle):
        drawn.write("cpu.weight", "7")
        drawn.refuses = refuses  # type: ignore[method-assign]
        drawn.write("cpu.idle", "1")
        drawn.write("pids.max", "1")
    assert (drawn.read("cpu.weight"), drawn.read("cpu.idle")) == ("100\n", "0\n")


@pytest.mark.parametrize(
    ("holds", "limit", "is_refused"), [("max", 4000, True), ("6000", 4000, True), ("4000", 4000, False), ("max", 9000, False)]
)
def test_a_lower_limit_must_be_above_what_is_used(drawn: Drawn, holds: str, limit: int, is_refused: bool) -> None:
    (drawn.path / "memory.max").write_text(f"{holds}\n")
    wanted = schema.Resources(memory=schema.Memory(limit=limit), cpu=schema.Cpu(shares=2))
    if is_refused:
        with pytest.raises(InvalidSpec, match="5000 bytes are used already"):
            apply(drawn, wanted)
        assert said(drawn) == FILES | {"memory.max": f"{holds}\n"}
    else:
        apply(drawn, wanted)
        assert drawn.read("memory.max") == f"{limit}\n"


def test_after_an_interrupted_update_the_record_holds_and_nothing_else(drawn: Drawn) -> None:
    drawn.write("memory.max", "7000")
    drawn.write("cpuset.cpus", "1")
    drawn.write("cpu.max", "1000 10000")
    update.settle(drawn, drawn.path.parent, schema.Resources(cpu=schema.Cpu(quota=2000, period=10_000)))
    assert said(drawn) == FILES | {"cpu.max": "2000 10000\n"}


@pytest.fixture
def container(node: Node) -> str:
    sandbox = node.run_sandbox(wishes.sandbox())
    return wishes.run(node, sandbox, wishes.container(["sh", "-c", "sleep 100 & wait"]))


PIDS = schema.Resources(unified={"hugetlb.2MB.max": "4194304"})


@requires("root", "cgroup2", "busybox", "controllers hugetlb")
def test_an_update_holds_and_is_remembered(node: Node, container: str, make_node: Callable[[], Node]) -> None:
    before = node.find_container(container)
    cgroup = Cgroup(find_tree() / before.cgroup.lstrip("/"))
    node.update_container(container, PIDS, attachment=b"said")
    assert cgroup.number("hugetlb.2MB.max") == 4194304
    with pytest.raises(ControllerMissing, match="memory"):
        node.update_container(container, schema.Resources(memory=schema.Memory(limit=1 << 30), unified={"hugetlb.2MB.max": "0"}))
    assert cgroup.number("hugetlb.2MB.max") == 4194304
    found = node.find_container(container)
    assert (found.resources_attachment, found.state, found.config) == (b"said", "running", before.config)
    assert updates.resources_of(found).unified == PIDS.unified
    node.close()
    again = make_node()
    assert again.find_container(container).resources == found.resources
    again.stop_container(container, 0)
    with pytest.raises(ContainerNotRunning, match="it is exited"):
        again.update_container(container, PIDS)


@requires("root", "cgroup2", "busybox", "controllers hugetlb")
def test_a_value_that_the_kernel_does_not_take_is_the_callers_mistake(node: Node, container: str) -> None:
    with pytest.raises(InvalidSpec, match=r"unified\['hugetlb\.2MB\.max'\]"):
        node.update_container(container, schema.Resources(unified={"hugetlb.2MB.max": "nonsense"}))


@requires("root", "cgroup2", "busybox", "controllers hugetlb")
def test_a_size_of_pages_that_there_is_not_is_passed_over(node: Node, container: str) -> None:
    """A kubelet sends a limit for every size that it can think of."""
    sizes = [schema.HugepageLimit(page_size=size, limit=0) for size in ("2MB", "16GB")]
    node.update_container(container, schema.Resources(hugepage_limits=sizes))
    cgroup = Cgroup(find_tree() / node.find_container(container).cgroup.lstrip("/"))
    assert cgroup.number("hugetlb.2MB.max") == 0


@requires("root", "cgroup2", "busybox", "controllers hugetlb")
def test_a_container_that_ends_in_the_middle_is_said_to_have_ended(
    node: Node, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = node._context.cgroups
    limit = driver.limit

    def end_first(cgroup: Cgroup, wanted: schema.Resources) -> None:
        cgroup.kill()
        wait.until(lambda: not cgroup.exists(), 10, "the cgroup to go")
        limit(cgroup, wanted)

    monkeypatch.setattr(driver, "limit", end_first)
    with pytest.raises(ContainerNotRunning, match="it has just ended"):
        node.update_container(container, PIDS)
    assert node.find_container(container).resources is None
    assert node._context.journal.open_intents() == []


@requires("root", "cgroup2", "busybox", "controllers hugetlb")
def test_a_daemon_that_was_killed_in_the_middle_lets_hold_what_is_recorded(
    node: Node, container: str, make_node: Callable[[], Node]
) -> None:
    node.update_container(container, PIDS)
    cgroup = Cgroup(find_tree() / node.find_container(container).cgroup.lstrip("/"))
    node._context.journal.begin(container, updates.UPDATE)
    cgroup.write("hugetlb.2MB.max", "0")
    node.close()
    again = make_node()
    assert cgroup.number("hugetlb.2MB.max") == 4194304
    assert again._context.journal.open_intents() == []


@requires("root", "cgroup2", "busybox", "controllers hugetlb")
def test_processes_get_another_score_unless_they_chose_their_own(node: Node) -> None:
    sandbox = node.run_sandbox(wishes.sandbox())
    config = wishes.container(["sh", "-c", "sleep 100 & (echo 777 > /proc/self/oom_score_adj; exec sleep 100) & wait"])
    assert config.spec.process is not None
    config.spec.process.oom_score_adj = 100
    container = wishes.run(node, sandbox, config)
    cgroup = Cgroup(find_tree() / node.find_container(container).cgroup.lstrip("/"))

    def scores() -> list[int]:
        return sorted(int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in cgroup.processes())

    wait.until(lambda: scores() == [100, 100, 777], 10, "the three to run")
    with pytest.raises(ControllerMissing):
        node.update_container(container, schema.Resources(memory=schema.Memory(limit=1 << 30)), oom_score_adj=300)
    assert scores() == [100, 100, 777]
    node.update_container(container, schema.Resources(), oom_score_adj=300)
    assert scores() == [300, 300, 777]
    assert node.exec_sync(container, ["cat", "/proc/self/oom_score_adj"], 10).stdout == b"300\n"


@requires("root", "cgroup2", "busybox", "controllers hugetlb")
def test_a_pods_own_cgroup_is_limited_and_one_that_was_named_is_its_makers(node: Node) -> None:
    own, named = node.run_sandbox(wishes.sandbox()), node.run_sandbox(wishes.sandbox(cgroup_parent="/named"))
    for sandbox, value in ((own, 4194304), (named, None)):
        node.update_sandbox(sandbox, PIDS, attachment=b"said")
        record = node.find_sandbox(sandbox)
        assert (record.resources, record.resources_attachment) == (PIDS, b"said")
        limit = Cgroup(find_tree() / record.cgroup_parent.lstrip("/")).number("hugetlb.2MB.max")
        assert limit == value or (value is None and (limit is None or limit > 1 << 60))
    node.stop_sandbox(own)
    with pytest.raises(SandboxNotReady):
        node.update_sandbox(own, PIDS)
    node.remove_sandbox(named)
    subprocess.run(["rmdir", find_tree() / "named"], check=True)
