"""A procfs of our own: what is mounted over /proc is not met, and what is no procfs is not taken for one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel import mount, procfs
from kernel.fd import open_path
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root")


def name_here(path: str = "self/comm") -> str:
    with procfs.open_procfs() as own, procfs.open_below(own, path, os.O_RDONLY) as file:
        return os.read(file.fileno(), 100).decode().strip()


def test_it_is_that_of_this_process() -> None:
    assert name_here() == Path("/proc/self/comm").read_text().strip()


def test_it_is_in_no_mount_table(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with procfs.open_procfs():
        assert Path("/proc/self/mountinfo").read_text() == before


def test_a_file_that_covers_one_of_procs_is_not_met(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text("trap")

    def look() -> tuple[str, str]:
        mount.bind(trap, Path(f"/proc/{os.getpid()}/comm"))
        return Path("/proc/self/comm").read_text(), name_here()

    assert child.run(look, namespaces=["mount"]) == ("trap", Path("/proc/self/comm").read_text().strip())


def test_where_no_new_one_is_to_be_had_the_old_one_is_copied_bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "trap"
    trap.write_text("trap")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no")

    def look() -> str:
        mount.bind(trap, Path(f"/proc/{os.getpid()}/comm"))
        monkeypatch.setattr(mount, "new_filesystem", refuse)
        return name_here()

    assert child.run(look, namespaces=["mount"]) != "trap"


def test_at_last_proc_itself_is_taken_if_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no")

    def look(covered: bool) -> str:
        if covered:
            with mount.new_filesystem("tmpfs") as other:
                mount.attach(other, "/proc")
        monkeypatch.setattr(mount, "new_filesystem", refuse)
        monkeypatch.setattr(mount, "clone_tree", refuse)
        return name_here()

    assert child.run(lambda: look(False), namespaces=["mount"]) == Path("/proc/self/comm").read_text().strip()
    with pytest.raises(OSError, match="not the root of a procfs"):
        child.run(lambda: look(True), namespaces=["mount"])


def test_a_directory_of_procs_is_not_its_root() -> None:
    with pytest.raises(OSError, match="not the root of a procfs"):
        procfs._verified(open_path("/proc/self", os.O_PATH))


@pytest.mark.parametrize("path", ["self/root/etc/passwd", "self/fd/0", "self/exe", "../etc/passwd", "/etc/passwd"])
def test_no_path_leads_out(path: str) -> None:
    with procfs.open_procfs() as own, pytest.raises(OSError, match="/proc/"):
        procfs.open_below(own, path, os.O_RDONLY)


def test_the_kept_one_is_another_descriptor_each_time() -> None:
    with procfs.share_procfs() as one, procfs.share_procfs() as two:
        assert one.fileno() != two.fileno()
        assert os.fstat(one.fileno()).st_ino == os.fstat(two.fileno()).st_ino == procfs.ROOT_INODE
