"""Hooks, network devices and the cgroup of a whole container, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup, find_tree
from kernel.netlink import Netlink
from tests.support import network, wait
from tests.support.oci import CommandLine, Config
from tests.support.requires import program, requires

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def hook(script: str) -> Config:
    return {"path": "/bin/busybox", "args": ["sh", "-c", script]}


def test_all_kinds_run_in_order_each_where_it_belongs(oci: CommandLine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    told = f"(cat; echo; readlink /proc/self/ns/uts; readlink /proc/self/ns/mnt) >> {log}"

    def change(config: Config) -> None:
        config["hooks"] = {kind: [hook(told)] for kind in KINDS if kind != "startContainer"}
        config["hooks"]["startContainer"] = [hook("cat > /tmp/started; id -u >> /tmp/started; pwd >> /tmp/started")]
        config["annotations"] = {"who": "me"}

    oci.configure("sleep", "1000", change=change)
    oci.call("create", "web")
    pid = oci.state("web")["pid"]
    theirs = [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("uts", "mnt")]
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("uts", "mnt")]
    assert not (oci.bundle / "rootfs/tmp/started").exists()
    oci.call("start", "web")
    oci.call("delete", "--force", "web")
    lines = log.read_text().splitlines()
    states = [json.loads(line) for line in lines[::3]]
    wanted = {"ociVersion": "1.3.0", "id": "web", "bundle": str(oci.bundle), "annotations": {"who": "me"}}
    assert states == [
        {**wanted, "status": "created", "pid": pid},
        {**wanted, "status": "created", "pid": pid},
        {**wanted, "status": "created", "pid": 1},  # as the container sees it
        {**wanted, "status": "running", "pid": pid},
        {**wanted, "status": "stopped"},
    ]
    assert [lines[at : at + 2] for at in (1, 4, 7, 10, 13)] == [ours, ours, theirs, ours, ours]
    document, uid, directory = (oci.bundle / "rootfs/tmp/started").read_text().replace("}0", "}\n0").splitlines()
    assert (json.loads(document)["status"], uid, directory) == ("created", "0", "/")


@pytest.mark.parametrize("kind", KINDS[:3])
def test_one_that_fails_while_the_container_is_made_leaves_none(oci: CommandLine, kind: str) -> None:
    oci.configure("sleep", "1000", change=lambda config: config.update(hooks={kind: [hook("true"), hook("echo why; exit 9")]}))
    said = oci.refusal("create", "web")
    assert f"error running {kind} hook #1: /bin/busybox: {kind} hook failed with exit code 9: why" in said
    assert "container does not exist" in oci.refusal("state", "web")


@pytest.mark.parametrize("kind", KINDS[3:5])
def test_one_that_fails_at_start_ends_the_container_and_poststop_runs(oci: CommandLine, tmp_path: Path, kind: str) -> None:
    def change(config: Config) -> None:
        config["hooks"] = {kind: [hook("exit 9")], "poststop": [hook(f"echo >> {tmp_path}/stopped; exit 3")]}

    oci.configure("sh", "-c", "touch /tmp/ran; sleep 1000", change=change)
    oci.call("create", "web")
    said = oci.refusal("start", "web")
    assert f"error running {kind} hook #0" in said
    assert "poststop hook failed with exit code 3" in said
    assert "container does not exist" in oci.refusal("state", "web")
    assert (oci.bundle / "rootfs/tmp/ran").exists() == (kind == "poststart")
    assert (tmp_path / "stopped").read_text() == "\n"


def test_poststop_hooks_that_fail_are_warnings_and_the_container_is_gone(oci: CommandLine, tmp_path: Path) -> None:
    row = [hook("exit 1"), hook(f"touch {tmp_path}/second"), hook("exit 2")]
    oci.configure("true", change=lambda config: config.update(hooks={"poststop": row}))
    done = oci.call("run", "web")
    assert done.stderr.count("poststop hook failed with exit code") == 2
    assert (tmp_path / "second").exists()
    assert "container does not exist" in oci.refusal("state", "web")


def test_hooks_that_change_the_mounts_are_seen_inside(oci: CommandLine, tmp_path: Path) -> None:
    """What vendors' hooks do: mount something into the root file system that the bundle names, before the pivot."""
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver/version").write_text("7\n")
    (oci.bundle / "rootfs/opt").mkdir()
    script = f"pwd | grep -q {oci.bundle}/rootfs && test -e proc/self && mount -o bind {tmp_path}/driver opt"
    oci.configure("cat", "/opt/version", change=lambda config: config.update(hooks={"createContainer": [hook(script)]}))
    assert oci.call("run", "web").stdout == "7\n"


