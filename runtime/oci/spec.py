"""``spec``: write a config.json to begin with, runc's own but for the name of the host.

It always has a cgroup namespace: runc leaves that away on a host where version 1 of cgroups is used as well, and
mounting cgroup2 then takes 10 to 15 ms more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kernel.fd import open_path
from runtime.errors import WrongState
from runtime.oci.flags import SWITCH, TEXT
from runtime.oci.request import Request

FLAGS = {"bundle b": TEXT, "rootless": SWITCH}
USAGE = "[--bundle DIR] [--rootless]"
CONFIG = "config.json"
VERSION = "1.3.0"

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MOUNTS = (
    ("/proc", "proc", "proc", ()),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
)
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"),
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def run(request: Request) -> int:
    request.check_count(0)
    path = Path(request.flags.text("bundle") or ".") / CONFIG
    document = example()
    if request.flags.switch("rootless"):
        make_rootless(document, os.geteuid(), os.getegid())
    try:
        with open_path(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666) as file:
            os.write(file.fileno(), json.dumps(document, indent="\t").encode())
    except FileExistsError:
        raise WrongState(f"file {path} exists; remove it first") from None
    return 0


def example() -> dict[str, Any]:
    """A shell on a terminal in namespaces of its own, with the fewest rights that are of use."""
    return {
        "ociVersion": VERSION,
        "process": _process(),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "kernelet",
        "mounts": [_mount(*each) for each in _MOUNTS],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def make_rootless(document: dict[str, Any], uid: int, gid: int) -> None:
    """Change *document* to what a user without rights can have: a user namespace that maps this one, the node's network."""
    linux = document["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "network"] + [{"type": "user"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    del linux["resources"]
    for mount in document["mounts"]:
        if mount["destination"] == "/sys":  # a new sysfs takes rights over the network namespace
            mount.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
        elif "options" in mount:
            mount["options"] = [each for each in mount["options"] if not each.startswith(("uid=", "gid="))]


def _process() -> dict[str, Any]:
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _mount(destination: str, kind: str, source: str, options: tuple[str, ...]) -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = list(options)
    return mount
