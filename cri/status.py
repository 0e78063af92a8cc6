"""Version, Status, RuntimeConfig, UpdateRuntimeConfig."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from cri.api import api_pb2 as api
from runtime import cgroups

if TYPE_CHECKING:  # it brings the whole runtime along, and commands want the version only
    from cri.node import Node

#: The protocol's version, which a kubelet compares to the letter.
KUBELET_API_VERSION = "0.1.0"
RUNTIME_NAME = "kernelet"
RUNTIME_VERSION = importlib.metadata.version("kernelet")
RUNTIME_API_VERSION = "v1"

#: What a kubelet sets limits with.
WANTED_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "hugetlb")



class Status:
    def __init__(
        self,
        config: Mapping[str, object],
        node: Node,
        cgroup_driver: cgroups.Name = "cgroupfs",
        *,
        handler_names: Callable[[], Sequence[str]],
    ) -> None:
        """*config* is what ``crictl info`` shows as the configuration."""
        self._has_user_namespaces = node.can_map_ids()
        self._cgroup_driver = api.SYSTEMD if cgroup_driver == "systemd" else api.CGROUPFS
        self._config = msgspec.json.encode(dict(config)).decode()
        self._node, self._handler_names = node, handler_names
        controllers = node.controllers()
        self._missing = [name for name in WANTED_CONTROLLERS if name not in controllers]

    def version(self, _request: api.VersionRequest) -> api.VersionResponse:
        return api.VersionResponse(
            version=KUBELET_API_VERSION,
            runtime_name=RUNTIME_NAME,
            runtime_version=RUNTIME_VERSION,
            runtime_api_version=RUNTIME_API_VERSION,
        )

    def status(self, request: api.StatusRequest) -> api.StatusResponse:
        """The conditions, and what each handler can do: the same, as they differ in what they give.

        A daemon that answers is ready: it does not start without what it needs.  The network may wait for the
        cluster to bring one.  Where a cgroup controller is missing, containers run and limits on it are refused.
        """
        response = api.StatusResponse(
            status=api.RuntimeStatus(
                conditions=[
                    api.RuntimeCondition(type="RuntimeReady", status=True),
                    self._network_ready(),
                    self._controllers_ready(),
                ]
            ),
            runtime_handlers=[
                api.RuntimeHandler(
                    name=name,
                    features=api.RuntimeHandlerFeatures(
                        recursive_read_only_mounts=True, user_namespaces=self._has_user_namespaces
                    ),
                )
                for name in self._handler_names()
            ],
            features=api.RuntimeFeatures(
                supplemental_groups_policy=True, user_namespaces_host_network=self._has_user_namespaces, mount_options=True
            ),
        )
        if request.verbose:
            response.info["config"] = self._config
        return response

    def _network_ready(self) -> api.RuntimeCondition:
        problem = self._node.network_problem()
        if problem is None:
            return api.RuntimeCondition(type="NetworkReady", status=True)
        return api.RuntimeCondition(type="NetworkReady", status=False, reason="NetworkPluginNotReady", message=problem)

    def _controllers_ready(self) -> api.RuntimeCondition:
        if not self._missing:
            return api.RuntimeCondition(type="ControllersReady", status=True)
        return api.RuntimeCondition(
            type="ControllersReady",
            status=False,
            reason="ControllersMissing",
            message=f"the node's cgroup v2 tree lacks {', '.join(self._missing)}: limits on them are refused",
        )

    def runtime_config(self, _request: api.RuntimeConfigRequest) -> api.RuntimeConfigResponse:
        """The cgroup driver, which a kubelet then uses too: said, because a message without it reads SYSTEMD."""
        linux = api.LinuxRuntimeConfiguration(cgroup_driver=self._cgroup_driver)
        return api.RuntimeConfigResponse(linux=linux)

    def update_runtime_config(self, request: api.UpdateRuntimeConfigRequest) -> api.UpdateRuntimeConfigResponse:
        """Take note of the node's pod CIDR, for CNI plugins; the built-in network's subnet is that of kernelet.toml."""
        self._node.set_pod_cidr(request.runtime_config.network_config.pod_cidr)
        return api.UpdateRuntimeConfigResponse()
