"""What this kernel and this machine have of what Kernelet uses, and what the lack of each costs.

The one list of it: ``kernelet doctor`` shows it whole, the daemon says at its start what is lacking (``check``).  Each
probe asks the kernel's own files or makes a call that changes nothing; none goes by a version where it can ask.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernel import bpf, probe
from kernel.capability import CAPABILITIES, sets_of
from kernel.cgroup import Cgroup, find_tree
from kernel.fd import open_path
from kernel.mountinfo import load_mountinfo
from runtime.errors import Unsupported
from runtime.paths import Paths

logger = logging.getLogger(__name__)

#: File systems that cannot hold the writable layer of an overlay: no whiteouts, no trusted attributes.
_UNFIT = ("overlay", "nfs", "nfs4", "cifs", "vfat", "9p", "fuse", "fuseblk")
#: The beginnings of the names of those that are somewhere else.
_REMOTE = ("nfs", "cifs", "smb", "9p", "ceph", "fuse", "glusterfs", "lustre")
#: Where a kubelet has logs written.
_LOGS = Path("/var/log/pods")
#: What a container holds of the monitor's descriptors.
_DESCRIPTORS = 8
_ENOUGH_CONTAINERS = 500


@dataclass(frozen=True, slots=True)
class Facility:
    """One thing that is there, is not, or of which that cannot be said (None).

    *found* is what was seen of it, *cost* what is refused, slower or weaker without it.
    """

    name: str
    has: bool | None
    found: str
    cost: str
    #: Without it the daemon does not start, or no container does.
    is_needed: bool = False


def look(paths: Paths) -> list[Facility]:
    """All of it, in the order in which a person would want to know.  Needs no root, but sees more with it."""
    return [*_rights(), *_controllers(), *_kernel(), *_network(), *_security(), *_machine(paths)]


def lacking(paths: Paths) -> list[Facility]:
    """What is not there."""
    return [facility for facility in look(paths) if facility.has is False]


def check(paths: Paths) -> None:
    """Raise Unsupported if the daemon cannot do its work here at all; say in the log what else is lacking and what it costs."""
    found = lacking(paths)
    fatal = [facility for facility in found if facility.is_needed]
    if fatal:
        lacks = "; ".join(f"{facility.name}: {facility.cost}" for facility in fatal)
        raise Unsupported(f"start: this node (Linux {os.uname().release}) lacks what Kernelet cannot do without: {lacks}")
    for facility in found:
        seen = f" ({facility.found})" if facility.found else ""
        logger.warning("this node lacks %s%s: %s", facility.name, seen, facility.cost)


def _rights() -> Iterator[Facility]:
    effective = sets_of().effective
    missing = [name for name in ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE") if not effective >> CAPABILITIES[name] & 1]
    found = "all" if not missing else f"without {', '.join(missing)}"
    yield Facility("root's rights", not missing, found, "no container can be made", is_needed=True)
    has = bool(effective >> CAPABILITIES["CAP_SYS_RESOURCE"] & 1)
    yield Facility("CAP_SYS_RESOURCE", has, "", "limits above the daemon's own, and an oom_score_adj below it, are refused")


#: Controller, and what its lack costs.
_CONTROLLERS = {
    "cpu": "cpu requests and limits are refused",
    "cpuset": "pinning to processors (static CPU manager) is refused",
    "memory": "memory limits are refused; an OOM is the whole node's, and OOMKilled is never said",
    "pids": "limits on the number of processes are refused: a fork bomb is the whole node's",
    "io": "limits on disk traffic are refused",
    "hugetlb": "limits on huge pages are refused",
}


def _controllers() -> Iterator[Facility]:
    try:
        tree = find_tree()
    except FileNotFoundError:
        yield Facility("cgroup v2", False, "not mounted", "the daemon does not start", is_needed=True)
        return
    root = Cgroup(tree)
    yield Facility("cgroup v2", True, f"at {tree}", "the daemon does not start", is_needed=True)
    there = root.controllers()
    for name, cost in _CONTROLLERS.items():
        elsewhere = "" if name in there else _elsewhere(name)
        yield Facility(f"controller {name}", name in there, elsewhere, cost)
    kill = _in_a_child(tree, "cgroup.kill", None)
    kill = _version() >= (5, 14) if kill is None else kill  # no cgroup is there yet
    yield Facility("cgroup.kill (Linux 5.14)", kill, "", "what a container started cannot be ended", is_needed=True)
    for file, name, of, cost in (
        ("memory.swap.max", "limits on swap", "memory", "swap is not limited: a container may fill it"),
        ("memory.peak", "memory.peak (Linux 5.19)", "memory", "the greatest use of memory is not told"),
        ("hugetlb.2MB.rsvd.max", "limits on reserved huge pages", "hugetlb", "huge pages are counted when touched: SIGBUS"),
        ("io.weight", "weights of disk traffic (iocost)", "io", "io weights are refused"),
    ):
        if of in there:
            yield Facility(name, _in_a_child(tree, file, of), "", cost)
    yield Facility(
        "device rules by BPF", _has_device_programs(root), "", "no container starts: devices cannot be kept from it", True
    )


def _elsewhere(name: str) -> str:
    """Where a controller is that the v2 tree lacks, in so far as can be seen."""
    old = "blkio" if name == "io" else name
    for row in load_mountinfo():
        if row.filesystem == "cgroup" and old in row.super_options:
            return f"taken by cgroup v1 at {row.target}: boot with systemd.unified_cgroup_hierarchy=1"
    return "not in this kernel, or disabled (cgroup_disable=)"


def _in_a_child(tree: Path, file: str, controller: str | None) -> bool | None:
    """Whether a cgroup below the root has *file*; None when there is none that would."""
    for child in tree.iterdir():
        try:
            if child.is_dir() and (controller is None or controller in Cgroup(child).controllers()):
                return (child / file).exists()
        except OSError:  # it went away meanwhile
            continue
    return None


def _has_device_programs(root: Cgroup) -> bool | None:
    try:
        with open_path(root.path, os.O_RDONLY | os.O_DIRECTORY) as file:
            bpf.device_programs(file)
    except OSError as error:
        return None if error.errno in (errno.EPERM, errno.EACCES) else False
    return True


#: What, how to ask for it, and what its lack costs; nothing starts without those before the last.
_ASKED = (
    ("mounts by descriptor (Linux 5.2)", probe.has_mount_calls, "no container has a root"),
    ("paths that stay inside a root (Linux 5.6)", probe.has_openat2, "no path in a container can be followed"),
    ("processes that begin in their cgroup (Linux 5.7)", probe.has_clone_into_cgroup, "no container starts"),
    ("namespaces joined by a pidfd (Linux 5.8)", probe.has_setns_by_pidfd, "nothing can be run in a container"),
    ("ranges of descriptors closed on exec (Linux 5.11)", probe.has_close_on_exec_ranges, "a container would get the node's"),
    ("mounts read-only all the way down (Linux 5.12)", probe.has_mount_setattr, "no container starts"),
    (
        "copies of mounts that are in no table (Linux 6.15)",
        probe.has_detached_copies,
        "containers without a mount namespace of their own are refused; devices take a namespace more to make",
    ),
)
#: Since which Linux, what, and what its lack costs; of what no file and no harmless call tells.
_SINCE = (
    ((5, 19), "id-mapped overlay mounts", "pods with user namespaces are refused"),
    ((6, 3), "id-mapped tmpfs", "a pod with a user namespace has no tmpfs volumes"),
    ((6, 7), "layers handed over one by one", "images with more than some 200 layers are refused"),
)


def _version() -> tuple[int, ...]:
    """The kernel's, to two places."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def _kernel() -> Iterator[Facility]:
    for name, ask, cost in _ASKED:
        yield Facility(name, ask(), "", cost, is_needed=name is not _ASKED[-1][0])
    release = os.uname().release
    for since, name, cost in _SINCE:
        yield Facility(f"{name} (Linux {since[0]}.{since[1]})", _version() >= since, release, cost)
    yield Facility("overlay", _has_filesystem("overlay"), "", "no container has a root", is_needed=True)
    pressure = Path("/proc/pressure/memory").exists()
    yield Facility("pressure (PSI)", pressure, "", "statistics say nothing of stalls; boot with psi=1 where it is built in")
    users = _number("/proc/sys/user/max_user_namespaces")
    yield Facility("user namespaces", users > 0, f"{users} at most", "pods with user namespaces are refused")


