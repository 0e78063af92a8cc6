"""Bundles made on the spot: busybox in a directory, and a config.json that each test changes to what it is about.

The document is plain JSON data in the spec's own spelling: what is tested is not used to make the tests.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tests.support.image import BUSYBOX, GROUP, PASSWD

Config = dict[str, Any]

DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var", "data")
APPLETS = (
    *("cat", "df", "echo", "env", "false", "grep", "head", "hostname", "id", "ip", "kill", "ls", "mkdir", "printf", "ps"),
    *("pwd", "readlink", "rm", "sed", "sh", "sleep", "sort", "stat", "stty", "tail", "test", "touch", "tr", "true", "tty"),
    *("uname", "wc"),
)
PATH = "PATH=/usr/local/bin:/usr/bin:/bin"

#: What an ordinary container may; none of them is held back from this machine's root.
CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID")
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


def make_rootfs(rootfs: Path, busybox: Path) -> None:
    """A small Linux in the new directory *rootfs*; its programs are hard links to *busybox*."""
    for name in DIRECTORIES:
        (rootfs / name).mkdir(parents=True)
    (rootfs / "tmp").chmod(0o1777)
    for name in ("busybox", *APPLETS):
        os.link(busybox, rootfs / "bin" / name)
    (rootfs / "etc/passwd").write_text(PASSWD)
    (rootfs / "etc/group").write_text(GROUP)


def copy_busybox(directory: Path) -> Path:
    """A copy on the bundles' file system, for hard links."""
    copied = directory / "busybox"
    shutil.copy(BUSYBOX, copied)
    copied.chmod(0o755)
    return copied


def ordinary() -> Config:
    """The config.json of an ordinary container, in the version of the spec that all runtimes here accept."""
    capabilities = list(CAPABILITIES)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": [PATH],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "conformance",
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in NAMESPACES]},
    }


def mount(destination: str, kind: str, options: list[str] | None = None, source: str = "") -> Config:
    """One of a config's mounts."""
    return {"destination": destination, "type": kind, "source": source or kind, "options": options or []}


def bind(source: Path | str, destination: str, *options: str) -> Config:
    """A bind mount."""
    return mount(destination, "bind", ["bind", *options], str(source))


def namespace(config: Config, kind: str) -> Config:
    """The entry for the namespace *kind*, added when it is not there."""
    namespaces: list[Config] = config["linux"]["namespaces"]
    found = next((each for each in namespaces if each["type"] == kind), None)
    if found is None:
        found = {"type": kind}
        namespaces.append(found)
    return found


def without_namespace(config: Config, *kinds: str) -> None:
    """Take the namespaces *kinds* out of *config*."""
    linux = config["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] not in kinds]


def map_ids(config: Config, first: int = 100000, size: int = 65536) -> None:
    """Give *config* a user namespace in which 0 is the host's *first*."""
    namespace(config, "user")
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind] = [{"containerID": 0, "hostID": first, "size": size}]
