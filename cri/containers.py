"""CreateContainer to ContainerStatus, and ReopenContainerLog."""

from __future__ import annotations

import builtins
import json
import posixpath
import socket
from collections.abc import Callable
from functools import cache

import msgspec

from cri import encoded, filters, resources, signals
from cri.api import api_pb2 as api
from cri.handlers import Handlers, read_profile
from cri.node import Node
from cri.spec import Host, container_config
from kernel import capability
from runtime.container import label
from runtime.container.devices import find_devices
from runtime.container.state import Container, ContainerState
from runtime.errors import ContainerNotFound, ImageNotFound, InvalidArgument
from runtime.image.records import Image
from runtime.sandbox.state import Sandbox

STATES = {
    ContainerState.CREATED: api.CONTAINER_CREATED,
    ContainerState.RUNNING: api.CONTAINER_RUNNING,
    ContainerState.EXITED: api.CONTAINER_EXITED,
    ContainerState.UNKNOWN: api.CONTAINER_UNKNOWN,
}


class Containers:
    def __init__(self, node: Node, handlers: Handlers) -> None:
        self._node, self._handlers = node, handlers
        self._listed: encoded.Cache[Container, api.Container] = encoded.Cache(
            api.ListContainersResponse.CONTAINERS_FIELD_NUMBER, listed
        )

    def key(self, request: api.CreateContainerRequest) -> tuple[object, ...]:
        """What two calls for the same container have in common: a kubelet that lost its patience asks again."""
        metadata = request.config.metadata
        return "container", request.pod_sandbox_id, metadata.name, metadata.attempt

    def create(self, request: api.CreateContainerRequest) -> api.CreateContainerResponse:
        """Make a container whose process waits to be started."""
        name = request.config.metadata.name
        sandbox = self._node.find_sandbox(request.pod_sandbox_id)
        sandbox.require_ready(f"create container {name}")
        if not request.config.image.image:
            raise InvalidArgument(f"create container {name}: image.image is empty")
        image = self._find_image(f"create container {name}", request.config.image.image)

        def volume(wanted: str) -> str:
            return self._find_image("ImageVolumeMountFailed", wanted).id

        here = host(sandbox, self._handlers, volume)
        config = container_config(request.config, sandbox.config, image.id, image.config, here)
        return api.CreateContainerResponse(container_id=self._node.create_container(sandbox.id, config))

    def start(self, request: api.StartContainerRequest) -> api.StartContainerResponse:
        self._node.start_container(self._node.find_container(request.container_id).id)
        return api.StartContainerResponse()

    def stop(self, request: api.StopContainerRequest) -> api.StopContainerResponse:
        """Idempotent; an unknown container is a stopped one."""
        container = self._find_or_none(request.container_id)
        if container is not None:
            self._node.stop_container(container.id, float(max(request.timeout, 0)))
        return api.StopContainerResponse()

    def remove(self, request: api.RemoveContainerRequest) -> api.RemoveContainerResponse:
        """Idempotent; an unknown container is a removed one.  Its log stays: the kubelet removes logs."""
        container = self._find_or_none(request.container_id)
        if container is not None:
            self._node.remove_container(container.id)
        return api.RemoveContainerResponse()

    def status(self, request: api.ContainerStatusRequest) -> api.ContainerStatusResponse:
        container = self._node.find_container(request.container_id)
        response = api.ContainerStatusResponse(status=status(container))
        if request.verbose:
            response.info["info"] = verbose(container)
        return response

    def list(self, request: api.ListContainersRequest | api.StreamContainersRequest) -> builtins.list[bytes]:
        """Those that the filter lets pass, each as an element of the answer."""
        entries = self._listed.entries((container.id, container) for container in self._node.containers())
        accepts = filters.container_filter(request.filter)
        return [entry.encoded for entry in entries if accepts(entry.message)]

    def reopen_log(self, request: api.ReopenContainerLogRequest) -> api.ReopenContainerLogResponse:
        container = self._node.find_container(request.container_id)
        container.require_running("reopen log")
        self._node.reopen_log(container.id)
        return api.ReopenContainerLogResponse()

    def _find_image(self, act: str, name: str) -> Image:
        image = self._node.images.find(name)
        if image is None:
            raise ImageNotFound(f"{act}: image {name} is not here, pull it first")
        return image

    def update_resources(self, request: api.UpdateContainerResourcesRequest) -> api.UpdateContainerResourcesResponse:
        """Other limits for a container, all of them or none; what is zero or empty stays as it is."""
        container = self._node.find_container(request.container_id)
        after = resources.merged(resources_of(container), request.linux)
        wanted = resources.resources(after)
        self._node.update_container(
            container.id,
            wanted,
            oom_score_adj=resources.oom_score(request.linux),
            attachment=after.SerializeToString(deterministic=True),
        )
        return api.UpdateContainerResourcesResponse()

    def _find_or_none(self, prefix: str) -> Container | None:
        try:
            return self._node.find_container(prefix)
        except ContainerNotFound:
            return None


