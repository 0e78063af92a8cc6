"""Classes of service on a directory that is drawn like resctrl: few machines have the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.container import intel_rdt
from runtime.container.intel_rdt import find_resctrl, join, leave, schemata_of, write_schemata
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec.schema import IntelRdt


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree in which a new directory has its files at once, and goes with them, as the kernel's do."""
    make, remove = Path.mkdir, os.rmdir

    def mkdir(path: Path, mode: int = 0o777) -> None:
        make(path, mode)
        draw(path)

    def draw(group: Path) -> None:
        (group / "tasks").write_text("")
        (group / "schemata").write_text("    L3:0=00fff;1=00fff\n    MB:0=100;1=100\n")
        make(group / "mon_groups")

    def rmdir(path: Path) -> None:
        for file in ("tasks", "schemata"):
            (path / file).unlink()
        remove(path / "mon_groups")
        remove(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(intel_rdt.os, "rmdir", rmdir)
    draw(tmp_path)
    make(tmp_path / "info")
    (tmp_path / "info" / "last_cmd_status").write_text("MB value out of range\n")
    return tmp_path


def tasks(group: Path) -> str:
    return (group / "tasks").read_text()


def schemata(group: Path) -> str:
    return (group / "schemata").read_text()


def test_a_container_without_a_name_of_a_class_gets_its_own(root: Path) -> None:
    group = join(IntelRdt(l3_cache_schema="L3:0=f", mem_bw_schema="MB:0=50"), "web", 4711, root)
    assert group == (root / "web", (root / "web",))
    assert (schemata(group.path), tasks(group.path)) == ("L3:0=f\nMB:0=50\n", "4711\n")
    leave(group.made)
    assert not group.path.exists()
    leave(group.made)  # once more is no error


def test_one_that_asks_for_no_schema_is_in_a_class_of_its_own_as_the_kernel_makes_it(root: Path) -> None:
    group = join(IntelRdt(), "web", 4711, root)
    assert schemata(group.path).startswith("    L3:0=00fff")
    assert tasks(group.path) == "4711\n"


def test_a_class_that_is_named_is_made_if_it_is_to_say_something(root: Path) -> None:
    group = join(IntelRdt(clos_id="gold", schemata=["L3:0=f", "L3:1=f0"]), "web", 4711, root)
    assert group.path == root / "gold"
    assert schemata(group.path) == "L3:0=f\nL3:1=f0\n"


def test_a_class_that_is_named_and_there_is_joined_and_never_changed(root: Path) -> None:
    (root / "gold").mkdir()
    before = schemata(root / "gold")
    group = join(IntelRdt(clos_id="gold"), "web", 1, root)
    assert group == (root / "gold", ())
    join(IntelRdt(clos_id="gold", l3_cache_schema="L3:1=fff", mem_bw_schema="MB:0=100;1=100"), "web", 2, root)
    with pytest.raises(InvalidSpec, match=r"closID gold: the class is there, and does not say 'MB:0=10'"):
        join(IntelRdt(clos_id="gold", mem_bw_schema="MB:0=10"), "web", 3, root)
    with pytest.raises(InvalidSpec, match="does not say 'L2:0=1'"):
        join(IntelRdt(clos_id="gold", schemata=["L2:0=1"]), "web", 3, root)
    assert schemata(root / "gold") == before
    assert tasks(root / "gold") == "2\n"


def test_a_class_that_is_named_and_not_there_must_say_something(root: Path) -> None:
    with pytest.raises(InvalidSpec, match="closID gold: there is no such class"):
        join(IntelRdt(clos_id="gold"), "web", 1, root)
    assert not (root / "gold").exists()


def test_monitoring_has_a_group_of_its_own_that_ends_with_the_container(root: Path) -> None:
    (root / "gold").mkdir()
    group = join(IntelRdt(clos_id="gold", enable_monitoring=True), "web", 4711, root)
    monitor = root / "gold" / "mon_groups" / "web"
    assert group == (root / "gold", (monitor,))
    assert tasks(monitor) == "4711\n"
    leave(group.made)
    assert not monitor.exists()
    assert (root / "gold").exists()


def test_what_fails_leaves_nothing_and_says_what_the_kernel_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(number: int, content: bytes) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(intel_rdt.os, "write", write)
    with pytest.raises(OSError, match=r"Invalid argument: writing 'MB:0=1' \(MB value out of range\): '.*/web/schemata'"):
        join(IntelRdt(mem_bw_schema="MB:0=1", enable_monitoring=True), "web", 4711, root)
    assert not (root / "web").exists()


def test_an_update_writes_what_it_speaks_of(root: Path) -> None:
    group = join(IntelRdt(l3_cache_schema="L3:0=f"), "web", 1, root)
    write_schemata(group.path, IntelRdt(mem_bw_schema="MB:0=20"))
    assert schemata(group.path) == "MB:0=20\n"  # the kernel keeps the other lines


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        (IntelRdt(), []),
        (IntelRdt(l3_cache_schema="L3:0=f\nL3:1=f0\n"), ["L3:0=f", "L3:1=f0"]),
        (IntelRdt(l3_cache_schema="L3:0=f\nMB:0=10", mem_bw_schema="MB:0=20"), ["L3:0=f", "MB:0=20"]),
        (IntelRdt(l3_cache_schema="L3:0=f\nMB:0=10"), ["L3:0=f", "MB:0=10"]),
        (IntelRdt(schemata=["L3:0=f"], mem_bw_schema="MB:0=20"), ["MB:0=20", "L3:0=f"]),
    ],
)
def test_lines_are_put_together_as_the_specification_has_it(wanted: IntelRdt, lines: list[str]) -> None:
    assert schemata_of(wanted) == lines


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (IntelRdt(schemata=["L3:0=f\nL3:1=f"]), r"schemata\[0\]: .* is not one line"),
        (IntelRdt(schemata=["L3:0=f", ""]), r"schemata\[1\]: '' is not one line"),
        (IntelRdt(mem_bw_schema="L3:0=f"), "memBwSchema: 'L3:0=f' is not a line that begins with MB:"),
        (IntelRdt(mem_bw_schema="MB:0=1\nL3:0=f"), "memBwSchema"),
        *((IntelRdt(clos_id=name), "cannot be the name of a class") for name in ("..", ".", "info", "a/b", "mon_groups", "a\nb")),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(root: Path, wanted: IntelRdt, message: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"^linux\.intelRdt\..*{message}"):
        join(wanted, "web", 1, root)


def test_without_resctrl_it_is_told_what_to_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intel_rdt, "load_mountinfo", list)
    with pytest.raises(Unsupported, match=r"^linux\.intelRdt: no resctrl file system is mounted"):
        find_resctrl()
    with pytest.raises(Unsupported, match="mount -t resctrl"):
        join(IntelRdt(), "web", 1)