def _network() -> Iterator[Facility]:
    cost = "the built-in network makes no pod's network (pods of the host's network and CNI work)"
    for name in ("bridge", "veth", "nf_tables", "nft_masq"):
        yield Facility(f"module {name}", _has_module(name), "", cost)
    for name in ("nft_nat", "nft_fib_ipv4", "nft_ct"):
        yield Facility(f"module {name}", _has_module(name), "", "pods of the built-in network get no ports of the host")
    loaded = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    cost = "a pod does not reach a Service whose endpoint is on its own node: modprobe br_netfilter"
    yield Facility("br_netfilter", loaded.exists(), "", cost)
    yield Facility("IPv6", Path("/proc/net/if_inet6").exists(), "", "pods have IPv4 only")


def _security() -> Iterator[Facility]:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    yield Facility("seccomp filters", actions.exists(), "", "no container starts but with an unconfined profile", is_needed=True)
    apparmor = Path("/sys/module/apparmor/parameters/enabled")
    has = apparmor.exists() and apparmor.read_text().strip() == "Y"
    yield Facility("AppArmor", has, "", "pods that ask for a profile are refused")
    has = Path("/sys/fs/selinux/enforce").exists()
    yield Facility("SELinux", has, "", "pods that ask for a label are refused")


def _machine(paths: Paths) -> Iterator[Facility]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = most // _DESCRIPTORS
    cost = "no more containers than that; raise LimitNOFILE"
    yield Facility("descriptors for containers", room >= _ENOUGH_CONTAINERS, f"for {room} containers", cost)
    place, kind = _file_system_of(paths.root_dir)
    cost = "containers cannot have a writable layer there: set root_dir to a directory on ext4, xfs or btrfs"
    fit = kind not in _UNFIT and not kind.startswith("fuse.")
    yield Facility("a file system for layers", fit, f"{place}: {kind}", cost, is_needed=True)
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    enough = free > status.f_blocks * status.f_frsize * 0.15
    cost = "a kubelet evicts pods and removes images when less than 15 % is free"
    yield Facility("room for images", enough, f"{free / 1e9:.1f} GB free in {place}", cost)
    place, kind = _file_system_of(_LOGS)
    cost = "a server that hangs stops the logs of all containers (runtime/monitor/log_file.py)"
    yield Facility("a local disk for logs", not kind.startswith(_REMOTE), f"{place}: {kind}", cost)