def host(sandbox: Sandbox, handlers: Handlers, find_image: Callable[[str], str]) -> Host:
    """What only this node can tell about a container in *sandbox*."""
    return Host(
        hostname=sandbox.hostname or socket.gethostname(),
        # Root of a user namespace has all of them, over what that namespace owns.
        capabilities=_known() if sandbox.config.uid_mappings else _grantable(),
        security_modules=label.modules(),
        find_devices=find_devices,
        find_image=find_image,
        read_file=read_profile,
        handler=handlers.find(sandbox.config.runtime_handler),
        inject_devices=handlers.inject_devices,
    )


@cache
def _grantable() -> tuple[str, ...]:
    """The capabilities of this daemon: nobody can give what he does not have, and a container may be one."""
    sets = capability.sets_of("self")
    return capability.names_of(sets.permitted & sets.bounding)


@cache
def _known() -> tuple[str, ...]:
    """All capabilities that the kernel has."""
    return capability.names_of((2 << capability.last_capability()) - 1)


def request_of(container: Container) -> api.ContainerConfig:
    """The request that made *container*, verbatim."""
    return api.ContainerConfig.FromString(container.config.attachment)


def resources_of(container: Container) -> api.LinuxContainerResources:
    """The resources that hold: the last update's, or the request's."""
    if container.resources_attachment:
        return api.LinuxContainerResources.FromString(container.resources_attachment)
    return request_of(container).linux.resources


def image_of(config: api.ContainerConfig) -> api.ImageSpec:
    """The image as a person named it, where the request says; else the id that it was asked for by."""
    wish = config.image
    return api.ImageSpec(
        image=wish.user_specified_image or wish.image,
        annotations=wish.annotations,
        user_specified_image=wish.user_specified_image,
        runtime_handler=wish.runtime_handler,
    )


def listed(container: Container) -> api.Container:
    config = request_of(container)
    return api.Container(
        id=container.id,
        pod_sandbox_id=container.sandbox_id,
        metadata=config.metadata,
        image=image_of(config),
        image_ref=container.image_id,
        image_id=container.image_id,
        state=STATES[container.state],
        created_at=container.created_at_ns,
        labels=config.labels,
        annotations=config.annotations,
    )


def status(container: Container) -> api.ContainerStatus:
    """The answer about *container*; mounts are the request's, to the letter, and resources until they are updated."""
    config = request_of(container)
    return api.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=STATES[container.state],
        created_at=container.created_at_ns,
        started_at=container.started_at_ns,
        finished_at=container.finished_at_ns,
        exit_code=container.exit_code,
        image=image_of(config),
        image_ref=container.image_reference or container.image_id,
        image_id=container.image_id,
        reason=container.reason,
        message=container.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=mounts_of(container, config),
        log_path=container.config.log_path,
        resources=api.ContainerResources(linux=resources_of(container)),
        user=user_of(container),
        stop_signal=signals.to_api(container.config.stop_signal),
    )


def mounts_of(container: Container, config: api.ContainerConfig) -> list[api.Mount]:
    """The request's mounts, to the letter; of an image that is one, which it was found to be."""
    found = {mount.destination: mount.source.partition("/")[0] for mount in container.config.spec.mounts if mount.type == "image"}
    for mount in config.mounts:
        if mount.image.image:
            # A CDI device may have a mount of its own at that place.
            mount.image.image_ref = found.get("/" + posixpath.normpath(mount.container_path).lstrip("/"), "")
    return list(config.mounts)


def user_of(container: Container) -> api.ContainerUser:
    """Who the process is, as the runtime found in the image; the primary group is one of the supplemental ones."""
    user = container.user
    if user is None:
        return api.ContainerUser()
    groups = dict.fromkeys((user.gid, *user.additional_gids))
    return api.ContainerUser(linux=api.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=list(groups)))


def verbose(container: Container) -> str:
    """The record as JSON, for crictl inspect: ``pid``, ``sandboxID``, ``runtimeSpec``; for our attach, ``tty`` and ``stdin``."""
    spec = msgspec.to_builtins(container.config.spec)
    spec.setdefault("linux", {})["cgroupsPath"] = container.cgroup  # where tracing tools look for it
    if container.resources is not None:
        spec["linux"]["resources"] = msgspec.to_builtins(container.resources)
    # The standard library's encoder takes an environment that is no UTF-8.
    return json.dumps(
        {
            "pid": container.pid,
            "sandboxID": container.sandbox_id,
            "cgroup": container.cgroup,
            "tty": container.config.tty,
            "stdin": container.config.stdin,
            "runtimeSpec": {"ociVersion": container.config.spec.oci_version} | spec,
        }
    )
