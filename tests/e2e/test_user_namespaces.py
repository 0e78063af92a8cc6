"""What a kubelet asks of a pod with users of its own, through the socket."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from tests.e2e.kubelet import Kubelet
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry", "id-mapping")

FIRST = 600_000
IDS = [api.IDMapping(host_id=FIRST, length=65536)]
USERS = api.UserNamespace(mode=api.POD, uids=IDS, gids=IDS)


def pod_config(kubelet: Kubelet, *, privileged: bool = False, **modes: Any) -> api.PodSandboxConfig:
    config = kubelet.pod_config()
    config.linux.security_context.namespace_options.CopyFrom(api.NamespaceOption(userns_options=USERS, **modes))
    config.linux.security_context.privileged = privileged
    if modes.get("network") == api.NODE:
        config.hostname = ""
    return config


def run(kubelet: Kubelet, pod: str, *, mounts: list[api.Mount] | None = None, **context: Any) -> str:
    """A container that sleeps, of that security context."""
    pid, target = context.pop("pid", api.CONTAINER), context.pop("target", "")
    options = api.NamespaceOption(userns_options=USERS, pid=pid, target_id=target)
    linux = api.LinuxContainerConfig(security_context=api.LinuxContainerSecurityContext(namespace_options=options, **context))
    config = kubelet.container_config(["sleep", "1000"], linux=linux, mounts=mounts)
    container = kubelet.create(pod, config)
    kubelet.start(container)
    return container


def output(kubelet: Kubelet, container: str, script: str) -> list[str]:
    answer = kubelet.execute(container, "sh", "-ec", script)
    assert (answer.exit_code, answer.stderr) == (0, b""), answer
    return answer.stdout.decode().splitlines()


def test_a_pod_of_its_own_users(kubelet: Kubelet, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", 1000, 1000)
    pod = kubelet.run_pod(pod_config(kubelet))
    volume = api.Mount(container_path="/data", host_path=str(tmp_path / "data"), uidMappings=IDS, gidMappings=IDS)
    container = run(kubelet, pod, mounts=[volume], run_as_user=api.Int64Value(value=1000), no_new_privs=True)
    assert output(kubelet, container, "id -u; stat -c %u /data; touch /data/x; cat /proc/self/uid_map | tr -s ' '") == [
        *("1000", "1000", f" 0 {FIRST} 65536"),
    ]
    assert (tmp_path / "data/x").stat().st_uid == 1000
    assert kubelet.status(container).user.linux.uid == 1000
    assert kubelet.pod_status(pod).linux.namespaces.options.userns_options == USERS


def test_debugging_in_it(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod(pod_config(kubelet, pid=api.CONTAINER))
    target = run(kubelet, pod)
    debugger = run(kubelet, pod, pid=api.TARGET, target=target)
    assert "sleep 1000" in output(kubelet, debugger, "tr '\\0' ' ' < /proc/1/cmdline")[0]
    # Root of the same users may look into it.
    assert output(kubelet, debugger, "ls /proc/1/root/bin/busybox") == ["/proc/1/root/bin/busybox"]


def test_a_privileged_container_is_so_in_its_pod_alone(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod(pod_config(kubelet, privileged=True))
    container = run(kubelet, pod, privileged=True)
    [held] = output(kubelet, container, "grep CapEff /proc/self/status | cut -f2")
    assert int(held, 16).bit_count() > 35
    output(kubelet, container, "mkdir /m; mount -t tmpfs none /m; umount /m; ip addr add 10.9.9.9/32 dev lo")
    refused = kubelet.execute(container, "sh", "-c", "echo 1 > /proc/sys/kernel/panic || mknod /x c 1 1 || head -c 1 /dev/kmsg")
    assert refused.exit_code != 0


def test_on_the_nodes_network(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod(pod_config(kubelet, network=api.NODE))
    container = run(kubelet, pod)
    assert output(kubelet, container, "readlink /proc/self/ns/net") == [os.readlink("/proc/self/ns/net")]
    assert kubelet.execute(container, "ip", "addr", "add", "10.9.9.9/32", "dev", "lo").exit_code != 0


def test_another_users_word_of_a_container_is_refused(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod(pod_config(kubelet))
    options = api.NamespaceOption(userns_options=api.UserNamespace(mode=api.NODE))
    context = api.LinuxContainerSecurityContext(namespace_options=options)
    config = kubelet.container_config(["true"], linux=api.LinuxContainerConfig(security_context=context))
    with pytest.raises(grpc.RpcError, match="not what the sandbox was made with"):
        kubelet.create(pod, config)
