"""Where a container's cgroup stands: controllers handed down from the top, a tree given away, devices by their rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup
from tests.support import cgroup, wait
from tests.support.oci import Config
from tests.support.requires import requires
from tests.vm.inside.conftest import HOG, MIB, PARENT, SPIN, Container, Limited

pytestmark = requires("controllers memory pids")

#: A second runtime in a container: it moves aside, hands down controllers, and limits what it starts.
NESTED = f"""
set -e
mkdir /sys/fs/cgroup/self /sys/fs/cgroup/inner
echo 1 >/sys/fs/cgroup/self/cgroup.procs
echo '+memory +pids' >/sys/fs/cgroup/cgroup.subtree_control
echo {20 * MIB} >/sys/fs/cgroup/inner/memory.max
echo 0 >/sys/fs/cgroup/inner/memory.swap.max || true
set +e
sh -c 'echo $$ >/sys/fs/cgroup/inner/cgroup.procs; exec {HOG}'
exec sleep 1000
"""


def writable(config: Config) -> None:
    """A cgroup namespace, and its tree to write in."""
    linux = config["linux"]
    linux["namespaces"] = [*(each for each in linux["namespaces"] if each["type"] != "cgroup"), {"type": "cgroup"}]
    (mount,) = (each for each in config["mounts"] if each["destination"] == "/sys/fs/cgroup")
    mount["options"] = [option for option in mount["options"] if option != "ro"]


def mapped(config: Config) -> None:
    """The same, for a root that is nobody outside."""
    writable(config)
    config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        config["linux"][name] = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]


@pytest.mark.parametrize("change", [writable, mapped])
def test_a_runtime_in_a_container_limits_what_it_starts_within_the_containers_own_limits(oci: Limited, change: object) -> None:
    if change is mapped:
        oci.open_to_all()
    container = oci.run(NESTED, change=change, memory={"limit": 200 * MIB}, pids={"limit": 50})  # type: ignore[arg-type]
    inner = container.cgroup / "inner"
    wait.until(lambda: inner.exists() and inner.fields("memory.events").get("oom_kill", 0) > 0, 60, "the inner limit to be felt")
    assert inner.number("memory.max") == 20 * MIB
    assert container.cgroup.number("memory.max") == 200 * MIB
    assert container.pid in (container.cgroup / "self").processes()
    if change is mapped:
        owned = {name: (container.cgroup.path / name).stat().st_uid for name in ("cgroup.procs", "memory.max")}
        assert owned == {"cgroup.procs": 100_000, "memory.max": 0}  # not what holds it back itself


def test_who_comes_later_joins_what_has_moved_aside(oci: Limited) -> None:
    """With controllers handed down no process may be in the container's own cgroup: an exec goes where the init is."""
    container = oci.run(NESTED, change=writable, memory={"limit": 200 * MIB})
    wait.until(lambda: container.pid in (container.cgroup / "self").processes(), 60, "the init to move")
    assert container.execute("cat /proc/self/cgroup").strip() in ("0::/self", "0::/exec")
    container.update(memory={"limit": 100 * MIB})
    assert container.cgroup.number("memory.max") == 100 * MIB
    container.command_line.call("kill", container.name, "KILL")
    wait.until(lambda: container.cgroup.fields("cgroup.events")["populated"] == 0, 30, "all of it to be gone")


def test_what_a_container_asks_for_is_handed_down_from_the_top(oci: Limited) -> None:
    container = oci.run("exec sleep 1000", memory={"limit": 200 * MIB}, pids={"limit": 50})
    for directory in (cgroup.ROOT, cgroup.ROOT / PARENT):
        assert {"memory", "pids"} <= set(Cgroup(directory).read("cgroup.subtree_control").split())
    assert {"memory", "pids"} <= container.cgroup.controllers()


def test_below_a_cgroup_with_processes_there_is_no_limit_and_that_is_said(oci: Limited) -> None:
    inhabited = Cgroup(cgroup.ROOT / PARENT)
    inhabited.create()
    other = oci.run("exec sleep 1000", change=lambda config: config["linux"].update(cgroupsPath="/elsewhere"))
    inhabited.write("cgroup.procs", str(other.pid))
    said = oci.refusal("true", memory={"limit": 200 * MIB})
    assert f"linux.resources.memory.limit: {inhabited.path} has processes of its own, so it cannot hand memory down" in said


def test_a_limit_above_holds_whatever_the_container_is_given(oci: Limited) -> None:
    """As in a kubelet's tree: the pod's cgroup has a limit of its own, written by somebody else."""
    pod = Cgroup(cgroup.ROOT / PARENT)
    pod.create()
    Cgroup(cgroup.ROOT).enable(["memory"])
    pod.write("memory.max", str(20 * MIB))
    container = oci.run(f"exec {HOG}", memory={"limit": 200 * MIB, "swap": 200 * MIB})
    assert container.finish() == 137
    assert container.cgroup.fields("memory.events")["oom_kill"] == 1  # of the victim's, whoever's limit it was
    assert container.cgroup.fields("memory.events")["max"] == 0
    assert pod.fields("memory.events.local")["max"] > 0


def knock(container: Container) -> str:
    """Try to make and to open /dev/loop-control there, which nothing else guards."""
    return container.execute("rm -f /tmp/node; mknod /tmp/node c 10 237 && exec 3</tmp/node && echo opened")


def may_make_nodes(config: Config) -> None:
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind].append("CAP_MKNOD")


def test_a_device_that_no_rule_allows_cannot_be_opened_until_one_does(oci: Limited) -> None:
    container = oci.run(SPIN, change=may_make_nodes)
    assert "Operation not permitted" in knock(container)
    nobody = {"allow": False, "access": "rwm"}
    for access, answer in (("rm", "opened"), ("m", "Operation not permitted"), ("rwm", "opened")):
        container.update(devices=[nobody, {"allow": True, "type": "c", "major": 10, "minor": 237, "access": access}])
        assert answer in knock(container), json.dumps(access)
    container.update(devices=[nobody])
    assert "Operation not permitted" in knock(container)


def test_shares_and_a_kubelets_own_weight_are_both_what_the_kernel_is_told(oci: Limited) -> None:
    """1024 shares are 100 by today's formula; 39, by the older one, is what a kubelet may still write, by ``unified``."""
    assert oci.run(SPIN, cpu={"shares": 1024}).cgroup.number("cpu.weight") == 100
    assert oci.run(SPIN, unified={"cpu.weight": "39"}).cgroup.number("cpu.weight") == 39
    assert oci.run(SPIN, cpu={"shares": 1024}, unified={"cpu.weight": "39"}).cgroup.number("cpu.weight") == 39


def test_a_cgroup_may_be_held_to_a_number_of_others_below_it(oci: Limited) -> None:
    container = oci.run("exec sleep 1000", change=writable, unified={"cgroup.max.descendants": "1"})
    assert container.execute("mkdir /sys/fs/cgroup/one && echo made").strip() == "made"
    assert "Resource temporarily unavailable" in container.execute("mkdir /sys/fs/cgroup/two")
    Path(container.cgroup.path / "one").rmdir()
