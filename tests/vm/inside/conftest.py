"""A container by ``kernelet-oci`` or by the daemon, and its cgroup, in which the kernel keeps its own account.

What only the machine can have is there, too: a directory on the root disk, swap, pages of 2 MiB.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.api import api_pb2 as api
from kernel.cgroup import Cgroup
from runtime.paths import Paths
from tests.cri.serving import store_busybox
from tests.e2e.conftest import call, daemon
from tests.e2e.kubelet import Kubelet
from tests.support import cgroup, wait
from tests.support.client import Client
from tests.support.oci import CommandLine, Config, make_bundle

__all__ = ["call", "daemon"]  # fixtures of the end-to-end tests, of use here too

PARENT = "limits"
MIB = 1 << 20
#: 64 MiB that are written to, by a process of its own.
HOG = "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null"
SPIN = "while :; do :; done"
#: Twenty at once; the shell that cannot fork ends, the init stays.
TWENTY = "(for i in $(seq 20); do sleep 1000 & done); exec sleep 1000"
#: Each process makes two more, and ends: no list of processes is ever right.  One that stays is beside them.
BOMB = "sleep 1000 & bomb() { bomb | bomb & }; (bomb) & exec sleep 1000"

_numbers = itertools.count(1)


class Limited:
    """Containers by the command line, each in a cgroup that is there until it is deleted."""

    def __init__(self, command_line: CommandLine) -> None:
        self.command_line = command_line

    def run(
        self,
        script: str,
        *,
        shares_pids: bool = False,
        mounts: tuple[Config, ...] = (),
        change: Callable[[Config], object] = lambda config: None,
        **resources: Any,
    ) -> Container:
        """A container that runs *script* with *resources*, started; in the guest's pid namespace if it *shares_pids*.

        *change* may do more to its config.json.
        """
        name = self.configure(script, shares_pids=shares_pids, mounts=mounts, change=change, **resources)
        pid_file = self.command_line.bundle / f"{name}.pid"
        self.command_line.call("run", "--detach", "--pid-file", str(pid_file), name)
        return Container(self.command_line, name, int(pid_file.read_text()), Cgroup(cgroup.ROOT / PARENT / name))

    def open_to_all(self) -> None:
        """Let the bundle be reached by a root that is nobody outside, and its cgroup, which a mount of the tree walks to."""
        for directory in (cgroup.ROOT, self.command_line.bundle, *self.command_line.bundle.parents):
            if directory != Path("/"):
                directory.chmod(0o755)

    def refusal(self, script: str, **wishes: Any) -> str:
        """What is said of a container that must not start."""
        return self.command_line.refusal("run", "--detach", self.configure(script, **wishes))

    def configure(
        self,
        script: str,
        *,
        shares_pids: bool = False,
        mounts: tuple[Config, ...] = (),
        change: Callable[[Config], object] = lambda config: None,
        **resources: Any,
    ) -> str:
        """Write its config.json; the name that it is to have."""
        name = f"c{next(_numbers)}"

        def write(config: Config) -> None:
            linux = config["linux"]
            linux["cgroupsPath"] = f"/{PARENT}/{name}"
            linux["resources"].update(resources)
            config["mounts"] += mounts
            if shares_pids:
                linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "pid"]
            change(config)

        self.command_line.configure("sh", "-c", script, change=write)
        return name


class Container:
    """One of them: its init is our child, for pytest is the subreaper."""

    def __init__(self, command_line: CommandLine, name: str, pid: int, group: Cgroup) -> None:
        self.command_line = command_line
        self.name = name
        self.pid = pid
        self.cgroup = group

    def finish(self, seconds: float = 60) -> int:
        """Wait for the end of its init; the exit code as a shell says it."""
        wait.until(lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, seconds, "the end")
        _, status = os.waitpid(self.pid, 0)
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def update(self, **resources: Any) -> None:
        self.command_line.call("update", "--resources", "-", self.name, given=json.dumps(resources))

    def execute(self, script: str) -> str:
        """What *script* says in it, on either stream."""
        done = self.command_line.call("exec", self.name, "sh", "-c", script, may_fail=True)
        return done.stdout + done.stderr

    def status(self, field: str) -> str:
        """A line of its init's /proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}:"))


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on the root disk: the rest is in memory, where nothing is throttled, and no cache is given back."""
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    yield made
    shutil.rmtree(made)


def bind(source: Path, destination: str = "/data") -> Config:
    """A directory of the guest's as a mount of a container."""
    return {"destination": destination, "source": str(source), "type": "bind", "options": ["bind", "rw"]}


@pytest.fixture
def swap(disk: Path) -> Iterator[None]:
    """128 MiB of it, on the root disk."""
    file = disk / "swap"
    with file.open("wb") as opened:
        for _ in range(128):
            opened.write(bytes(MIB))  # piece by piece: a page of User Mode Linux is a mapping, and these are numbered
    file.chmod(0o600)
    subprocess.run(["mkswap", file], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swapon", file], check=True)
    yield
    subprocess.run(["swapoff", file], check=True)


@pytest.fixture
def huge_pages() -> Iterator[int]:
    """Eight of 2 MiB, of which nobody has one; their number."""
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    pool.write_text("8")
    assert int(pool.read_text()) == 8
    yield 8
    pool.write_text("0")


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Limited]:
    make_bundle(tmp_path / "bundle")
    command_line = CommandLine(tmp_path / "state", tmp_path / "bundle")
    yield Limited(command_line)
    command_line.delete_all()
    cgroup.remove(cgroup.ROOT / PARENT)


@pytest.fixture
def paths(paths: Paths) -> Paths:
    """With busybox on the node: there is no registry in a guest."""
    store_busybox(paths)
    return paths


class Node(Kubelet):
    """A kubelet whose pods have the guest's network: User Mode Linux has no tables for ours."""

    def pod(self, **options: Any) -> str:
        chosen = api.NamespaceOption(network=api.NODE, pid=options.pop("pid", api.CONTAINER))
        context = api.LinuxSandboxSecurityContext(namespace_options=chosen, seccomp=api.SecurityProfile())
        linux = api.LinuxPodSandboxConfig(cgroup_parent=options.pop("parent", ""), security_context=context)
        return self.run_pod(self.pod_config(hostname="", linux=linux))

    def limited(self, pod_id: str, script: str, pid: api.NamespaceMode = api.CONTAINER, **resources: Any) -> str:
        """The id of a container that is to run *script* with *resources*; not started."""
        chosen = api.NamespaceOption(network=api.NODE, pid=pid)
        context = api.LinuxContainerSecurityContext(namespace_options=chosen, seccomp=api.SecurityProfile())
        linux = api.LinuxContainerConfig(resources=api.LinuxContainerResources(**resources), security_context=context)
        return self.create(pod_id, self.container_config(["sh", "-c", script], linux=linux))

    def cgroup(self, pod_id: str, container_id: str = "") -> Cgroup:
        """The container's, which goes when it ends, or its pod's, which then still has the sums."""
        return Cgroup(cgroup.ROOT / "kernelet" / pod_id / container_id)


@pytest.fixture
def node(call: Client, tmp_path: Path) -> Iterator[Node]:
    node = Node(call, tmp_path / "logs", "docker.io/library/busybox:latest")
    yield node
    node.call.close()  # perhaps another than at first
