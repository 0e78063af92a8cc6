"""What system calls this kernel has: each asked by a call of it that does nothing, whatever the answer.

An unknown call is ENOSYS, an unknown flag EINVAL; a call that is known complains about something else, or has nothing to do.
None is the answer where this user may not ask.
"""

from __future__ import annotations

import errno
import os

from kernel import mount
from kernel._linux import ffi, lib
from kernel.fd import open_path

#: sizeof(struct clone_args) with the member "cgroup".
_CLONE_ARGS_SIZE = 88
#: Where no process has a descriptor.
_NO_DESCRIPTOR = 0x7FFF_0000


def has_mount_calls() -> bool:
    """fsopen(2) and its like: mounts by descriptor (Linux 5.2)."""
    return _answer("fsopen", 0, 0) != errno.ENOSYS


def has_openat2() -> bool:
    """openat2(2): paths that stay inside a root (Linux 5.6).  pidfd_getfd(2) came with it."""
    return _answer("openat2", -1, 0, 0, 0) != errno.ENOSYS


def has_clone_into_cgroup() -> bool:
    """A process that begins in its cgroup: clone3(2) with CLONE_INTO_CGROUP (Linux 5.7)."""
    arguments = ffi.new("uint64_t[11]")
    with open_path("/dev/null") as no_cgroup:
        arguments[0], arguments[10] = lib.CLONE_INTO_CGROUP, no_cgroup.fileno()
        return _answer("clone3", int(ffi.cast("uintptr_t", arguments)), _CLONE_ARGS_SIZE) == errno.EBADF


def has_setns_by_pidfd() -> bool | None:
    """All namespaces of a process joined at once: setns(2) with a pidfd (Linux 5.8); asked by joining one that we are in."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        found = _answer("setns", pidfd, lib.CLONE_NEWUTS)
    finally:
        os.close(pidfd)
    return None if found == errno.EPERM else found == 0


def has_close_on_exec_ranges() -> bool:
    """close_range(2) with CLOSE_RANGE_CLOEXEC (Linux 5.11)."""
    return _answer("close_range", _NO_DESCRIPTOR, _NO_DESCRIPTOR, lib.CLOSE_RANGE_CLOEXEC) == 0


def has_mount_setattr() -> bool:
    """mount_setattr(2): attributes of a mount and all below it (Linux 5.12)."""
    return _answer("mount_setattr", -1, 0, 0, 0, 0) != errno.ENOSYS


def has_detached_copies() -> bool | None:
    """A mount that is in no table can be copied and mounted upon (Linux 6.15)."""
    try:
        with mount.new_filesystem("tmpfs") as fresh, mount.clone_tree("", directory=fresh):
            return True
    except OSError as error:
        return None if error.errno == errno.EPERM else False


def _answer(call: str, *arguments: int) -> int:
    """The errno of a call, 0 if it succeeded."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    return int(ffi.errno) if lib.linux_syscall(getattr(lib, f"SYS_{call}"), *padded) < 0 else 0
