"""Namespaces (namespaces(7)): leave one, enter one, keep one alive under a name.

The one thing to know: in a process with threads these calls change the calling *thread* only, and a
thread that has been elsewhere is not worth bringing back.  So such work runs in a fresh thread that
ends with it (``in_new_thread``: 0.1 ms), never in one of a pool; the daemon itself never forks.

A thread shares root and working directory with the others, and the kernel will not let it enter a
mount namespace (EINVAL) before it has given that up with unshare(CLONE_FS).  A threaded process
cannot make or enter a user namespace at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from kernel import mount
from kernel._linux import lib
from kernel.errors import check
from kernel.fd import Fd, open_path

Kind = Literal["net", "ipc", "uts", "mnt", "pid", "user", "cgroup", "time"]
Result = TypeVar("Result")

#: The clone flag of each kind, under the name that /proc/PID/ns gives it.
FLAGS: dict[Kind, int] = {
    "net": lib.CLONE_NEWNET,
    "ipc": lib.CLONE_NEWIPC,
    "uts": lib.CLONE_NEWUTS,
    "mnt": lib.CLONE_NEWNS,
    "pid": lib.CLONE_NEWPID,
    "user": lib.CLONE_NEWUSER,
    "cgroup": lib.CLONE_NEWCGROUP,
    "time": lib.CLONE_NEWTIME,
}


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own, one for each CLONE_NEW* flag (unshare(2))."""
    check(lib.unshare(flags), "unshare")


def set_namespace(namespace: Fd, kind: Kind) -> None:
    """Move the calling thread into *namespace* (setns(2)); raises OSError (EINVAL) if it is not of *kind*."""
    if kind == "mnt":
        unshare(lib.CLONE_FS)
    check(lib.setns(namespace.fileno(), FLAGS[kind]), "setns", kind)


def set_hostname(name: str) -> None:
    """Set the host name of the calling thread's UTS namespace; raises OSError (EINVAL) above 64 bytes."""
    content = os.fsencode(name)
    check(lib.sethostname(content, len(content)), "sethostname", name)


def open_namespace(process: int | Literal["thread-self"], kind: Kind) -> Fd:
    """The namespace of *kind* that a process, or the calling thread, is in."""
    return open_path(f"/proc/{process}/ns/{kind}")


def identity(namespace: Fd | Path) -> int:
    """The number by which the kernel knows a namespace: equal for two names of the same one."""
    return os.fstat(namespace.fileno()).st_ino if isinstance(namespace, Fd) else namespace.stat().st_ino


def is_namespace(file: Fd) -> bool:
    """Whether the file, open with O_PATH or not, is a namespace."""
    return bool(check(lib.linux_statfs_type(file.fileno()), "fstatfs") == lib.NSFS_MAGIC)


def kind_of(namespace: Fd) -> Kind:
    """Which kind of namespace this is (ioctl_ns(2)); raises OSError (ENOTTY) for a file that is none."""
    flag = fcntl.ioctl(namespace.fileno(), lib.NS_GET_NSTYPE)
    return next(kind for kind, known in FLAGS.items() if known == flag)


def owner_of(namespace: Fd) -> Fd | None:
    """The user namespace that owns *namespace*; None when that is none of ours nor below it."""
    return _related(namespace, lib.NS_GET_USERNS)


def parent_of(namespace: Fd) -> Fd | None:
    """The user or pid namespace above this one; None when that is above the caller's own."""
    return _related(namespace, lib.NS_GET_PARENT)


def _related(namespace: Fd, request: int) -> Fd | None:
    try:
        return Fd(fcntl.ioctl(namespace.fileno(), request))
    except OSError as error:
        if error.errno == errno.EPERM:
            return None
        raise


def pin(wanted: Kind | Fd, target: Path) -> None:
    """Keep the calling thread's namespace of a kind, or an open one, alive under *target*, which is made; unmounting it lets go.

    The mount belongs to the calling thread's mount namespace.  Raises FileExistsError if *target* is there.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400))
    try:
        source = f"/proc/thread-self/fd/{wanted.fileno()}" if isinstance(wanted, Fd) else f"/proc/thread-self/ns/{wanted}"
        mount.bind(source, target, recursive=False)
    except BaseException:
        target.unlink()
        raise


def is_pin(path: Path) -> bool:
    """Whether *path* is a namespace kept alive, rather than a file, or nothing."""
    try:
        with open_path(path, os.O_PATH | os.O_NOFOLLOW) as file:
            return is_namespace(file)
    except FileNotFoundError:
        return False


def in_new_thread(function: Callable[[], Result]) -> Result:
    """What *function* returns, or the exception it raises, from a thread that exists for this call only.

    Inside it the thread may change its namespaces as it likes: nothing else ever runs there.
    """
    import threading  # slow to import, and many who need namespaces need none of this

    outcome: list[Result] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # it is raised again, in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=work, name="namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures.pop()
    return outcome[0]


def in_namespace(namespace: Fd, kind: Kind, function: Callable[[], Result]) -> Result:
    """What *function* returns when it is called inside *namespace*, in a thread of its own."""

    def enter() -> Result:
        set_namespace(namespace, kind)
        return function()

    return in_new_thread(enter)


def new_empty_mounts() -> Fd:
    """A mount namespace that holds an empty directory, read-only, and nothing else.

    A copy of it is where a container can begin: nothing of the node's is in there, not even before its root is.
    """

    def work() -> Fd:
        unshare(FLAGS["mnt"] | lib.CLONE_FS)
        mount.set_propagation("/", "private", recursive=True)
        made = open_namespace("thread-self", "mnt")
        attributes = lib.MOUNT_ATTR_RDONLY | lib.MOUNT_ATTR_NOSUID | lib.MOUNT_ATTR_NODEV | lib.MOUNT_ATTR_NOEXEC
        with mount.new_filesystem("tmpfs", (("nr_inodes", "2"), ("mode", "0555")), attributes=attributes) as void:
            mount.attach(void, "/proc")  # a directory on every host
        os.chdir("/proc")
        mount.pivot_root(".", ".")
        mount.unmount(".")
        return made

    return in_new_thread(work)
