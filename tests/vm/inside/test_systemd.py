"""The cgroup driver "systemd": the daemon as a service, pods as scopes, and systemd doing to both what it does on a node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from kernel.cgroup import Cgroup
from runtime.cgroups import scope_of
from runtime.cgroups.bus import SYSTEM
from runtime.cgroups.message import Variant
from runtime.cgroups.units import Manager, slice_properties
from runtime.paths import Paths
from tests.e2e.conftest import call
from tests.e2e.kubelet import Kubelet, kept
from tests.support import cgroup
from tests.support.client import Client
from tests.support.daemon import Daemon
from tests.support.isolation import Run
from tests.vm.inside.conftest import HOG, MIB, Node

__all__ = ["call"]

UNIT = "kernelet-test.service"
#: As the unit that a package brings: what a stop ends is the daemon alone.
SERVICE = """[Service]
Type=notify
ExecStart={command}
Delegate=yes
KillMode=process
"""


class Service(Daemon):
    """The daemon as a unit of systemd."""

    def start(self) -> None:
        command = f"{sys.executable} -m cri serve --config {self._config}"
        unit = Path("/run/systemd/system", UNIT)
        unit.write_text(SERVICE.format(command=command) + f"StandardError=append:{self.log}\n")
        systemctl("daemon-reload")
        systemctl("start", UNIT)
        self._process = None

    @property
    def pid(self) -> int:
        return int(show(UNIT, "MainPID"))

    def stop(self) -> int:
        systemctl("stop", UNIT)
        return int(show(UNIT, "ExecMainStatus"))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        subprocess.run(["systemctl", "stop", UNIT], check=True)

    @property
    def is_running(self) -> bool:
        return show(UNIT, "ActiveState") == "active"


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"systemctl {words}: {done.stdout}"
    return done.stdout


def show(unit: str, name: str) -> str:
    """One property."""
    return systemctl("show", "--property", name, "--value", unit).strip()


def units() -> set[str]:
    """The scopes of ours that systemd knows."""
    lines = systemctl("list-units", "--all", "--plain", "--no-legend", "kernelet-*.scope").splitlines()
    return {line.split()[0] for line in lines}


@pytest.fixture
def daemon(paths: Paths, run: Run) -> Iterator[Service]:
    daemon = Service(paths, run)
    dropins = daemon._config.with_name(f"{daemon._config.name}.d")
    dropins.mkdir()
    (dropins / "10-driver.toml").write_text('cgroup_driver = "systemd"\n')
    daemon.start()
    yield daemon
    if not daemon.is_running:
        daemon.start()
    with daemon.client() as client:
        Kubelet(client, paths.run_dir, "").clear()
    left = kept(paths)
    assert daemon.stop() == 0, daemon.log.read_text()[-3000:]
    assert {place: names for place, names in left.items() if names} == {}
    assert "Traceback" not in daemon.log.read_text()
    assert units() == set()
    assert not Path("/sys/fs/cgroup/kernelet.slice").exists()


@pytest.fixture
def node(call: Client, tmp_path: Path) -> Iterator[Pods]:
    node = Pods(call, tmp_path / "logs", "docker.io/library/busybox:latest")
    yield node
    node.call.close()


class Pods(Node):
    """A kubelet that knows where systemd puts things."""

    def pod_in(self, parent: str) -> str:
        chosen = api.NamespaceOption(network=api.NODE, pid=api.POD)
        context = api.LinuxSandboxSecurityContext(namespace_options=chosen, seccomp=api.SecurityProfile())
        linux = api.LinuxPodSandboxConfig(security_context=context, cgroup_parent=parent)
        return self.run_pod(self.pod_config(hostname="", linux=linux))

    def cgroup(self, pod_id: str, container_id: str = "", parent: str = "/kernelet.slice") -> Cgroup:
        return Cgroup(Path(f"{cgroup.ROOT}{parent}/{scope_of(pod_id)}") / container_id)


def test_the_driver_is_said_to_a_kubelet(node: Pods) -> None:
    answer = node.call(api.RuntimeConfigRequest())
    assert answer.linux.cgroup_driver == api.SYSTEMD


def test_a_pod_is_a_scope_and_its_containers_are_in_it(node: Pods) -> None:
    pod = node.pod()
    container = node.limited(pod, "exec sleep 1000", memory_limit_in_bytes=20 * MIB, unified={"pids.max": "50"})
    node.start(container)
    assert units() == {scope_of(pod)}
    assert (show(scope_of(pod), "ActiveState"), show(scope_of(pod), "Delegate")) == ("active", "yes")
    group = node.cgroup(pod, container)
    assert (group.number("memory.max"), group.number("pids.max"), len(group.processes())) == (20 * MIB, 50, 1)
    assert node.execute(container, "cat", "/proc/self/cgroup").stdout.startswith(b"0::/")
    node.remove_pod(pod)
    assert units() == set()
    assert not node.cgroup(pod).exists()


KUBEPODS = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7.slice"


@pytest.fixture
def kubepods() -> Iterator[Cgroup]:
    """A pod's slice, as a kubelet makes it."""
    manager = Manager(SYSTEM)
    name = KUBEPODS.rpartition("/")[2]
    manager.start(name, [*slice_properties("pod 7"), ("MemoryMax", Variant("t", 64 * MIB))])
    yield Cgroup(Path(f"{cgroup.ROOT}{KUBEPODS}"))
    for each in KUBEPODS.split("/")[:0:-1]:
        manager.stop(each)


