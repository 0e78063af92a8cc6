"""The daemon as it is run: a pod's life over its socket, a stop that leaves nothing, and one daemon a node."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from cri.client import Client, container_status
from cri.config import Config
from cri.daemon import make_node
from runtime.cgroups import DRIVERS, Name
from runtime.paths import Paths
from tests.cri.serving import config_of, serving, store_busybox
from tests.support import isolation, wait
from tests.support.requires import TREE, requires


def serve_again(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cri", "serve", "--config", str(config)]
    return subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=20, check=False)


@requires("root", "cgroup2")
@pytest.mark.parametrize("name", DRIVERS)
def test_the_cgroup_driver_is_the_one_that_is_configured(paths: Paths, name: Name) -> None:
    node = make_node(Config(root_dir=paths.root_dir, run_dir=paths.run_dir, cgroup_driver=name))
    assert node._context.cgroups.name == name
    node._store.close()


@requires("root", "cgroup2")
def test_a_pods_life(paths: Paths, run: isolation.Run) -> None:
    store_busybox(paths)
    logs = paths.run_dir.parent / "logs"
    with serving(paths, run), Client(paths.socket) as client:
        pod = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name="web", namespace="default", uid="u1"), hostname="web", log_directory=str(logs)
        )
        pod_id = client.call(api.RunPodSandboxRequest(config=pod), api.RunPodSandboxResponse).pod_sandbox_id
        status = client.call(api.PodSandboxStatusRequest(pod_sandbox_id=pod_id), api.PodSandboxStatusResponse).status
        assert status.network.ip
        container = api.ContainerConfig(
            metadata=api.ContainerMetadata(name="c"),
            image=api.ImageSpec(image="busybox"),
            command=["sh", "-c", 'echo "$A" on $(hostname); exec sleep 1000'],
            envs=[api.KeyValue(key="A", value=b"hello")],
            log_path="c.log",
            linux=api.LinuxContainerConfig(
                security_context=api.LinuxContainerSecurityContext(run_as_username="user", seccomp=api.SecurityProfile())
            ),
        )
        request = api.CreateContainerRequest(pod_sandbox_id=pod_id, config=container, sandbox_config=pod)
        container_id = client.call(request, api.CreateContainerResponse).container_id
        assert client.call(request, api.CreateContainerResponse).container_id == container_id
        client.call(api.StartContainerRequest(container_id=container_id), api.StartContainerResponse)
        wait.until(lambda: (logs / "c.log").read_text().endswith("hello on web\n"))
        result = client.call(
            api.ExecSyncRequest(container_id=container_id, cmd=["sh", "-c", "id -u; exit 7"], timeout=5), api.ExecSyncResponse
        )
        assert (result.stdout, result.exit_code) == (b"1000\n", 7)
        running = container_status(client, container_id)
        assert running.state == api.CONTAINER_RUNNING
        client.call(api.StopContainerRequest(container_id=container_id), api.StopContainerResponse)
        exited = container_status(client, container_id)
        assert (exited.state, exited.exit_code) == (api.CONTAINER_EXITED, 137)
        client.call(api.RemovePodSandboxRequest(pod_sandbox_id=pod_id), api.RemovePodSandboxResponse)
        assert not client.call(api.ListContainersRequest(), api.ListContainersResponse).containers
    assert not paths.socket.exists()


@requires("root", "cgroup2")
def test_a_second_daemon_is_refused(paths: Paths, run: isolation.Run) -> None:
    with serving(paths, run) as first:
        second = serve_again(config_of(paths))
        assert second.returncode == 1
        assert f"held by process {first.pid}" in second.stderr
        with Client(paths.socket) as client:
            assert client.call(api.VersionRequest(), api.VersionResponse).version == "0.1.0"


def test_a_wrong_configuration_is_told(tmp_path: Path) -> None:
    file = tmp_path / "kernelet.toml"
    file.write_text("root_dir = 5")
    refused = serve_again(file)
    assert (refused.returncode, refused.stderr) == (1, f"kernelet: {file}: root_dir: not a string\n")


@requires("root", "cgroup2")
def test_a_daemon_that_was_killed_is_followed_by_another(paths: Paths, run: isolation.Run) -> None:
    store_busybox(paths)
    with serving(paths, run) as first:
        first.kill()
        assert paths.socket.exists()
    with serving(paths, run), Client(paths.socket) as client:
        assert len(client.call(api.ListImagesRequest(), api.ListImagesResponse).images) == 1


@requires("root", "cgroup2")
def test_a_service_manager_is_told_and_a_changed_configuration_is_read(
    paths: Paths, run: isolation.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(paths.run_dir.parent / "notify")
        manager.bind(address)
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "300000")

        def hear(wanted: str) -> str:
            while not (said := manager.recv(4096).decode()).startswith(wanted):
                # On a busy machine a look may take longer than systemd, here, is patient.
                assert said.startswith(("WATCHDOG=1\n", "STATUS=not well: looking"))
            return said

        with serving(paths, run) as daemon:
            assert hear("READY=1") == "READY=1\nSTATUS=serving 0 pods, 0 containers run"
            hear("WATCHDOG=1")
            file = config_of(paths)
            file.write_text('cgroup_parent = "/other"\n' + file.read_text() + '\n[log]\nformat = "json"\n')
            os.kill(daemon.pid, signal.SIGHUP)
            hear("RELOADING=1")
            assert hear("READY=1").endswith("STATUS=reloaded: 1 applied, waiting for a restart: cgroup_parent")
            wait.until(lambda: '"msg": "reload: 1 applied, waiting for a restart: cgroup_parent"' in daemon.log.read_text())
            assert "not applied, needs a restart: pods run in it" in daemon.log.read_text()
            os.kill(daemon.monitor_pid(), signal.SIGSTOP)
            hear("STATUS=not well: ")
            os.kill(daemon.monitor_pid(), signal.SIGCONT)
            hear("WATCHDOG=1")
            assert daemon.stop() == 0
            hear("STOPPING=1")
