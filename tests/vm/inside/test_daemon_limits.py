"""Limits by the daemon, as a kubelet asks for them: what its answers say is what the kernel counted."""

from __future__ import annotations

import pytest

from cri.api import api_pb2 as api
from kernel.cgroup import Cgroup
from tests.support import cgroup, wait
from tests.support.requires import requires
from tests.vm.inside.conftest import BOMB, HOG, MIB, SPIN, TWENTY, Node


@requires("controllers memory")
def test_an_init_without_memory_is_said_to_be_so(node: Node) -> None:
    pod = node.pod()
    container = node.limited(pod, f"exec {HOG}", memory_limit_in_bytes=20 * MIB)
    assert node.cgroup(pod, container).number("memory.max") == 20 * MIB
    node.start(container)
    assert node.finish(container, 60) == 137
    assert node.status(container).reason == "OOMKilled"
    assert node.cgroup(pod).fields("memory.events")["oom_kill"] == 1


@requires("controllers memory")
def test_a_child_without_memory_is_said_to_be_so_with_the_exit_code_of_its_init(node: Node) -> None:
    pod = node.pod()
    container = node.limited(pod, f"{HOG}; exit $?", memory_limit_in_bytes=20 * MIB)
    node.start(container)
    assert node.finish(container, 60) == 137
    assert node.status(container).reason == "OOMKilled"
    assert node.cgroup(pod).fields("memory.events")["oom_kill"] == 1


@requires("controllers memory")
def test_a_container_whose_child_was_killed_runs_on_and_is_said_to_have_lacked_memory_when_it_ends(node: Node) -> None:
    """As with containerd: the reason is about what happened in the container, the exit code about its init."""
    pod = node.pod()
    container = node.limited(pod, f"{HOG}; until test -e /tmp/go; do sleep 0.1; done", memory_limit_in_bytes=20 * MIB)
    node.start(container)
    wait.until(lambda: node.cgroup(pod, container).fields("memory.events")["oom_kill"] == 1, 60, "the child to be killed")
    status = node.status(container)
    assert (status.state, status.reason, status.exit_code) == (api.CONTAINER_RUNNING, "", 0)
    assert node.execute(container, "touch", "/tmp/go").exit_code == 0
    assert node.finish(container, 60) == 0
    assert node.status(container).reason == "OOMKilled"


@requires("controllers memory")
def test_a_container_in_a_kubelets_tree_is_held_to_its_pods_limit_too(node: Node) -> None:
    """The pod's cgroup is the kubelet's: it makes it, with limits, and it is there when the pod is gone."""
    parent = Cgroup(cgroup.ROOT / "kubepods/burstable/pod1")
    parent.create()
    for directory in (cgroup.ROOT, cgroup.ROOT / "kubepods", cgroup.ROOT / "kubepods/burstable"):
        Cgroup(directory).enable(["memory"])
    parent.write("memory.max", str(20 * MIB))
    pod = node.pod(parent="/kubepods/burstable/pod1")
    container = node.limited(pod, f"exec {HOG}", memory_limit_in_bytes=200 * MIB)
    node.start(container)
    assert node.finish(container, 60) == 137
    assert node.status(container).reason == "OOMKilled"
    assert parent.fields("memory.events.local")["max"] > 0
    node.remove_pod(pod)
    assert parent.exists()
    assert parent.descendants() == []
    cgroup.remove(cgroup.ROOT / "kubepods")


@requires("controllers memory")
@pytest.mark.parametrize(("script", "code", "reason"), [(f"exec {HOG}", 0, "Completed"), ("kill -9 $$", 137, "Error")])
def test_who_had_enough_memory_is_not(node: Node, script: str, code: int, reason: str) -> None:
    """Also not one that ends by SIGKILL otherwise: the kernel's count decides, not the exit code."""
    pod = node.pod(pid=api.NODE)
    container = node.limited(pod, script, pid=api.NODE, memory_limit_in_bytes=200 * MIB)
    node.start(container)
    assert node.finish(container, 60) == code
    assert node.status(container).reason == reason
    assert node.cgroup(pod).fields("memory.events")["oom_kill"] == 0


@requires("controllers cpu")
def test_a_quota_throttles_and_shares_are_a_weight(node: Node) -> None:
    pod = node.pod()
    container = node.limited(pod, SPIN, cpu_quota=20_000, cpu_period=100_000, cpu_shares=2048)
    node.start(container)
    group = node.cgroup(pod, container)
    assert (group.read("cpu.max").split(), group.number("cpu.weight")) == (["20000", "100000"], 174)
    wait.until(lambda: group.fields("cpu.stat")["nr_throttled"] >= 10, 60, "ten periods to be throttled")
    found = group.fields("cpu.stat")
    assert found["usage_usec"] <= (found["nr_periods"] + 1) * 20_000 * 1.5


@requires("controllers pids")
def test_what_only_unified_can_say_is_limited(node: Node) -> None:
    pod = node.pod()
    container = node.limited(pod, TWENTY, unified={"pids.max": "6"})
    node.start(container)
    group = node.cgroup(pod, container)
    wait.until(lambda: group.fields("pids.events")["max"] > 0, 60, "a refusal")
    assert len(group.processes()) <= 6


@requires("controllers pids")
def test_a_fork_bomb_is_stopped_as_a_whole(node: Node) -> None:
    """In the guest's own pid namespace, where the end of its init ends nobody else."""
    pod = node.pod(pid=api.NODE)
    container = node.limited(pod, BOMB, pid=api.NODE, unified={"pids.max": "60"})
    node.start(container)
    group = node.cgroup(pod, container)
    wait.until(lambda: group.fields("pids.events")["max"] > 10, 60, "the bomb to reach its limit")
    node.stop(container)
    assert node.status(container).state == api.CONTAINER_EXITED
    wait.until(lambda: not group.exists(), 30, "the cgroup to be gone, which one with a process in it cannot")
