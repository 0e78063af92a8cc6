"""One test run sees a node of its own: namespaces, the cgroup tree, a directory.

pytest itself moves in, before the first test, so that every process it starts is inside as well:

    mount     private; a fresh /sys (it shows the links of its mounter's network namespace) and, bound
              over /sys/fs/cgroup, the run's own directory of the v2 hierarchy: here every host looks pure v2
    network   loopback only: a forgotten bridge or table goes with the run and meets no other run
    ipc, uts  a test may set the host name
    cgroup    the run's directory is the root; pytest itself sits below it in /pytest, because a cgroup
              with processes cannot hand controllers to its children

pytest is also the subreaper: a daemon's orphans become its children, where the audit (``leaks``) finds them.
What a run that was killed left behind is swept by the next one.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from kernel import mount
from kernel._linux import lib
from kernel.errors import check
from kernel.fd import open_path
from kernel.filesystem import remove_tree
from kernel.mountinfo import load_mountinfo
from tests.support import cgroup

#: This node is the run's alone, a guest that was booted for it, and what is tested is the node: its service manager.
IS_WHOLE_NODE = os.environ.get("KERNELET_WHOLE_NODE") == "1"

PREFIX = "kernelet-test-"
TOP = Path("/tmp")
NAMESPACES = lib.CLONE_NEWNS | lib.CLONE_NEWNET | lib.CLONE_NEWIPC | lib.CLONE_NEWUTS | lib.CLONE_NEWCGROUP

#: File systems below /sys that programs ask about security modules and BPF; moved over to the fresh /sys.
KEPT_BELOW_SYS = ("/sys/kernel/security", "/sys/fs/selinux", "/sys/fs/bpf", "/sys/kernel/debug", "/sys/kernel/tracing")

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


@dataclass(frozen=True, slots=True)
class Run:
    """What belongs to one run of pytest."""

    directory: Path
    bridge: str
    subnet: IPv4Network
    is_isolated: bool


@contextmanager
def isolated() -> Iterator[Run]:
    """Move this process into a node of its own; at the end kill, unmount and remove all that is left there.

    Without root only the directory is private.  The namespaces end with the process.
    """
    name = f"{PREFIX}{os.getpid()}-{time.time_ns():x}"
    with ExitStack() as undo:
        undo.enter_context(_claimed(TOP, name, _sweep))
        directory = TOP / name
        undo.callback(_remove, directory)
        is_root = os.geteuid() == 0
        if is_root:
            check(lib.prctl(lib.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
            undo.callback(_unmount_below, directory)
            if not IS_WHOLE_NODE:
                undo.enter_context(_own_node(name))
        yield Run(directory, f"klt{os.getpid()}", IPv4Network(f"10.{os.getpid() % 250}.0.0/16"), is_root)


@contextmanager
def _claimed(parent: Path, name: str, remove: Callable[[Path], None]) -> Iterator[None]:
    """The new directory *name* in *parent*, locked while it is ours; what runs that were killed left there is removed.

    A lock tells the living from the dead also across process id namespaces, where ids do not.
    """
    with open_path(TOP, os.O_DIRECTORY) as gate:
        fcntl.flock(gate.fileno(), fcntl.LOCK_EX)  # so that nobody sees ours before it is locked
        for left in parent.glob(f"{PREFIX}*"):
            if _is_abandoned(left):
                remove(left)
        (parent / name).mkdir(mode=0o700)
        claim = open_path(parent / name, os.O_DIRECTORY)
        fcntl.flock(claim.fileno(), fcntl.LOCK_EX)
    with claim:
        yield


def _remove(directory: Path) -> None:
    """All of it, however deep: a test may nest directories deeper than Python recurses, or a path can say."""
    with open_path(directory.parent, os.O_DIRECTORY) as parent:
        remove_tree(parent, directory.name)


def _sweep(directory: Path) -> None:
    """As much of it as there are rights to: what another run left is no reason to fail this one."""
    with suppress(OSError):
        _remove(directory)


def _is_abandoned(directory: Path) -> bool:
    try:
        with open_path(directory, os.O_DIRECTORY | os.O_NOFOLLOW) as opened:
            if os.fstat(opened.fileno()).st_uid != os.geteuid():
                return False
            fcntl.flock(opened.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError, PermissionError):
        return False
    return True


@contextmanager
def _own_node(name: str) -> Iterator[None]:
    hierarchy = cgroup.find_hierarchy()
    with ExitStack() as undo:
        if hierarchy is not None:
            tree = undo.enter_context(_own_cgroup(hierarchy, name))
            _move_into(tree)  # the cgroup we are in when the namespace is made becomes its root
        check(lib.unshare(NAMESPACES), "unshare")
        mount.set_propagation("/", "private", recursive=True)
        if hierarchy is not None:
            _move_into(tree / "pytest")
        _replace_sys(None if hierarchy is None else hierarchy / name)
        bring_loopback_up()
        yield


@contextmanager
def _own_cgroup(hierarchy: Path, name: str) -> Iterator[Path]:
    # Opened in the host's cgroup namespace: through these the end of the run gets out of its own.
    above = open_path(hierarchy, os.O_PATH | os.O_DIRECTORY)
    home = open_path(hierarchy / cgroup.own_path() / "cgroup.procs", os.O_WRONLY)
    host = open_path("/proc/self/ns/cgroup")
    outside = Path(f"/proc/self/fd/{above.fileno()}")
    with above, home, host, _claimed(outside, name, cgroup.remove):
        tree = outside / name
        tree.chmod(0o755)  # the root of a user namespace that mounts the tree walks here, as whoever it is outside
        (tree / "pytest").mkdir()
        try:
            yield tree
        finally:
            check(lib.setns(host.fileno(), lib.CLONE_NEWCGROUP), "setns")  # nsdelegate: no write to a root from inside it
            os.write(home.fileno(), b"0")
            cgroup.remove(tree)


def _replace_sys(tree: Path | None) -> None:
    """Put a fresh sysfs on /sys and *tree* on its /sys/fs/cgroup; the host's mounts there vanish from our view."""
    mounted = {row.target for row in load_mountinfo()}
    moved = {target: mount.clone_tree(target, recursive=True) for target in KEPT_BELOW_SYS if target in mounted}
    if tree is not None:
        moved[str(cgroup.ROOT)] = mount.clone_tree(tree)
    while any(row.target == "/sys" for row in load_mountinfo()):
        mount.unmount("/sys")
    with mount.new_filesystem("sysfs") as fresh:
        mount.attach(fresh, "/sys")
    for target, held in moved.items():
        with held:
            mount.attach(held, target)


def bring_loopback_up() -> None:
    """Set "lo" of this network namespace up; a new one has it down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | IFF_UP))


def _move_into(group: Path) -> None:
    (group / "cgroup.procs").write_text("0")


def _unmount_below(directory: Path) -> None:
    for row in reversed(load_mountinfo()):
        if row.target == str(directory) or row.target.startswith(f"{directory}/"):
            mount.unmount(row.target)
