"""The cgroup tree that one test run sees as the whole: made, walked, emptied, removed.

Only version 2, and never a new mount of it: the host's one is found in mountinfo and a directory
below it is bound (``isolation``).  The functions take any path to a cgroup, also one through
/proc/self/fd, which is how the end of a run reaches the directory above its own tree.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from kernel.mountinfo import load_mountinfo
from tests.support import wait

#: Where a test finds the tree, whatever the host's layout.
ROOT = Path("/sys/fs/cgroup")


def find_hierarchy() -> Path | None:
    """The mount point of the host's v2 hierarchy, or None when it has none."""
    return next((Path(mount.target) for mount in load_mountinfo() if mount.filesystem == "cgroup2"), None)


def own_path() -> str:
    """The v2 cgroup of this process, relative to the root it sees; without the leading slash."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line[4:] for line in lines if line.startswith("0::/")), "")


def walk(top: Path | str) -> Iterator[str]:
    """Every cgroup below *top*, children before parents, *top* itself left out."""
    with os.scandir(top) as entries:
        names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        try:
            yield from walk(name)
        except FileNotFoundError:
            continue  # removed while we looked
        yield name


def processes(group: Path | str) -> set[int]:
    """The living processes of *group* alone (a zombie is in no cgroup's list)."""
    try:
        with open(f"{group}/cgroup.procs", encoding="ascii") as file:
            return {int(line) for line in file}
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return set()  # removed before or while we read
        raise


def all_processes(top: Path | str) -> set[int]:
    """The living processes of *top* and of every cgroup below it."""
    found = processes(top)
    for group in walk(top):
        found |= processes(group)
    return found


def remove(top: Path | str) -> None:
    """Kill whatever lives in *top* and below (cgroup.kill, Linux 5.14), and remove these cgroups."""
    if not os.path.isdir(top):
        return
    Path(top, "cgroup.kill").write_text("1")
    events = Path(top, "cgroup.events")
    wait.until(lambda: "populated 0" in events.read_text(), 10, f"the end of all processes in cgroup {top}")
    for group in [*walk(top), os.fspath(top)]:
        wait.until(functools.partial(_is_removed, group), 5, f"cgroup {group} to be removable")


def _is_removed(group: str) -> bool:
    try:
        os.rmdir(group)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno != errno.ENOENT:
            raise
    return True
