"""What a test needs, in one vocabulary: ``@requires("root", "cgroup2", "kernel 5.12")``.

On a developer's machine an unmet requirement skips the test and names the word.  In CI (``CI=true``)
it fails, because a skip there would be a test that nobody runs; ``EXCUSED`` lists the exceptions.  A
word that is not in ``VOCABULARY`` is a bug of the test and fails always.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support import cgroup

TREE = Path(__file__).resolve().parents[2]
SEARCH = os.pathsep.join([str(TREE / ".venv/bin"), os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])

#: Debian's directory of CNI plugins first, then upstream's.
CNI_DIRECTORIES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))

#: Where make test installs what the tests have of npm's.
NODE_MODULES = TREE / "build/node/node_modules"

#: Words that are programs to be found.
PROGRAMS = tuple(
    (
        "aarch64-linux-gnu-gcc busybox conmon containerd crictl crun ctr docker-registry go "
        "ip iptables kernelet-oci newuidmap nft nginx node podman runc strace stty"
    ).split()
)

#: Capability numbers (linux/capability.h) that a sandboxed machine is known to hold back from root.
CAPABILITIES = {"net_admin": 12, "sys_module": 16, "sys_admin": 21, "sys_nice": 23, "sys_resource": 24, "sys_time": 25, "bpf": 39}


def requires(*words: str) -> pytest.MarkDecorator:
    """Mark a test, a class or (``pytestmark = requires(...)``) a module with what it needs."""
    return pytest.mark.requires(*words)


def enforce(words: tuple[str, ...]) -> None:
    """Return when every word is met; skip or fail the running test otherwise.  For fixtures, too."""
    for word in words:
        name = word.split()[0]
        if name not in VOCABULARY:
            pytest.fail(f"BUG: unknown requirement: {word}", pytrace=False)
        if is_met(word):
            continue
        if os.environ.get("CI") == "true" and not excuse(name):
            pytest.fail(f"requires {word}, which a CI machine must have (or EXCUSED must say why not)", pytrace=False)
        pytest.skip(f"requires {word}")


@cache
def is_met(word: str) -> bool:
    """Whether this machine has what *word* names."""
    name, *arguments = word.split()
    return VOCABULARY[name](*arguments)


def excuse(name: str) -> str | None:
    """Why even a CI machine may lack *name*; None when it may not."""
    if name == "crictl" and is_met("go"):
        return None  # make test installs it with Go
    if name == "kernel" and os.environ.get("KERNELET_VM") == "1":
        return "a guest has an older kernel on purpose"
    if name == "spdy-transport" and shutil.which("npm"):
        return None  # and this with npm
    return EXCUSED.get(name)


def program(name: str) -> str:
    """The path of a program that the test requires."""
    return shutil.which(name, path=SEARCH) or pytest.fail(f"BUG: {name} is used without being required")


def cni_directory() -> Path | None:
    """Where the reference CNI plugins are installed."""
    return next((directory for directory in CNI_DIRECTORIES if (directory / "bridge").exists()), None)


def _has_kernel(version: str) -> bool:
    release = platform.release().split("-")[0].split(".")
    return tuple(map(int, release[:2])) >= tuple(map(int, version.split(".")[:2]))


def _has_controllers(*names: str) -> bool:
    available = cgroup.ROOT / "cgroup.controllers"
    return available.exists() and set(names) <= set(available.read_text().split())


def _has_capability(name: str) -> bool:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> CAPABILITIES[name] & 1)


def _has_filesystem(name: str) -> bool:
    return name in Path("/proc/filesystems").read_text().split()


def _has_apparmor() -> bool:
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    return enabled.exists() and enabled.read_text().strip() == "Y"


def _has_id_mapping() -> bool:
    """Whether owners of files of the file system that tests use can be seen through a user namespace, layer by layer."""
    from kernel import mount
    from runtime.container import userns
    from runtime.spec.schema import IdMapping

    ids = [IdMapping(container_id=0, host_id=100_000, size=65536)]
    try:
        with userns.make(ids, ids) as users, mount.clone_tree("/tmp") as files:
            mount.set_attributes(files, user_namespace=users)
    except OSError:
        return False
    return _has_kernel("5.19")


VOCABULARY: dict[str, Callable[..., bool]] = {
    "root": lambda: os.geteuid() == 0,
    "cgroup2": (cgroup.ROOT / "cgroup.controllers").exists,
    "kernel": _has_kernel,
    "controllers": _has_controllers,
    "capability": _has_capability,
    "filesystem": _has_filesystem,
    "id-mapping": _has_id_mapping,
    "machine": lambda name: platform.machine() == name,
    "apparmor": _has_apparmor,
    "selinux": Path("/sys/fs/selinux/enforce").exists,
    "ipv6": Path("/proc/net/if_inet6").exists,
    "deb": lambda: "KERNELET_DEB" in os.environ,
    "spdy-transport": (NODE_MODULES / "spdy-transport").is_dir,
    "cni-plugins": lambda: cni_directory() is not None,
    **{name: lambda name=name: shutil.which(name, path=SEARCH) is not None for name in PROGRAMS},
}

#: What a CI machine may lack, and why a skip is right there.  Nothing else may be missing.
EXCUSED = {
    "apparmor": "a security module of the kernel: CI's is built without it",
    "selinux": "a security module of the kernel: CI's is built without it",
    "controllers": "on a hybrid host the v1 hierarchies hold them, and nobody may take them away",
    "capability": "CI's machine holds some back from root (CAP_SYS_RESOURCE)",
    "deb": "make test-deb makes the package and runs its tests",
    "node": "a foreign client for the streams; the tests' own covers the same",
    "spdy-transport": "installed with npm; excused only where there is none",
    "go": "not among Debian 12's packages in a version that builds today's crictl",
    "crictl": "built with Go; excused only where there is none",
}
