"""Statistics, events and updates with crictl, which knows nothing of us."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cri.api import api_pb2 as api
from tests.e2e.kubelet import Kubelet
from tests.e2e.test_crictl import Crictl, crictl
from tests.support import requires as needs
from tests.support import wait
from tests.support.daemon import Daemon
from tests.support.requires import requires

__all__ = ["crictl"]  # a fixture, of use here too

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry", "crictl")


@pytest.fixture
def pod(kubelet: Kubelet) -> str:
    return kubelet.run_pod()


def test_what_is_used_is_shown(crictl: Crictl, kubelet: Kubelet, daemon: Daemon, pod: str) -> None:
    container = kubelet.run(pod, "dd if=/dev/zero of=/big bs=1M count=2; while :; do :; done")
    upper = daemon.paths.container(container) / "upper/big"
    wait.until(lambda: upper.exists() and upper.stat().st_size == 2 << 20, 10, "the file")
    (found,) = json.loads(crictl("stats", "-o", "json"))["stats"]
    assert found["attributes"]["id"] == container
    assert int(found["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
    assert int(found["cpu"]["timestamp"]) > 0
    assert int(found["memory"]["timestamp"]) > 0
    (of_pod,) = json.loads(crictl("statsp", "-o", "json"))["stats"]
    assert of_pod["attributes"]["id"] == pod
    assert of_pod["linux"]["network"]["defaultInterface"]["name"] == "eth0"
    assert [each["attributes"]["id"] for each in of_pod["linux"]["containers"]] == [container]
    (of_files,) = json.loads(crictl("imagefsinfo"))["status"]["imageFilesystems"]
    assert os.path.samefile(of_files["fsId"]["mountpoint"], daemon.paths.root_dir)


def test_metrics_are_described_and_given(crictl: Crictl, kubelet: Kubelet, pod: str) -> None:
    container = kubelet.run(pod, "sleep 1000")
    described = {each["name"]: each["labelKeys"] for each in json.loads(crictl("metricdescs"))["descriptors"]}
    (found,) = json.loads(crictl("metricsp"))["podMetrics"]
    (of_container,) = found["containerMetrics"]
    assert of_container["containerId"] == container
    for metric in (*found["metrics"], *of_container["metrics"]):
        labels = dict(zip(described[metric["name"]], metric["labelValues"], strict=True))
        assert labels["namespace"] == "default"
    assert {"container_cpu_usage_seconds_total", "container_sockets"} <= {each["name"] for each in of_container["metrics"]}
    assert "container_network_receive_bytes_total" in {each["name"] for each in found["metrics"]}


def test_events_are_followed(crictl: Crictl, kubelet: Kubelet, tmp_path: Path) -> None:
    command = [needs.program("crictl"), "--config", str(tmp_path / "crictl.yaml"), "events", "-o", "go-template"]
    command += ["--template", "{{json .}}"]
    with (tmp_path / "events").open("wb") as output:
        follower = subprocess.Popen(command, stdout=output)

    def seen() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "events").read_text().splitlines() if line.endswith("}")]

    def is_heard() -> bool:
        """crictl does not say when it listens."""
        kubelet.remove_pod(kubelet.run_pod())
        return bool(seen())

    try:
        wait.until(is_heard, 20, "crictl to listen")
        pod = kubelet.run_pod()
        container = kubelet.run(pod, "exit 3")
        kubelet.finish(container)
        kubelet.remove_pod(pod)

        def told() -> list[tuple[str, str]]:
            names = {pod: "pod", container: "container"}
            found = [each for each in seen() if each["containerId"] in names]
            return [(names[each["containerId"]], each["containerEventType"].split("_")[1]) for each in found]

        wait.until(lambda: ("pod", "DELETED") in told(), 20, "the last event")
        assert told() == [
            *(
                ("pod", "CREATED"),
                ("pod", "STARTED"),
                ("container", "CREATED"),
                ("container", "STARTED"),
                ("container", "STOPPED"),
            ),
            *(("pod", "STOPPED"), ("container", "DELETED"), ("pod", "DELETED")),
        ]
        (stopped,) = (each for each in seen() if each["containerId"] == container and "STOPPED" in each["containerEventType"])
        assert [each["exitCode"] for each in stopped["containersStatuses"]] == [3]
        assert stopped["podSandboxStatus"]["id"] == pod
    finally:
        follower.terminate()
        follower.wait(10)


def test_what_can_be_updated_is_and_what_cannot_is_refused_by_name(crictl: Crictl, kubelet: Kubelet, pod: str) -> None:
    linux = api.LinuxContainerConfig(resources=api.LinuxContainerResources(oom_score_adj=100))
    container = kubelet.run(pod, "sleep 1000", linux=linux)
    pid = json.loads(crictl("inspect", container))["info"]["pid"]
    crictl("update", "--oom-score-adj", "300", container)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "300\n"
    assert kubelet.status(container).resources.linux.oom_score_adj == 300
    controllers = (Path("/sys/fs/cgroup") / "cgroup.controllers").read_text().split()
    if "memory" not in controllers:
        assert "controller `memory` is not available" in crictl("update", "--memory", "100000000", container, fails=True)
        assert kubelet.status(container).resources.linux.memory_limit_in_bytes == 0
