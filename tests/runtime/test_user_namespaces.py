"""A pod with users of its own: root in it is nobody to the node, and owns the pod's other namespaces."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel import overlay
from kernel.errors import failure
from runtime.errors import InvalidArgument, Unsupported
from runtime.node import Node
from runtime.sandbox.config import Mode
from runtime.sandbox.state import SandboxState
from runtime.spec import schema
from runtime.spec.schema import IdMapping
from tests.support import wait, wishes
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "id-mapping")

FIRST, SIZE = 400000, 65536
USERS = {
    "uid_mappings": [IdMapping(container_id=0, host_id=FIRST, size=SIZE)],
    "gid_mappings": [IdMapping(container_id=0, host_id=FIRST + 7, size=SIZE)],
}


def output(node: Node, container_id: str, script: str) -> list[str]:
    """What *script* prints in the container; it must succeed."""
    result = node.exec_sync(container_id, ["sh", "-ec", script], 20)
    assert (result.exit_code, result.stderr) == (0, b""), result
    return result.stdout.decode().splitlines()


def status(pid: int, key: str) -> list[int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next([int(word) for word in line.split()[1:]] for line in lines if line.startswith(f"{key}:"))


@pytest.mark.parametrize("pid", ["container", "pod"])
@pytest.mark.parametrize("network", ["pod", "node"])
def test_root_of_a_pod_is_nobody_to_the_node(node: Node, tmp_path: Path, pid: Mode, network: Mode) -> None:
    pod = node.run_sandbox(wishes.sandbox(pid=pid, network=network, **USERS))
    config = wishes.container(["sh", "-c", "cat /proc/self/uid_map; exec sleep 100"], pid=pid, log=tmp_path / "log")
    container = wishes.run(node, pod, config)
    assert output(node, container, "tr -s ' ' < /proc/self/gid_map; id -u; id -g") == [f" 0 {FIRST + 7} {SIZE}", "0", "0"]
    assert wishes.lines(tmp_path / "log")[0].split() == ["0", str(FIRST), str(SIZE)]
    process = node.find_container(container).pid
    assert (status(process, "Uid"), status(process, "Gid")) == ([FIRST] * 4, [FIRST + 7] * 4)
    for kind in ("ipc", "uts", *(("net",) if network == "pod" else ())):
        assert os.readlink(f"/proc/{process}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


@pytest.mark.parametrize("pid", ["container", "pod"])
def test_such_a_pod_outlives_the_monitor(node: Node, tmp_path: Path, pid: Mode) -> None:
    pod = node.run_sandbox(wishes.sandbox(pid=pid, **USERS))
    config = wishes.container(
        ["sh", "-c", "trap 'echo end; exit 3' TERM; while :; do sleep 0.01; done"], pid=pid, log=tmp_path / "log"
    )
    container, created = wishes.run(node, pod, config), node.create_container(pod, wishes.container(["true"], pid=pid))
    output(node, container, "true")
    old = node.monitor_pid
    os.kill(old, signal.SIGKILL)
    monitor = node._context.monitor
    wait.until(lambda: monitor.is_settled and node.monitor_pid != old, 10, "another monitor")
    assert output(node, container, "echo here") == ["here"]
    node.stop_container(container, 10)
    assert (wishes.finish(node, container), wishes.lines(tmp_path / "log")) == (3, ["end"])
    node.start_container(created)
    assert wishes.finish(node, created) == 0
    assert node.find_sandbox(pod).state is SandboxState.READY


def test_files_of_the_image_and_new_ones_are_the_pods_own(node: Node, tmp_path: Path) -> None:
    pod = node.run_sandbox(wishes.sandbox(**USERS))
    container = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    paths = "/ /bin/busybox /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /dev/null /proc/1 /tmp/new"
    found = output(node, container, f"mkdir -p /tmp; echo x > /tmp/new; stat -c '%u %g %n' {paths}")
    assert found[:6] + found[7:] == [f"0 0 {path}" for path in paths.split() if path != "/dev/null"]
    upper = node.paths.container(container) / "upper"
    made = (upper / "tmp/new").stat()
    assert (upper.stat().st_uid, made.st_uid, made.st_gid) == (FIRST, FIRST, FIRST + 7)
    output(node, container, "chown 5:6 /tmp/new; echo y >> /etc/hosts; touch /dev/shm/x; echo n > /dev/null; test ! -e /dev/kmsg")


def test_a_volume_is_seen_through_the_pods_users(node: Node, tmp_path: Path) -> None:
    for name in ("mapped", "plain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("1")
        os.chown(tmp_path / name / "file", 3, 4)
    config = wishes.container(["sleep", "100"])
    rights = ["rbind", "rw", "rprivate"]
    config.spec.mounts += [
        schema.Mount(destination="/mapped", type="bind", source=str(tmp_path / "mapped"), options=[*rights, "ridmap"], **USERS),
        schema.Mount(destination="/plain", type="bind", source=str(tmp_path / "plain"), options=rights),
    ]
    pod = node.run_sandbox(wishes.sandbox(**USERS))
    container = wishes.run(node, pod, config)
    assert output(node, container, "stat -c '%u %g' /mapped/file /plain/file") == ["3 4", "65534 65534"]
    output(node, container, "echo 2 > /mapped/new; chown 8:9 /mapped/new")
    made = (tmp_path / "mapped/new").stat()
    assert (made.st_uid, made.st_gid) == (8, 9)
    assert node.exec_sync(container, ["sh", "-c", "echo 2 > /plain/file"], 10).exit_code != 0


def test_the_pods_settings_and_its_network_obey_its_root(node: Node) -> None:
    wanted = {"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.shmmax": "4096", "net.ipv4.ping_group_range": "0 5"}
    pod = node.run_sandbox(wishes.sandbox(sysctls=wanted, **USERS))
    config = wishes.container(["sleep", "100"])
    config.spec.linux.readonly_paths = []
    assert config.spec.process is not None and config.spec.process.capabilities is not None
    config.spec.process.capabilities.effective.append("CAP_NET_ADMIN")
    config.spec.process.capabilities.permitted.append("CAP_NET_ADMIN")
    config.spec.process.capabilities.bounding.append("CAP_NET_ADMIN")
    container = wishes.run(node, pod, config)
    keys = "net/ipv4/ip_unprivileged_port_start kernel/shmmax net/ipv4/ping_group_range"
    assert output(node, container, f"cd /proc/sys; cat {keys}") == ["1024", "4096", "0\t5"]
    output(node, container, "echo 99 > /proc/sys/net/ipv4/ip_unprivileged_port_start; ip addr add 10.9.9.9/32 dev lo")
    assert node.exec_sync(container, ["sh", "-c", "echo 1 > /proc/sys/kernel/panic"], 10).exit_code != 0


def test_a_setting_that_is_refused_is_named_and_nothing_is_left(node: Node) -> None:
    with pytest.raises(InvalidArgument, match=r"sysctl net\.ipv4\.ping_group_range: the kernel refuses '0 70000'"):
        node.run_sandbox(wishes.sandbox(sysctls={"net.ipv4.ping_group_range": "0 70000"}, **USERS))
    with pytest.raises(InvalidArgument, match=r"sysctl net\.ipv4\.nothing: there is none"):
        node.run_sandbox(wishes.sandbox(sysctls={"net.ipv4.nothing": "0"}, **USERS))
    assert (node.sandboxes(), os.listdir(node.paths.run_sandboxes)) == ([], [])


def test_a_pod_with_one_user_has_a_pause_all_the_same(node: Node) -> None:
    one = [IdMapping(container_id=0, host_id=FIRST, size=1)]
    pod = node.run_sandbox(wishes.sandbox(pid="pod", uid_mappings=one, gid_mappings=one))
    config = wishes.container(["sleep", "100"], pid="pod")
    config.spec.mounts = [mount for mount in config.spec.mounts if mount.type != "devpts"]  # its group is not mapped
    container = wishes.run(node, pod, config)
    assert output(node, container, "cat /proc/1/comm") == ["pause"]


def test_a_node_says_whether_it_can(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.can_map_ids()

    def unmappable(*_: object, **__: object) -> None:
        raise failure(errno.EINVAL, "mount_setattr", "/layer")

    monkeypatch.setattr(overlay, "mount_overlay", unmappable)
    assert not node.can_map_ids()
    pod = node.run_sandbox(wishes.sandbox(**USERS))
    with pytest.raises(Unsupported, match="user namespace: /layer cannot be id-mapped"):
        node.create_container(pod, wishes.container(["true"]))


def test_it_is_whole_after_a_restart_of_the_daemon(make_node: Callable[[], Node], node: Node) -> None:
    pod = node.run_sandbox(wishes.sandbox(**USERS))
    first = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    node.close()
    again = make_node()
    assert again.find_sandbox(pod).state == "ready"
    second = wishes.run(again, pod, wishes.container(["sleep", "100"]))
    links = {os.readlink(f"/proc/{again.find_container(each).pid}/ns/user") for each in (first, second)}
    assert len(links) == 1 and os.readlink("/proc/self/ns/user") not in links
    assert output(again, first, "id -u") == ["0"]
