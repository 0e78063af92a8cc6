"""What may be mounted at /proc and below it: a procfs, and the few files that are commonly emulated.

Whatever else stood there, labels would be written to files of a volume, and masks would cover them in
place of the kernel's (CVE-2019-16884, CVE-2019-19921).
"""

from __future__ import annotations

from kernel.fd import Fd
from kernel.filesystem import is_procfs
from runtime.container.options import parse_options
from runtime.errors import InvalidSpec
from runtime.spec import schema

#: What lxcfs and the like put over the kernel's; the list is runc's (libcontainer/rootfs_linux.go, checkProcMount).
EMULATED = frozenset(
    f"/proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"),
        *("sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"),
    )
)


def check_over_proc(index: int, mount: schema.Mount, place: str, opened: Fd | None) -> None:
    """Raise InvalidSpec when *mount*, which goes to *place* once links are followed, hides the kernel's own files.

    *opened* is what will stand there, when that is a mount of the host's.
    """
    place = place.rstrip("/")
    if place != "/proc" and not place.startswith("/proc/"):
        return
    if place in EMULATED:
        return
    is_new = opened is None and mount.type == "proc" and not parse_options(mount.options).is_bind
    if place == "/proc" and (is_new or (opened is not None and is_procfs(opened))):
        return
    raise InvalidSpec(
        f"mounts[{index}].destination {mount.destination}: nothing but a procfs may be mounted over /proc; "
        "mount it elsewhere, /host/proc for example"
    )
