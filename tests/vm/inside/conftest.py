"""A container by ``kernelet-oci`` or by the daemon, and its cgroup, in which the kernel keeps its own account."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
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

_numbers = itertools.count(1)


class Limited:
    """Containers by the command line, each in a cgroup that is there until it is deleted."""

    def __init__(self, command_line: CommandLine) -> None:
        self.command_line = command_line

    def run(self, script: str, *, shares_pids: bool = False, mounts: tuple[Config, ...] = (), **resources: Any) -> Container:
        """A container that runs *script* with *resources*, started; in the guest's pid namespace if it *shares_pids*."""
        name = f"c{next(_numbers)}"

        def change(config: Config) -> None:
            linux = config["linux"]
            linux["cgroupsPath"] = f"/{PARENT}/{name}"
            linux["resources"].update(resources)
            config["mounts"] += mounts
            if shares_pids:
                linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "pid"]

        self.command_line.configure("sh", "-c", script, change=change)
        pid_file = self.command_line.bundle / f"{name}.pid"
        self.command_line.call("run", "--detach", "--pid-file", str(pid_file), name)
        return Container(name, int(pid_file.read_text()), Cgroup(cgroup.ROOT / PARENT / name))


class Container:
    """One of them: its init is our child, for pytest is the subreaper."""

    def __init__(self, name: str, pid: int, group: Cgroup) -> None:
        self.name = name
        self.pid = pid
        self.cgroup = group

    def finish(self, seconds: float = 60) -> int:
        """Wait for the end of its init; the exit code as a shell says it."""
        wait.until(lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, seconds, "the end")
        _, status = os.waitpid(self.pid, 0)
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


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
        return self.run_pod(self.pod_config(hostname="", linux=api.LinuxPodSandboxConfig(security_context=context)))

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
def node(call: Client, tmp_path: Path) -> Node:
    return Node(call, tmp_path / "logs", "docker.io/library/busybox:latest")
