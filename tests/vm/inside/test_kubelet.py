"""A real kubelet, alone, with pods from a directory: it starts, probes, restarts and removes them on Kernelet.

The node has no default route, no /dev/kmsg (hence KubeletInUserNamespace, which does without), and User Mode Linux does not
say the clock speed that it wants to know.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cri.api import api_pb2 as api
from kernel import mount
from kernel.mountinfo import load_mountinfo
from runtime.paths import Paths
from tests.e2e.kubelet import Kubelet as Caller
from tests.support import wait
from tests.support.daemon import Daemon
from tests.support.requires import requires

KUBELET = Path("kubelet")
READ_ONLY_PORT = 10255
SECONDS = 60
#: What a kubelet asks a runtime for only if it is told to.
ALPHA = ", EventedPLEG: true, CRIListStreaming: true, PodAndContainerStatsFromCRI: true"

CONFIG = """apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: {place}/manifests
containerRuntimeEndpoint: unix://{socket}
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
failSwapOn: false
readOnlyPort: {port}
fileCheckFrequency: 1s
podLogsDir: {place}/logs
featureGates: {{KubeletInUserNamespace: true{gates}}}
"""
POD = """apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - name: probed
    image: busybox
    imagePullPolicy: Never
    command: ["sh", "-c", "echo serving; trap exit TERM; touch /shared/ready; sleep 1000 & wait"]
    volumeMounts: [{name: shared, mountPath: /shared}]
    readinessProbe: {exec: {command: [test, -e, /shared/ready]}, periodSeconds: 1}
    resources: {limits: {memory: 64Mi, cpu: 500m}}
  - name: ending
    image: busybox
    imagePullPolicy: Never
    command: ["sh", "-c", "echo why > /dev/termination-log; id -u; exit 3"]
    securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]},
                      seccompProfile: {type: RuntimeDefault}}
  - name: greedy
    image: busybox
    imagePullPolicy: Never
    command: [dd, if=/dev/zero, of=/dev/null, bs=64M]
    resources: {limits: {memory: 20Mi}}
"""

pytestmark = [requires("controllers memory cpu pids"), pytest.mark.timeout(400)]


class Kubelet:
    """One that is running; *place* is where it keeps everything."""

    def __init__(self, place: Path) -> None:
        self.manifests = place / "manifests"
        self.logs = place / "logs"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{READ_ONLY_PORT}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def containers(self) -> dict[str, Any]:
        """The status of each container of the first pod, as the kubelet tells it."""
        try:
            items = json.loads(self.get("/pods"))["items"] or []
        except (urllib.error.URLError, ConnectionError):
            return {}
        return {each["name"]: each for pod in items[:1] for each in pod["status"].get("containerStatuses", [])}

    def until(self, name: str, what: str) -> dict[str, Any]:
        """The first status of container *name* that has ``what``, a path of keys; AssertionError when there is none in time."""

        def found() -> dict[str, Any] | None:
            status = value = self.containers().get(name, {})
            for key in what.split("."):
                value = value.get(key) or {}
            return status if value else None

        status = wait.until(found, SECONDS, f"{what} of {name}")
        assert status is not None
        return status


@contextmanager
def known_clock(copy: Path) -> Iterator[None]:
    """Let /proc/cpuinfo tell a clock speed, if it does not."""
    text = Path("/proc/cpuinfo").read_text()
    if "MHz" in text:
        yield
        return
    copy.write_text(f"{text.rstrip()}\ncpu MHz\t\t: 1000.000\ncore id\t\t: 0\nphysical id\t: 0\n\n")
    mount.bind(copy, "/proc/cpuinfo", recursive=False)
    try:
        yield
    finally:
        mount.unmount("/proc/cpuinfo")


def remove_cgroups(top: Path) -> None:
    """Those of the pods, which a kubelet leaves when it ends."""
    for directory, _, _ in os.walk(top, topdown=False):
        os.rmdir(directory)


@pytest.fixture(params=["", ALPHA], ids=["as it is", "all that is alpha"])
def kubelet(request: pytest.FixtureRequest, daemon: Daemon, paths: Paths, tmp_path: Path) -> Iterator[Kubelet]:
    """A kubelet on the daemon.  What it mounts is gone with it."""
    place = paths.run_dir.parent / "kubelet"  # a short path: there will be sockets
    for name in ("manifests", "logs", "root"):
        (place / name).mkdir(parents=True)
    (place / "config.yaml").write_text(
        CONFIG.format(place=place, socket=paths.socket, port=READ_ONLY_PORT, gates=request.param)
    )
    with open(place / "log", "wb") as log, known_clock(tmp_path / "cpuinfo"):
        words = [f"--config={place}/config.yaml", "--hostname-override=node", f"--root-dir={place}/root", f"--cert-dir={place}"]
        process = subprocess.Popen([KUBELET.resolve(), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield Kubelet(place)
        finally:
            process.terminate()
            process.wait(30)
            print((place / "log").read_text()[-8000:])  # pytest shows it when the test has failed
            with daemon.client() as call:
                Caller(call, paths.run_dir, "").clear()
            below = [row.target for row in load_mountinfo() if row.target.startswith(f"{place}/")]
            for target in sorted(below, reverse=True):
                mount.unmount(target)
            remove_cgroups(Path("/sys/fs/cgroup/kubepods"))


@requires("root")
def test_a_pods_life(kubelet: Kubelet, daemon: Daemon) -> None:
    (kubelet.manifests / "web.yaml").write_text(POD)

    assert kubelet.until("probed", "ready")["state"]["running"]
    ended = kubelet.until("ending", "lastState.terminated")["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "why\n")
    killed = kubelet.until("greedy", "lastState.terminated")["lastState"]["terminated"]
    assert (killed["exitCode"], killed["reason"]) == (137, "OOMKilled")
    assert kubelet.until("ending", "restartCount")["restartCount"] >= 1
    said = {path.parent.name: path.read_text() for path in kubelet.logs.glob("*/*/*.log")}  # it keeps the last attempt's
    assert said["probed"].endswith(" stdout F serving\n")
    assert said["ending"].endswith(" stdout F 1000\n")

    (pod,) = json.loads(kubelet.get("/stats/summary"))["pods"]
    usage = {each["name"]: each for each in pod["containers"]}["probed"]
    assert usage["memory"]["workingSetBytes"] > 0
    assert usage["cpu"]["usageCoreNanoSeconds"] > 0
    assert usage["rootfs"]["usedBytes"] > 0

    (kubelet.manifests / "web.yaml").unlink()
    with daemon.client() as call:
        ready = api.PodSandboxFilter(state=api.PodSandboxStateValue(state=api.SANDBOX_READY))
        wait.until(lambda: not call(api.ListPodSandboxRequest(filter=ready)).items, SECONDS, "the pod to be stopped")
    assert "Traceback" not in daemon.log.read_text()
