"""/proc/PID/mountinfo: the manual's example, odd names, and the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel import mount
from kernel.mountinfo import Mount, load_mountinfo, parse_mountinfo
from tests.support import child
from tests.support.requires import requires

#: The example of proc_pid_mountinfo(5), with a peer group.
EXAMPLE = "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\n"


def test_the_manuals_example() -> None:
    assert parse_mountinfo(EXAMPLE) == [
        Mount(
            36, 35, "98:0", "/mnt1", "/mnt2", ("rw", "noatime"), "1", "ext3", "/dev/root", ("rw", "errors=continue"),
        )
    ]
    assert parse_mountinfo(EXAMPLE)[0].is_shared


@pytest.mark.parametrize("fields", ["", "master:7 ", "propagate_from:3 ", "unbindable "])
def test_a_mount_without_a_peer_group_is_not_shared(fields: str) -> None:
    (row,) = parse_mountinfo(f"22 1 8:1 / / rw {fields}- ext4 /dev/sda1 rw")
    assert not row.is_shared
    assert row.filesystem == "ext4"


def test_spaces_and_backslashes_in_names() -> None:
    (row,) = parse_mountinfo(r"22 1 8:1 /a\040b /c\011d\134e rw - tmpfs no\012ne rw")
    assert (row.root, row.target, row.source) == ("/a b", "/c\td\\e", "no\nne")


def test_a_name_may_be_a_dash() -> None:
    (row,) = parse_mountinfo("22 1 0:5 / /mnt rw - tmpfs - rw")
    assert row.source == "-"


def test_order_is_kept_and_nothing_is_nothing() -> None:
    assert [row.mount_id for row in parse_mountinfo(EXAMPLE + EXAMPLE.replace("36", "12", 1))] == [36, 12]
    assert parse_mountinfo("") == []


@pytest.mark.parametrize("line", ["36 35 98:0 / /", "x 35 98:0 / / rw - a b c", "36 35 98:0 / / rw shared:1 ext3 /dev/root rw"])
def test_a_line_that_is_not_mountinfo_is_an_error(line: str) -> None:
    with pytest.raises(ValueError):
        parse_mountinfo(line)


def test_the_real_one_has_a_proc() -> None:
    assert any(row.target == "/proc" and row.filesystem == "proc" for row in load_mountinfo())


@requires("root")
def test_a_mount_with_an_odd_name_is_found(tmp_path: Path) -> None:
    target = tmp_path / "a b\\c\nd\u00e9"
    target.mkdir()

    def bind_and_look() -> list[str]:
        mount.bind("/proc", target)
        return [row.filesystem for row in load_mountinfo() if row.target == str(target)]

    assert child.run(bind_and_look, namespaces=["mount"]) == ["proc"]
