"""A cgroup: made, read, killed, removed, on the run's own tree."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import cgroup
from kernel.cgroup import Cgroup, find_tree
from tests.support import wait
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2")


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(find_tree() / "test" / "inner")
    made.create()
    yield made
    top = Cgroup(made.path.parent)
    top.kill()
    top.remove()


def started(group: Cgroup, script: str = "sleep 100") -> subprocess.Popen[bytes]:
    """A process that is born into *group*."""

    process = subprocess.Popen(["/bin/busybox", "sh", "-c", f"echo 0 > {group.path}/cgroup.procs; {script}"])
    wait.until(lambda: process.pid in group.processes(), 5, "the process to be in its cgroup")
    return process


def test_the_tree_is_where_everybody_has_it() -> None:
    assert find_tree() == cgroup.DEFAULT_MOUNT
    assert (find_tree() / "cgroup.controllers").exists()


def test_without_a_tree_it_is_told_what_to_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "load_mountinfo", list)
    with pytest.raises(FileNotFoundError, match="no cgroup2 file system is mounted"):
        find_tree()


def test_it_is_made_with_its_parents_and_may_be_there(group: Cgroup) -> None:
    group.create()
    assert group.exists()
    assert (group / "deeper").path == group.path / "deeper"
    assert not (group / "deeper").exists()


def test_files_are_read_and_written_in_one_call(group: Cgroup) -> None:
    group.write("cgroup.max.depth", "3")
    assert group.read("cgroup.max.depth") == "3\n"
    with pytest.raises(OSError, match=r"Invalid argument: writing 'x': '.*/cgroup\.max\.depth'") as refusal:
        group.write("cgroup.max.depth", "x")
    assert refusal.value.errno == errno.EINVAL
    with pytest.raises(FileNotFoundError):
        group.write("nonesuch.max", "1")


def test_a_flat_keyed_file_is_numbers(group: Cgroup) -> None:
    assert group.fields("cgroup.events") == {"populated": 0, "frozen": 0}
    assert group.fields("memory.nonesuch") == {}


def test_a_controller_that_there_is_not_cannot_be_handed_down(group: Cgroup) -> None:
    group.enable([])
    with pytest.raises(OSError, match="writing '\\+nonesuch'"):
        group.enable(["nonesuch"])


def test_kill_ends_all_of_it_also_what_is_below(group: Cgroup) -> None:
    deeper = group / "deeper"
    deeper.create()
    processes = [started(group, "sleep 100 & sleep 100"), started(deeper, "setsid sleep 100 & sleep 100")]
    assert len(group.processes()) >= 1
    group.kill()
    assert [process.wait(5) for process in processes] == [-9, -9]
    group.remove()
    assert not group.exists()


def ticks(process: subprocess.Popen[bytes]) -> int:
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_what_is_frozen_stands_still_until_it_is_thawed(group: Cgroup) -> None:
    process = started(group, "while true; do true; done")
    assert not group.is_frozen()
    group.freeze()
    assert group.is_frozen()
    before = ticks(process)
    time.sleep(0.05)
    assert ticks(process) == before
    group.freeze()  # once more is no error
    group.thaw()
    assert not group.is_frozen()
    wait.until(lambda: ticks(process) > before, 5, "the process to go on")
    group.thaw()
    group.freeze()
    group.kill()  # a frozen process can be killed
    assert process.wait(5) == -9


def test_one_that_cannot_be_frozen_in_time_goes_on(group: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    process = started(group, "while true; do true; done")
    monkeypatch.setattr(
        Cgroup, "write", lambda self, file, value: None if value == "1" else Path(self.path, file).write_text(value)
    )
    with pytest.raises(TimeoutError, match=r"did not freeze within 0\.05 s: '.*/inner'"):
        group.freeze(deadline_seconds=0.05)
    monkeypatch.undo()
    assert group.read("cgroup.freeze") == "0\n"
    process.kill()
    process.wait()


def test_what_is_frozen_from_above_cannot_be_thawed_from_below(group: Cgroup) -> None:
    above = Cgroup(group.path.parent)
    above.freeze()
    try:
        assert group.is_frozen()
        with pytest.raises(TimeoutError, match="did not thaw"):
            group.thaw(deadline_seconds=0.05)
    finally:
        above.thaw()
    assert not group.is_frozen()


def test_its_kind_and_files_of_one_number(group: Cgroup) -> None:
    assert group.kind() == "domain"
    assert (group / "gone").kind() == ""
    assert group.number("cgroup.freeze") == 0
    assert group.number("cgroup.max.depth") is None  # "max"
    assert group.number("nonesuch.current") is None


def test_killing_and_removing_what_is_gone_is_no_error(group: Cgroup) -> None:
    gone = group / "gone"
    gone.kill()
    gone.remove()
    assert gone.processes() == []
    assert gone.descendants() == []


def test_remove_waits_for_who_is_ending_and_gives_up_on_who_is_not(group: Cgroup) -> None:
    process = started(group)
    begun = time.monotonic()
    with pytest.raises(OSError, match="busy"):
        group.remove(deadline_seconds=0.1)
    assert 0.1 <= time.monotonic() - begun < 3
    timer = threading.Timer(0.1, process.kill)
    timer.start()
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    group.remove()
    assert not group.exists()
    timer.join()
    reaper.join()


def test_two_who_remove_one_tree_do_not_stop_each_other(group: Cgroup) -> None:
    for name in ("a", "a/b", "a/c", "d"):
        (group / name).create()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            group.remove()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not group.exists()


def test_descendants_come_deepest_first(group: Cgroup) -> None:
    for name in ("a/b/c", "d"):
        (group / name).create()
    names = [str(each.path.relative_to(group.path)) for each in group.descendants()]
    assert sorted(names) == ["a", "a/b", "a/b/c", "d"]
    assert names.index("a/b/c") < names.index("a/b") < names.index("a")


def test_the_descriptor_is_of_the_directory(group: Cgroup) -> None:
    with group.open() as opened:
        assert Path(os.readlink(f"/proc/self/fd/{opened.fileno()}")) == group.path
