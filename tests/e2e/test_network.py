"""A cluster that installs its network while the daemon runs, and plugins that fail."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from runtime.paths import Paths
from tests.e2e.kubelet import Kubelet
from tests.support import wait
from tests.support.cni import RESULT, Recorder
from tests.support.daemon import Daemon
from tests.support.isolation import Run
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2")


@pytest.fixture
def plugins(paths: Paths, tmp_path: Path) -> Recorder:
    """A plugin "only", not configured yet; the daemon will look for both where this fixture puts them."""
    recorder = Recorder(tmp_path, "only")
    recorder.answer("only", "ADD", say=json.dumps(RESULT))
    return recorder


def ready(kubelet: Kubelet) -> tuple[bool, str]:
    conditions = kubelet.call(api.StatusRequest()).status.conditions
    found = next(condition for condition in conditions if condition.type == "NetworkReady")
    return found.status, found.message


def test_a_node_that_waits_for_its_cluster(paths: Paths, run: Run, plugins: Recorder, tmp_path: Path) -> None:
    daemon = Daemon(paths, run, cluster=plugins.section)
    daemon.start()
    try:
        with daemon.client() as call:
            kubelet = Kubelet(call, tmp_path / "logs", "")
            is_ready, why = ready(kubelet)
            assert not is_ready and why.startswith(f"no CNI configuration in {plugins.configurations}")
            with pytest.raises(grpc.RpcError) as refused:
                kubelet.run_pod()
            assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            plugins.configure()
            assert ready(kubelet) == (True, "")
            pod = kubelet.run_pod()
            assert kubelet.pod_status(pod).network.ip == "10.9.0.7"

            plugins.answer("only", "DEL", exit=1, say=json.dumps({"code": 100, "msg": "not now"}))
            with pytest.raises(grpc.RpcError) as failed:
                kubelet.stop_pod(pod)
            assert "CNI plugin only (DEL): not now (code 100)" in str(failed.value.details())
            assert kubelet.pod_status(pod).state == api.SANDBOX_READY
            daemon.kill()
            daemon.start()
            kubelet.reconnect(daemon)
            plugins.answer("only", "DEL")
            kubelet.stop_pod(pod)
            kubelet.remove_pod(pod)

            plugins.answer("only", "ADD", exit=1, say=json.dumps({"code": 7, "msg": "bad"}))
            plugins.answer("only", "DEL", exit=1)
            with pytest.raises(grpc.RpcError) as failed:
                kubelet.run_pod()
            assert "CNI plugin only (ADD): bad (code 7, invalid configuration)" in str(failed.value.details())
            plugins.forget()
            plugins.answer("only", "DEL")
            wait.until(lambda: [each.command for each in plugins.calls()] == ["DEL"], 10, "DEL to be repeated")
            wait.until(lambda: not list(paths.run_sandboxes.iterdir()), 10, "the failed pod to be undone")
            kubelet.call.close()
    finally:
        daemon.stop()
