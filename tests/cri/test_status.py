"""What a kubelet checks before anything else, to the letter."""

from __future__ import annotations

import json
from pathlib import Path

from cri.api import api_pb2 as api
from cri.status import WANTED_CONTROLLERS, Status
from tests.cri.conftest import Daemon
from tests.cri.fake import FakeNode


def test_version(daemon: Daemon) -> None:
    answer = daemon.client.call(api.VersionRequest(), api.VersionResponse)
    assert answer.version == "0.1.0"
    assert (answer.runtime_name, answer.runtime_api_version) == ("kernelet", "v1")
    major, minor = answer.runtime_version.split(".")[:2]
    assert major.isdigit() and minor.isdigit()


def test_status(daemon: Daemon) -> None:
    answer = daemon.client.call(api.StatusRequest(verbose=True), api.StatusResponse)
    assert {condition.type: condition.status for condition in answer.status.conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
        "ControllersReady": False,
    }
    missing = answer.status.conditions[2]
    assert missing.message == "the node's cgroup v2 tree lacks hugetlb: limits on them are refused"
    assert [handler.name for handler in answer.runtime_handlers] == [""]
    assert answer.runtime_handlers[0].features.recursive_read_only_mounts
    assert answer.runtime_handlers[0].features.user_namespaces and answer.features.user_namespaces_host_network
    assert answer.features.supplemental_groups_policy
    assert Path(json.loads(answer.info["config"])["stateDir"]) == daemon.socket.parent
    assert not daemon.client.call(api.StatusRequest(), api.StatusResponse).info


def test_the_cgroup_driver_is_said(daemon: Daemon) -> None:
    answer = daemon.client.call(api.RuntimeConfigRequest(), api.RuntimeConfigResponse)
    # a message without it reads SYSTEMD, and one without "linux" is no answer at all
    assert answer.HasField("linux") and answer.linux.cgroup_driver == api.CGROUPFS
    other = Status({}, FakeNode(), "systemd", handler_names=list).runtime_config(api.RuntimeConfigRequest())
    assert other.HasField("linux") and other.linux.cgroup_driver == api.SYSTEMD


def test_the_nodes_pod_cidr_is_taken_note_of(daemon: Daemon) -> None:
    config = api.RuntimeConfig(network_config=api.NetworkConfig(pod_cidr="10.1.0.0/24"))
    daemon.client.call(api.UpdateRuntimeConfigRequest(runtime_config=config), api.UpdateRuntimeConfigResponse)
    assert daemon.node.pod_cidr == "10.1.0.0/24"


def test_a_node_with_all_controllers_is_ready() -> None:
    node = FakeNode()
    node.controllers = lambda: frozenset(WANTED_CONTROLLERS)  # type: ignore[method-assign]
    node.can_map_ids = lambda: False  # type: ignore[method-assign]
    answer = Status({}, node, handler_names=lambda: ["", "gpu"]).status(api.StatusRequest())
    assert [handler.name for handler in answer.runtime_handlers] == ["", "gpu"]
    assert not answer.runtime_handlers[0].features.user_namespaces and not answer.features.user_namespaces_host_network
    assert all(condition.status for condition in answer.status.conditions)


def test_a_node_that_waits_for_its_network_says_why(daemon: Daemon) -> None:
    daemon.node.problem = "no CNI configuration in /etc/cni/net.d"
    answer = daemon.client.call(api.StatusRequest(), api.StatusResponse)
    ready = answer.status.conditions[1]
    assert (ready.type, ready.status, ready.reason) == ("NetworkReady", False, "NetworkPluginNotReady")
    assert ready.message == "no CNI configuration in /etc/cni/net.d"