@requires("ip")
def test_a_network_device_moves_in_and_its_name_is_looked_at(oci: CommandLine) -> None:
    def test() -> None:
        with Netlink() as here:
            subprocess.run([program("ip"), "link", "add", "card0", "type", "veth", "peer", "name", "card1"], check=True)
            subprocess.run([program("ip"), "addr", "add", "192.0.2.7/24", "dev", "card0"], check=True)
            oci.configure("ip", "addr", change=lambda config: config["linux"].update(netDevices={"card0": {"name": "eth0"}}))
            shown = oci.call("run", "web").stdout
            assert "eth0" in shown
            assert "192.0.2.7/24" in shown
            oci.configure("true", change=lambda config: config["linux"].update(netDevices={"card9": {}}))
            assert "linux.netDevices.card9: there is no network interface of that name" in oci.refusal("run", "web")
            wait.until(lambda: here.find_link("card0") is None, 5, "the device to have gone with its namespace")
            subprocess.run([program("ip"), "link", "add", "card0", "type", "veth", "peer", "name", "card1"], check=True)

            def change(config: Config) -> None:
                config["linux"]["netDevices"] = {"card0": {"name": "eth0"}}
                config["hooks"] = {"createRuntime": [hook("exit 1")]}

            oci.configure("true", change=change)
            assert "createRuntime hook failed" in oci.refusal("run", "web")
            assert here.find_link("card0") is not None  # back before the namespace, and with it a pair, ended

    network.in_a_node(test)


def test_a_class_of_service_where_there_is_none_is_refused_by_name(oci: CommandLine) -> None:
    oci.configure("true", change=lambda config: config["linux"].update(intelRdt={"closID": "gold"}))
    assert "linux.intelRdt: no resctrl file system is mounted" in oci.refusal("run", "web")
    assert "container does not exist" in oci.refusal("state", "web")


def test_the_cgroup_is_the_containers_where_it_may_write_to_it(oci: CommandLine) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100_000, "size": 1000}]
        config["mounts"][-1]["options"] = ["nosuid", "noexec", "nodev", "relatime"]
        config["linux"]["cgroupsPath"] = "/given"

    for path in (oci.bundle, *oci.bundle.rglob("*")):
        os.lchown(path, 100_000, 100_000)
    for path in (oci.bundle.parent, oci.bundle.parent.parent):
        path.chmod(0o711)
    script = "mkdir /sys/fs/cgroup/below && echo 0 > /sys/fs/cgroup/below/cgroup.procs && grep ^0:: /proc/self/cgroup"
    oci.configure("sh", "-c", script, change=change)
    assert oci.call("run", "web").stdout == "0::/below\n"
    oci.configure("sh", "-c", f"{script} > /tmp/done; sleep 1000", change=change)
    oci.call("run", "--detach", "web")
    wait.until((oci.bundle / "rootfs/tmp/done").exists, 5, "the container to move")
    assert "0::/" in oci.call("exec", "web", "grep", "^0::", "/proc/self/cgroup").stdout
    oci.call("delete", "--force", "web")
    assert not Cgroup(find_tree() / "given").exists()


def test_in_a_cgroup_that_somebody_has_frozen_nothing_is_made(oci: CommandLine) -> None:
    oci.configure("true", change=lambda config: config["linux"].update(cgroupsPath="/given"))
    frozen = Cgroup(find_tree() / "given")
    frozen.create()
    try:
        frozen.freeze()
        assert "container's cgroup unexpectedly frozen" in oci.refusal("run", "web")
        assert frozen.is_frozen()
    finally:
        frozen.remove()


@requires("controllers hugetlb")
def test_a_container_that_divides_its_cgroup_can_be_entered_all_the_same(oci: CommandLine) -> None:
    """No process may be in a cgroup that hands controllers down: an exec goes where the container's first process is."""
    script = "cd /sys/fs/cgroup && mkdir inner && echo 0 > inner/cgroup.procs && echo +hugetlb > cgroup.subtree_control"

    def change(config: Config) -> None:
        config["mounts"][-1]["options"] = ["nosuid", "noexec", "nodev", "relatime"]

    oci.configure("sh", "-c", f"{script} && touch /tmp/done; sleep 1000", change=change)
    oci.call("run", "--detach", "web")
    wait.until((oci.bundle / "rootfs/tmp/done").exists, 5, "the container to divide its cgroup")
    assert "0::/inner\n" in oci.call("exec", "web", "cat", "/proc/self/cgroup").stdout
    oci.call("pause", "web")
    oci.call("resume", "web")
    assert json.loads(oci.call("events", "--stats", "web").stdout)["data"]["cpu"]["usage"]["total"] > 0
    oci.call("delete", "--force", "web")