@pytest.mark.parametrize("asked", [KUBEPODS, KUBEPODS.rpartition("/")[2]])
def test_a_pod_goes_into_the_slice_that_its_kubelet_made(node: Pods, kubepods: Cgroup, asked: str) -> None:
    pod = node.pod_in(asked)
    container = node.limited(pod, "exec sleep 1000", pid=api.POD)
    node.start(container)
    assert len(node.cgroup(pod, container, KUBEPODS).processes()) == 1
    node.remove_pod(pod)
    assert [path.name for path in kubepods.path.iterdir() if path.is_dir()] == []
    assert kubepods.number("memory.max") == 64 * MIB


@pytest.mark.parametrize("asked", ["/kubepods/pod1", "kubepods--x.slice", "/a.scope"])
def test_what_is_no_slice_is_refused(node: Pods, asked: str) -> None:
    with pytest.raises(grpc.RpcError, match=r"linux.cgroup_parent.*is not the name of a slice.*the cgroup driver is systemd"):
        node.pod_in(asked)


@pytest.mark.parametrize("word", ["daemon-reload", "daemon-reexec"])
def test_limits_and_rules_of_devices_are_there_after_systemd_has_looked_anew(node: Pods, word: str) -> None:
    pod = node.pod()
    wishes: dict[str, Any] = {"memory_limit_in_bytes": 20 * MIB, "cpu_quota": 12_345, "cpu_period": 50_000, "cpu_shares": 512}
    container = node.limited(pod, "exec sleep 1000", unified={"pids.max": "50"}, **wishes)
    node.start(container)
    group = node.cgroup(pod, container)
    before = {file: group.read(file) for file in ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")}
    assert before["cpu.max"] == "12345 50000\n"
    systemctl(word)
    node.run(node.pod(), "true")  # another unit has systemd write what it changed
    assert {file: group.read(file) for file in before} == before
    assert node.execute(container, "sh", "-c", "mknod /m c 1 1; cat /m").stderr.endswith(b"Operation not permitted\n")
    assert node.execute(container, "sh", "-c", "head -c 3 /dev/zero | wc -c").stdout == b"3\n"


def test_a_pod_s_own_limits_are_systemd_s_as_well(node: Pods) -> None:
    pod = node.pod()
    wanted = api.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, cpu_quota=30_000, cpu_period=100_000, cpu_shares=512)
    node.call(api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod, resources=wanted))
    group, files = node.cgroup(pod), ("memory.max", "cpu.max", "cpu.weight")
    before = [group.read(file).strip() for file in files]
    assert before == [str(64 * MIB), "30000 100000", "59"]
    known = [show(scope_of(pod), name) for name in ("MemoryMax", "CPUQuotaPerSecUSec", "CPUWeight")]
    assert known == [str(64 * MIB), "300ms", "59"]
    systemctl("daemon-reload")
    assert [group.read(file).strip() for file in files] == before


def test_want_of_memory_is_seen_though_nothing_lives_there_any_more(node: Pods) -> None:
    pod = node.pod()
    container = node.limited(pod, f"exec {HOG}", memory_limit_in_bytes=20 * MIB)
    node.start(container)
    assert node.finish(container, 60) == 137
    assert node.status(container).reason == "OOMKilled"
    assert node.cgroup(pod).fields("memory.events")["oom_kill"] == 1


@pytest.mark.parametrize("end", ["restart", "SIGKILL"])
def test_pods_outlive_the_service(daemon: Service, node: Pods, end: str) -> None:
    pod = node.pod()
    container = node.limited(pod, "exec sleep 1000", memory_limit_in_bytes=20 * MIB)
    node.start(container)
    (init,) = node.cgroup(pod, container).processes()
    before, daemon_pid = node.everything(), daemon.pid
    if end == "restart":
        systemctl("restart", UNIT)
    else:
        daemon.kill()
        daemon.start()
    node.reconnect(daemon)
    assert daemon.pid != daemon_pid
    assert node.everything() == before
    assert node.cgroup(pod, container).processes() == [init]
    assert node.execute(container, "echo", "here").stdout == b"here\n"
    second = node.limited(pod, "exit 3", memory_limit_in_bytes=20 * MIB)
    node.start(second)
    assert node.finish(second) == 3
    node.remove_pod(pod)
    assert units() == set()


def test_a_pod_that_an_administrator_stops_is_seen_to_have_ended(node: Pods) -> None:
    pod = node.pod()
    container = node.limited(pod, "trap 'exit 7' TERM; while :; do sleep 0.1; done")
    node.start(container)
    systemctl("stop", scope_of(pod))
    assert node.finish(container) in (7, 137, 143)
    node.remove_pod(pod)
    assert units() == set()
