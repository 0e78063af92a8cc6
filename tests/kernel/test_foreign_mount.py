"""File systems that another user namespace owns, and mounts that are locked in it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kernel import foreign_mount, mount, terminal
from kernel._linux import lib
from kernel.fd import Fd
from runtime.container import userns
from runtime.spec.schema import IdMapping
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root")

FIRST = 300000


def namespace() -> Fd:
    ids = [IdMapping(container_id=0, host_id=FIRST, size=1000)]
    return userns.make(ids, ids)


def test_what_is_made_belongs_to_the_other_root() -> None:
    with namespace() as users, foreign_mount.new_filesystem(users, "tmpfs", [("size", "64k"), ("mode", "0711")]) as file:
        status = os.fstat(file.fileno())
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (FIRST, FIRST, 0o711)
        with pytest.raises(OSError, match=r"Operation not permitted|Value too large") as caught:
            os.mknod("null", 0o20666, os.makedev(1, 3), dir_fd=file.fileno())
            os.open("null", os.O_RDWR, dir_fd=file.fileno())  # such a file system has no devices
        assert caught.value.errno in (errno.EPERM, errno.EOVERFLOW, errno.EACCES)


def test_terminals_of_a_foreign_devpts_have_its_groups() -> None:
    with namespace() as users, foreign_mount.new_filesystem(users, "devpts", [("gid", "5"), ("mode", "0620")]) as file:
        opened = terminal.open_terminal(file)
        assert os.fstat(opened.slave.fileno()).st_gid == FIRST + 5
        opened.close()


def test_a_refusal_is_told_with_what_was_refused() -> None:
    with namespace() as users, pytest.raises(OSError, match="Invalid argument") as caught:
        foreign_mount.new_filesystem(users, "tmpfs", [("sise", "1")])
    assert caught.value.filename == "tmpfs option sise=1"
    with namespace() as users, pytest.raises(OSError, match="No such device"):
        foreign_mount.new_filesystem(users, "fatfs")


def test_what_is_taken_from_a_less_privileged_namespace_is_locked(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()

    def attempt() -> list[int]:
        mount.bind(tmp_path, tmp_path, read_only=True)
        found = []
        with namespace() as users, foreign_mount.new_mount_namespace(users) as mounts:
            for clone in (mount.clone_tree(tmp_path), foreign_mount.clone_tree(mounts, tmp_path)):
                with clone:
                    try:
                        mount.set_attributes(clone, clear=lib.MOUNT_ATTR_RDONLY)
                        found.append(0)
                    except OSError as error:
                        found.append(error.errno)
            with mount.new_filesystem("tmpfs") as over:
                mount.attach(over, tmp_path / "inner")
        with namespace() as users, foreign_mount.new_mount_namespace(users) as mounts:
            foreign_mount.clone_tree(mounts, tmp_path, recursive=True).close()
            try:
                foreign_mount.clone_tree(mounts, tmp_path).close()
            except OSError as error:
                found.append(error.errno)
        return found

    assert child.run(attempt, namespaces=["mount"]) == [0, errno.EPERM, errno.EINVAL]


def test_nothing_stays_of_it() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with namespace() as users:
        foreign_mount.new_mount_namespace(users).close()
        with pytest.raises(OSError, match="No such file"), foreign_mount.new_mount_namespace(users) as mounts:
            foreign_mount.clone_tree(mounts, "/not/there")
    assert set(os.listdir("/proc/self/fd")) == before