def _file_system_of(path: Path) -> tuple[Path, str]:
    """What of *path* is there, and the kind of file system that it is on."""
    place = next(parent for parent in (path, *path.parents) if parent.exists())
    rows = [row for row in load_mountinfo() if place.is_relative_to(row.target)]
    return place, max(rows, key=lambda row: (len(row.target), row.mount_id)).filesystem


def _has_filesystem(name: str) -> bool | None:
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    return True if name in known else _has_module(name)


def _has_module(name: str) -> bool | None:
    """Whether the kernel has it, built in, loaded or to be loaded; None when nothing here tells."""
    if Path("/sys/module", name).exists():
        return True
    known = _modules(os.uname().release)
    return None if known is None else name in known


@cache
def _modules(release: str) -> frozenset[str] | None:
    """The modules that /lib/modules has for *release*; None when it has none."""
    names: set[str] = set()
    for file, end in (("modules.builtin", "\n"), ("modules.dep", ":")):
        try:
            lines = Path("/lib/modules", release, file).read_text().splitlines()
        except OSError:
            return None
        paths = (line.partition(end)[0] for line in lines)
        names |= {path.rpartition("/")[2].partition(".ko")[0].replace("-", "_") for path in paths}
    return frozenset(names)


def _number(file: str) -> int:
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):
        return 0
