"""Leaving, entering and pinning namespaces changes one thread and nothing else."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from kernel import mount, namespace
from kernel._linux import lib
from kernel.fd import Fd
from kernel.mountinfo import load_mountinfo
from tests.support import child, wait
from tests.support.requires import requires

pytestmark = requires("root")


def test_only_the_new_thread_leaves_its_namespace() -> None:
    before = os.readlink("/proc/thread-self/ns/uts")

    def work() -> tuple[str, str]:
        namespace.unshare(lib.CLONE_NEWUTS)
        namespace.set_hostname("elsewhere")
        return os.readlink("/proc/thread-self/ns/uts"), socket.gethostname()

    inside, name = namespace.in_new_thread(work)
    assert name == "elsewhere"
    assert inside != before
    assert os.readlink("/proc/thread-self/ns/uts") == before
    assert socket.gethostname() != "elsewhere"


def test_an_exception_comes_out_of_the_thread_as_it_is() -> None:
    def work() -> None:
        raise FileNotFoundError(2, "no such thing", "here")

    with pytest.raises(FileNotFoundError) as caught:
        namespace.in_new_thread(work)
    assert caught.value.filename == "here"
    assert [frame.name for frame in caught.traceback][-1] == "work"


def test_the_thread_is_gone_after_its_work() -> None:
    def work() -> int:
        return threading.get_native_id()

    native_id = namespace.in_new_thread(work)
    wait.until(lambda: not Path(f"/proc/self/task/{native_id}").exists(), 5, "the thread to be gone")
    assert native_id != threading.get_native_id()


def test_a_pin_keeps_the_namespace_alive_and_can_be_entered(tmp_path: Path) -> None:
    target = tmp_path / "uts"

    def test() -> None:
        def work() -> int:
            namespace.unshare(lib.CLONE_NEWUTS)
            namespace.set_hostname("pinned-name")
            namespace.pin("uts", target)
            with namespace.open_namespace("thread-self", "uts") as here:
                return namespace.identity(here)

        identity = namespace.in_new_thread(work)
        assert namespace.is_pin(target)
        assert namespace.identity(target) == identity
        with Fd(os.open(target, os.O_RDONLY | os.O_CLOEXEC)) as found:
            assert namespace.in_namespace(found, "uts", socket.gethostname) == "pinned-name"
        with pytest.raises(FileExistsError):
            namespace.pin("uts", target)
        mount.unmount(target)
        assert not namespace.is_pin(target)
        target.unlink()
        assert not namespace.is_pin(target)

    child.run(test, namespaces=("mount",))


def test_a_pin_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        namespace.pin("nonsense", tmp_path / "pin")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_mount_namespace_can_be_entered_from_a_threaded_process(tmp_path: Path) -> None:
    def test() -> None:
        def work() -> Fd:
            namespace.unshare(lib.CLONE_NEWNS)
            mount.set_propagation("/", "private", recursive=True)
            with mount.new_filesystem("tmpfs") as tmpfs:
                mount.attach(tmpfs, tmp_path)
            (tmp_path / "inside").touch()
            return namespace.open_namespace("thread-self", "mnt")

        with namespace.in_new_thread(work) as other:
            assert namespace.in_namespace(other, "mnt", (tmp_path / "inside").exists)
        assert not (tmp_path / "inside").exists()
        assert all(row.target != str(tmp_path) for row in load_mountinfo())

    child.run(test, namespaces=("mount",))


def test_a_namespace_of_another_kind_is_refused_and_the_call_named() -> None:
    with namespace.open_namespace(os.getpid(), "uts") as uts, pytest.raises(OSError, match="net") as caught:
        namespace.in_namespace(uts, "net", lambda: None)
    assert caught.value.__notes__ == ["in setns(2)"]


@requires("root")
def test_an_empty_mount_namespace_holds_an_empty_read_only_directory() -> None:
    def look() -> tuple[list[str], list[str]]:
        os.chdir("/")
        for _ in range(3):  # what a process that got out of its root would do
            os.chdir("..")
        with pytest.raises(OSError, match="Read-only file system"):
            os.mkdir("here")
        return os.listdir("."), os.listdir("/")

    with namespace.new_empty_mounts() as void:
        assert namespace.in_namespace(void, "mnt", look) == ([], [])
        assert namespace.identity(void) != namespace.identity(Path("/proc/thread-self/ns/mnt"))


@requires("root")
def test_whoever_gets_out_of_a_root_upon_an_empty_directory_is_where_he_was(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    os.chmod(tmp_path, 0o755)

    def escape() -> tuple[list[str], list[str]]:
        namespace.unshare(namespace.FLAGS["mnt"])
        mount.attach(root, "/")
        os.fchdir(root.fileno())
        os.chroot(".")
        confined = sorted(os.listdir("/.."))
        os.chroot("inner")  # the working directory is above the root now (chroot(2))
        for _ in range(5):
            os.chdir("..")
        os.chroot(".")
        return confined, os.listdir("/")

    with namespace.new_empty_mounts() as void, mount.clone_tree(tmp_path) as root:
        assert namespace.in_namespace(void, "mnt", escape) == (
            ["inner"],
            ["inner"],
        )  # ".." leads up to the empty directory, and what lies upon it
