"""``python -I -m runtime.monitor RUN_DIR``: one per node, outlives the daemon, may die at any time.

Imports the standard library and kernel/ only: what is not imported need not be kept in memory for
the life of every container (8.6 MB in all for 200 of them; one shim each would be 455).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path

from kernel import mount, namespace, process
from kernel.fd import Fd, open_path
from kernel.mountinfo import load_mountinfo
from runtime.monitor.server import Monitor


def main() -> None:
    run_dir = Path(sys.argv[1])
    process.set_name("kernelet-mon")
    os.chdir("/")
    ignore_the_terminal()
    lock = take_lock(run_dir / "monitor.lock")
    monitor = Monitor(run_dir, listen(run_dir / "monitor.sock"))
    leave_the_hosts_mounts(run_dir)
    monitor.run()
    lock.close()


def ignore_the_terminal() -> None:
    """A ^C at the daemon's terminal is for the daemon."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def take_lock(path: Path) -> Fd:
    """The lock that one monitor of a run directory holds; waits for a predecessor that is ending."""
    lock = open_path(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
    return lock


def leave_the_hosts_mounts(run_dir: Path, *also: str) -> None:
    """Keep only the mounts that this process itself needs, and *also* some, in a mount namespace of its own.

    Each container's init begins with a copy of this table: 1,000 mounts cost 1.3 ms a launch, and
    would keep every one of the host's file systems busy.  In a user namespace procfs and sysfs can only be made where
    they can be seen in full already (mount_too_revealing in fs/namespace.c), so these stay.
    """
    namespace.unshare(namespace.FLAGS["mnt"])
    mount.set_propagation("/", "private", recursive=True)
    needed = {"/proc", "/sys", __file__, *also, *(os.path.realpath(path) for path in (run_dir, sys.prefix, sys.base_prefix))}
    table = load_mountinfo()
    keep = {
        max((row for row in table if _contains(row.target, path)), key=lambda row: (len(row.target), row.mount_id)).mount_id
        for path in needed
    }
    parents = {row.mount_id: row.parent_id for row in table}
    for mount_id in tuple(keep):
        while (mount_id := parents.get(mount_id, 0)) in parents:
            keep.add(mount_id)
    for row in reversed(table):
        if row.mount_id not in keep and row.target != "/":
            with contextlib.suppress(OSError):  # below one that went already
                mount.unmount(row.target)


def _contains(directory: str, path: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def listen(path: Path) -> socket.socket:
    """The socket for daemons, for the owner alone."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.umask(0o077)
    listener.bind(os.fspath(path))
    listener.listen(8)
    return listener


if __name__ == "__main__":
    main()
