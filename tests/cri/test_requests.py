"""What a request asks for is what a process in the container sees."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from cri.client import Client, container_status
from runtime.paths import Paths
from tests.cri.serving import serving, store_busybox
from tests.support import isolation, wait
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2")

#: What a kubelet sends for procMount Default.
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@dataclass
class Pod:
    """A ready sandbox, and containers of busybox in it."""

    client: Client
    id: str
    logs: Path
    _names: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start(self, *command: str, **fields: Any) -> str:
        """The id of a container that runs *command*, or sleeps."""
        name = f"c{next(self._names)}"
        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image="busybox"),
            command=command or ("sleep", "1000"),
            log_path=f"{name}.log",
            **fields,
        )
        request = api.CreateContainerRequest(pod_sandbox_id=self.id, config=config)
        container_id = self.client.call(request, api.CreateContainerResponse).container_id
        self.client.call(api.StartContainerRequest(container_id=container_id), api.StartContainerResponse)
        return container_id

    def secured(self, **context: Any) -> str:
        """The id of a container with that security context."""
        return self.start(linux=api.LinuxContainerConfig(security_context=api.LinuxContainerSecurityContext(**context)))

    def run(self, container_id: str, script: str) -> tuple[str, str]:
        """What a shell script writes to stdout and stderr in the container."""
        request = api.ExecSyncRequest(container_id=container_id, cmd=["sh", "-c", script], timeout=10)
        answer = self.client.call(request, api.ExecSyncResponse)
        return answer.stdout.decode("utf-8", "surrogateescape"), answer.stderr.decode()


@dataclass
class Machine:
    client: Client
    logs: Path
    _names: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def pod(self, **fields: Any) -> Pod:
        name = f"p{next(self._names)}"
        metadata = api.PodSandboxMetadata(name=name, namespace="default", uid=f"u-{name}")
        config = api.PodSandboxConfig(**({"metadata": metadata, "hostname": name, "log_directory": str(self.logs)} | fields))
        answer = self.client.call(api.RunPodSandboxRequest(config=config), api.RunPodSandboxResponse)
        return Pod(self.client, answer.pod_sandbox_id, self.logs)


@pytest.fixture
def machine(paths: Paths, run: isolation.Run) -> Iterator[Machine]:
    store_busybox(paths)
    with ExitStack() as stack:
        stack.enter_context(serving(paths, run))
        client = stack.enter_context(Client(paths.socket))
        yield Machine(client, paths.run_dir.parent / "logs")
        for pod in client.call(api.ListPodSandboxRequest(), api.ListPodSandboxResponse).items:
            client.call(api.RemovePodSandboxRequest(pod_sandbox_id=pod.id), api.RemovePodSandboxResponse)


def of_status(text: str) -> dict[str, str]:
    """/proc/PID/status as a mapping."""
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


def test_nothing_asked_for(machine: Machine) -> None:
    pod = machine.pod()
    plain = pod.start()
    status = of_status(pod.run(plain, "cat /proc/self/status")[0])
    # the 14 default capabilities; no message about seccomp is unconfined; no message about pid shares the pod's
    assert (status["CapBnd"], status["Seccomp"], status["NoNewPrivs"]) == ("00000000a80425fb", "0", "0")
    assert pod.run(plain, "cat /proc/1/comm /proc/self/oom_score_adj; hostname")[0].split() == ["pause", "0", "p1"]
    assert pod.run(plain, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")[0].strip() == "0"


def test_what_a_kubelet_sends(machine: Machine) -> None:
    pod = machine.pod()
    container = pod.secured(
        namespace_options=api.NamespaceOption(pid=api.CONTAINER, userns_options=api.UserNamespace(mode=api.NODE)),
        run_as_user=api.Int64Value(value=0),
        no_new_privs=True,
        masked_paths=MASKED,
        readonly_paths=READONLY,
        seccomp=api.SecurityProfile(),
    )
    status = of_status(pod.run(container, "cat /proc/self/status")[0])
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert pod.run(container, "cat /proc/1/comm /proc/keys")[0] == "sleep\n"
    assert "Read-only file system" in pod.run(container, "echo 1 > /proc/sys/kernel/panic")[1]


def test_capabilities(machine: Machine) -> None:
    pod = machine.pod()
    for context, sets in (
        ({"capabilities": api.Capability(drop_capabilities=["ALL"])}, ["0"] * 5),
        (
            {
                "run_as_user": api.Int64Value(value=1000),
                "capabilities": api.Capability(drop_capabilities=["ALL"], add_ambient_capabilities=["NET_BIND_SERVICE"]),
            },
            ["400"] * 5,
        ),
    ):
        status = of_status(pod.run(pod.secured(**context), "cat /proc/self/status")[0])
        found = [status[name].lstrip("0") or "0" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
        assert found == sets


def test_users_and_groups(machine: Machine) -> None:
    pod = machine.pod()
    user = {"run_as_user": api.Int64Value(value=1000), "supplemental_groups": [1234]}
    for context, words in (
        ({"run_as_username": "www-data"}, "33 33 33"),
        (user, "1000 1000 33 1000 1234 50000"),
        (user | {"supplemental_groups_policy": api.Strict}, "1000 1000 1000 1234"),
        (user | {"run_as_group": api.Int64Value(value=7), "supplemental_groups_policy": api.Strict}, "1000 7 7 1234"),
    ):
        output = pod.run(pod.secured(**context), "id -u; id -g; id -G")[0].split()
        uid, gid, *groups = words.split()
        assert output[:2] == [uid, gid] and sorted(output[2:]) == sorted(groups)
    with pytest.raises(grpc.RpcError) as caught:
        pod.secured(run_as_username="stranger")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_files(machine: Machine, tmp_path: Path) -> None:
    pod = machine.pod()
    mount = api.Mount(
        container_path="/a", host_path=str(tmp_path), readonly=True, recursive_read_only=True, mount_options=["noexec"]
    )
    mounted = pod.start(mounts=[mount])
    options = pod.run(mounted, "grep ' /a ' /proc/mounts")[0].split()[3].split(",")
    assert {"ro", "noexec"} <= set(options)
    assert list(container_status(machine.client, mounted).mounts) == [mount]
    assert "Read-only file system" in pod.run(pod.secured(readonly_rootfs=True), "touch /x")[1]
    assert "Read-only file system" in pod.run(pod.secured(readonly_paths=["/tmp"]), "touch /tmp/x")[1]
    device = pod.start(devices=[api.Device(host_path="/dev/full", container_path="/dev/mine", permissions="rw")])
    assert "No space left on device" in pod.run(device, "echo > /dev/mine")[1]
    with pytest.raises(grpc.RpcError) as caught:
        pod.start(mounts=[api.Mount(container_path="/a", host_path=str(tmp_path / "absent"))])
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_any_bytes_of_an_environment(machine: Machine) -> None:
    pod = machine.pod()
    container = pod.start("sh", "-c", 'printf "%s\\n" "$A"; sleep 1000', envs=[api.KeyValue(key="A", value=b"\xff\xfe")])
    assert pod.run(container, 'printf %s "$A"')[0] == "\udcff\udcfe"
    wait.until(lambda: (machine.logs / "c1.log").read_bytes().endswith(b"\xff\xfe\n"))


def test_sysctls_of_a_pod(machine: Machine) -> None:
    pod = machine.pod(linux=api.LinuxPodSandboxConfig(sysctls={"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "100"}))
    files = "/proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max"
    assert pod.run(pod.start(), f"cat {files}")[0].split() == ["1", "100"]


def test_the_hosts_namespaces(machine: Machine) -> None:
    options = api.NamespaceOption(network=api.NODE, pid=api.NODE, ipc=api.NODE)
    context = api.LinuxSandboxSecurityContext(namespace_options=options)
    pod = machine.pod(linux=api.LinuxPodSandboxConfig(security_context=context))
    container = pod.secured(namespace_options=options)
    here = [Path(f"/proc/self/ns/{name}").readlink().name for name in ("net", "pid", "ipc")]
    script = "for name in net pid ipc; do readlink /proc/self/ns/$name; done"
    assert pod.run(container, script)[0].split() == here


def test_a_privileged_container_manages_the_node(machine: Machine) -> None:
    context = api.LinuxSandboxSecurityContext(privileged=True)
    pod = machine.pod(linux=api.LinuxPodSandboxConfig(security_context=context))
    container = pod.secured(privileged=True, seccomp=api.SecurityProfile())
    status = of_status(pod.run(container, "cat /proc/self/status")[0])
    assert status["Seccomp"] == "0" and int(status["CapEff"], 16) == int(status["CapBnd"], 16) != 0
    script = "own=/sys/fs/cgroup$(tail -n 1 /proc/1/cgroup | cut -d: -f3); mkdir $own/made && rmdir $own/made && echo managed"
    assert pod.run(container, script) == ("managed\n", "")
    assert "/dev/kmsg" in pod.run(container, "ls /dev/kmsg")[0]
    assert pod.run(container, "grep -c ' /sys sysfs rw' /proc/mounts; ls /proc/acpi > /dev/null; echo $?")[0].split()[0] == "1"


def test_a_directory_of_devices(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name, minor in (("zero", 5), ("below/full", 7)):
        os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    pod = machine.pod()
    container = pod.start(devices=[api.Device(host_path=str(tmp_path), container_path="/dev/mine", permissions="rw")])
    assert pod.run(container, "head -c 3 /dev/mine/zero | wc -c")[0].strip() == "3"
    assert "No space left" in pod.run(container, "echo > /dev/mine/below/full")[1]


def test_a_terminal(machine: Machine) -> None:
    pod = machine.pod()
    pod.start("sh", "-c", "tty; echo $TERM", tty=True)
    wait.until(lambda: (machine.logs / "c1.log").read_text().endswith("F xterm\n"))
    assert "stdout F /dev/pts/0\n" in (machine.logs / "c1.log").read_text()


def test_a_program_that_is_not_there(machine: Machine) -> None:
    pod = machine.pod()
    with pytest.raises(grpc.RpcError) as caught:
        pod.start("absent")
    assert "absent" in caught.value.details()
    [item] = machine.client.call(api.ListContainersRequest(), api.ListContainersResponse).containers
    status = container_status(machine.client, item.id)
    assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 128, "StartError")
    assert status.finished_at > 0


def test_a_command_that_takes_too_long_leaves_nothing(machine: Machine) -> None:
    pod = machine.pod()
    container = pod.start()
    request = api.ExecSyncRequest(container_id=container, cmd=["sh", "-c", "sleep 4321 & sleep 4321"], timeout=1)
    with pytest.raises(grpc.RpcError) as caught:
        machine.client.call(request, api.ExecSyncResponse)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "4321" not in pod.run(container, "ps | grep -v grep")[0]
