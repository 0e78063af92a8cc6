"""Capabilities (capabilities(7)): names and numbers, and the five sets of a process or of this thread.

A set is an int with bit N for capability number N, as /proc/PID/status writes it.  All calls that
change something change the calling thread only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernel._linux import ffi, lib
from kernel.errors import check

#: By number, in the order of linux/capability.h; the kernel only ever appends.
_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
    SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
    AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
    CHECKPOINT_RESTORE
"""

CAPABILITIES: dict[str, int] = {f"CAP_{name}": number for number, name in enumerate(_NAMES.split())}

_STATUS_LINE = re.compile(r"^Cap(Inh|Prm|Eff|Bnd|Amb):\s*([0-9a-f]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sets:
    """The five sets of one thread, as bits."""

    effective: int
    permitted: int
    inheritable: int
    bounding: int
    ambient: int


def parse_capability(text: str) -> int:
    """The number of ``CAP_NET_RAW`` or ``NET_RAW``, in any case; raises ValueError for a name nobody knows."""
    name = text.upper()
    number = CAPABILITIES.get(name, CAPABILITIES.get(f"CAP_{name}"))
    if number is None:
        raise ValueError(f"unknown capability {text!r}")
    return number


def mask_of(names: Iterable[str]) -> int:
    """The bits of *names*; raises ValueError for an unknown one."""
    mask = 0
    for name in names:
        mask |= 1 << parse_capability(name)
    return mask


def names_of(mask: int) -> tuple[str, ...]:
    """The names of the bits in *mask*, by number; a bit that is newer than this file reads ``CAP_41``."""
    known = tuple(CAPABILITIES)
    return tuple(
        known[number] if number < len(known) else f"CAP_{number}" for number in range(mask.bit_length()) if mask >> number & 1
    )


@cache
def last_capability() -> int:
    """The highest number this kernel knows; it stays the same until the next boot."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def sets_of(pid: int | str = "thread-self") -> Sets:
    """The sets of process *pid*, from its status; raises OSError when there is no such process."""
    found = dict(_STATUS_LINE.findall(Path(f"/proc/{pid}/status").read_text(errors="surrogateescape")))
    inheritable, permitted, effective, bounding, ambient = (int(found[key], 16) for key in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    return Sets(effective, permitted, inheritable, bounding, ambient)


def read_sets() -> tuple[int, int, int]:
    """The effective, permitted and inheritable set of this thread (capget(2))."""
    data = ffi.new("uint32_t[6]")
    check(lib.linux_capget(lib._LINUX_CAPABILITY_VERSION_3, 0, data), "capget")
    low, high = data[0:3], data[3:6]
    effective, permitted, inheritable = (int(low[which]) | int(high[which]) << 32 for which in range(3))
    return effective, permitted, inheritable


def set_sets(*, effective: int, permitted: int, inheritable: int) -> None:
    """Make these the sets of this thread (capset(2)); raises PermissionError for a bit that may not be gained."""
    masks = (effective, permitted, inheritable)
    data = ffi.new("uint32_t[6]", [mask & 0xFFFFFFFF for mask in masks] + [mask >> 32 for mask in masks])
    check(lib.linux_capset(lib._LINUX_CAPABILITY_VERSION_3, 0, data), "capset")


def limit_bounding(keep: int) -> None:
    """Drop from the bounding set all that is not in *keep*; raises PermissionError without CAP_SETPCAP.

    What is already gone stays gone and costs no privilege.
    """
    import prctl  # slow to import, and nobody who only composes programs calls this

    for number in range(last_capability() + 1):
        if not keep >> number & 1 and prctl.capbset_read(number):
            prctl.capbset_drop(number)


def set_ambient(mask: int) -> None:
    """Make *mask* the ambient set; raises PermissionError for a bit that is not both permitted and inheritable."""
    check(lib.prctl(lib.PR_CAP_AMBIENT, lib.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    for number in range(mask.bit_length()):
        if mask >> number & 1:
            check(lib.prctl(lib.PR_CAP_AMBIENT, lib.PR_CAP_AMBIENT_RAISE, number, 0, 0), "prctl")
