"""RunPodSandbox to ListPodSandbox."""

from __future__ import annotations

import builtins
import time

import msgspec

from cri import containers, encoded, filters, resources
from cri.api import api_pb2 as api
from cri.handlers import Handlers
from cri.node import Node
from cri.sandbox_spec import sandbox_config
from runtime.errors import SandboxNotFound
from runtime.sandbox.state import Sandbox, SandboxState

STATES = {SandboxState.READY: api.SANDBOX_READY, SandboxState.NOT_READY: api.SANDBOX_NOTREADY}


class Sandboxes:
    def __init__(self, node: Node, handlers: Handlers) -> None:
        self._node, self._handlers = node, handlers
        self._listed: encoded.Cache[Sandbox, api.PodSandbox] = encoded.Cache(
            api.ListPodSandboxResponse.ITEMS_FIELD_NUMBER, listed
        )

    def key(self, request: api.RunPodSandboxRequest) -> tuple[object, ...]:
        """What two calls for the same sandbox have in common: a kubelet that lost its patience asks again."""
        metadata = request.config.metadata
        return "sandbox", metadata.namespace, metadata.name, metadata.uid, metadata.attempt

    def stop_key(self, request: api.StopPodSandboxRequest | api.RemovePodSandboxRequest) -> tuple[object, ...]:
        """A kubelet stops a pod every two seconds until it is stopped; it need not take a thread each time."""
        return type(request).__name__, request.pod_sandbox_id

    def run(self, request: api.RunPodSandboxRequest) -> api.RunPodSandboxResponse:
        """Make a sandbox, ready when this returns."""
        self._handlers.find(request.runtime_handler)
        config = sandbox_config(request.config, request.runtime_handler)
        return api.RunPodSandboxResponse(pod_sandbox_id=self._node.run_sandbox(config))

    def stop(self, request: api.StopPodSandboxRequest) -> api.StopPodSandboxResponse:
        """Idempotent; an unknown sandbox is a stopped one."""
        sandbox = self._find_or_none(request.pod_sandbox_id)
        if sandbox is not None:
            self._node.stop_sandbox(sandbox.id)
        return api.StopPodSandboxResponse()

    def remove(self, request: api.RemovePodSandboxRequest) -> api.RemovePodSandboxResponse:
        """Idempotent; an unknown sandbox is a removed one."""
        sandbox = self._find_or_none(request.pod_sandbox_id)
        if sandbox is not None:
            self._node.remove_sandbox(sandbox.id)
        return api.RemovePodSandboxResponse()

    def status(self, request: api.PodSandboxStatusRequest) -> api.PodSandboxStatusResponse:
        sandbox = self._node.find_sandbox(request.pod_sandbox_id)
        of_pod = [each for each in self._node.containers() if each.sandbox_id == sandbox.id]
        response = api.PodSandboxStatusResponse(
            status=status(sandbox), containers_statuses=[containers.status(each) for each in of_pod], timestamp=time.time_ns()
        )
        if request.verbose:
            response.info["info"] = verbose(sandbox)
        return response

    def list(self, request: api.ListPodSandboxRequest | api.StreamPodSandboxesRequest) -> builtins.list[bytes]:
        """Those that the filter lets pass, each as an element of the answer."""
        entries = self._listed.entries((sandbox.id, sandbox) for sandbox in self._node.sandboxes())
        accepts = filters.sandbox_filter(request.filter)
        return [entry.encoded for entry in entries if accepts(entry.message)]

    def update_resources(self, request: api.UpdatePodSandboxResourcesRequest) -> api.UpdatePodSandboxResourcesResponse:
        """Other limits for a pod as a whole, all of them or none: what its containers take, and what running them takes."""
        sandbox = self._node.find_sandbox(request.pod_sandbox_id)
        wanted = resources.resources(resources.added(request.resources, request.overhead))
        self._node.update_sandbox(sandbox.id, wanted, attachment=request.SerializeToString(deterministic=True))
        return api.UpdatePodSandboxResourcesResponse()

    def _find_or_none(self, prefix: str) -> Sandbox | None:
        try:
            return self._node.find_sandbox(prefix)
        except SandboxNotFound:
            return None


def request_of(sandbox: Sandbox) -> api.PodSandboxConfig:
    """The request that made *sandbox*, verbatim."""
    return api.PodSandboxConfig.FromString(sandbox.config.attachment)


def listed(sandbox: Sandbox) -> api.PodSandbox:
    config = request_of(sandbox)
    return api.PodSandbox(
        id=sandbox.id,
        metadata=config.metadata,
        state=STATES[sandbox.state],
        created_at=sandbox.created_at_ns,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.config.runtime_handler,
    )


def status(sandbox: Sandbox) -> api.PodSandboxStatus:
    """The answer about *sandbox*.

    The namespace options are the request's, to the letter: a kubelet that does not find its
    hostNetwork there makes the sandbox anew, for ever.  The address is empty on the host's network
    and once the sandbox is stopped.
    """
    config = request_of(sandbox)
    options = config.linux.security_context.namespace_options
    return api.PodSandboxStatus(
        id=sandbox.id,
        metadata=config.metadata,
        state=STATES[sandbox.state],
        created_at=sandbox.created_at_ns,
        network=network(sandbox),
        linux=api.LinuxPodSandboxStatus(namespaces=api.Namespace(options=options)),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.config.runtime_handler,
    )


def network(sandbox: Sandbox) -> api.PodSandboxNetworkStatus:
    if sandbox.state is not SandboxState.READY or sandbox.config.namespaces.network == "node":
        return api.PodSandboxNetworkStatus()
    return api.PodSandboxNetworkStatus(
        ip=sandbox.ip, additional_ips=[api.PodIP(ip=address) for address in sandbox.additional_ips]
    )


def verbose(sandbox: Sandbox) -> str:
    """The record as JSON, for crictl inspectp."""
    record = msgspec.to_builtins(sandbox)
    record["config"].pop("attachment")
    record.pop("resources_attachment", None)
    return msgspec.json.encode(record | {"pid": sandbox.pause_pid}).decode()
