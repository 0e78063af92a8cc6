"""What cannot be done is refused with the right code and a message for people, and leaves nothing."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Package, Packer
from runtime.image.push import push
from runtime.image.registry import Registry as RegistryClient
from tests.e2e.conftest import Registry
from tests.e2e.kubelet import Kubelet, kept
from tests.support import leaks
from tests.support.client import METHODS, Client
from tests.support.daemon import Daemon
from tests.support.registry import faulty_registry, free_port, reply
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry")

NOBODY = "0" * 64
NOT_FOUND, PRECONDITION = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION
UNKNOWN, INVALID = grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT


@contextmanager
def refused(daemon: Daemon, code: grpc.StatusCode, message: str) -> Iterator[None]:
    """The block ends in an RPC's failure with *code*, and *message* begins as the regular expression says; nothing is left."""
    before, had = leaks.take(), kept(daemon.paths)
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() == code, caught.value.details()
    with pytest.raises(AssertionError, match=f"^{message}"):
        raise AssertionError(caught.value.details())
    del caught
    assert kept(daemon.paths) == had
    leaks.settle(before)


def pulling(call: Client, name: str) -> Any:
    return call(api.PullImageRequest(image=api.ImageSpec(image=name)))


def test_an_image_that_nobody_has(daemon: Daemon, call: Client, registry: Registry) -> None:
    repository = f"{registry.address}/library/busybox"
    with refused(daemon, UNKNOWN, f"pull {repository}:nonesuch: .*not found"):
        pulling(call, f"{repository}:nonesuch")
    with refused(daemon, UNKNOWN, f"pull {repository}@sha256:{NOBODY}: .*not found"):
        pulling(call, f"{repository}@sha256:{NOBODY}")
    with refused(daemon, UNKNOWN, f"pull {registry.address}/none:latest: .*not found"):
        pulling(call, f"{registry.address}/none")
    for wrong in (f"{registry.address}/UPPER", "a b", "busybox@sha256:123", "-"):
        with refused(daemon, INVALID, ".*"):
            pulling(call, wrong)
    with refused(daemon, INVALID, "image.image is empty"):
        pulling(call, "")


def test_a_registry_that_is_not_there(daemon: Daemon, call: Client) -> None:
    with refused(daemon, UNKNOWN, "RegistryUnavailable: .*127.0.0.1"):
        pulling(call, f"127.0.0.1:{free_port()}/busybox")


def test_a_registry_that_sends_something_else(daemon: Daemon, call: Client) -> None:
    package = packed(b"content")
    (layer,) = package.layers
    tampered = b"".join(package.layers[layer].chunks())[:-9] + b"different"
    root = package.root.digest
    with serving(package, {layer: tampered}) as address, refused(daemon, UNKNOWN, f"pull {address}/x:latest: .*{layer}"):
        pulling(call, f"{address}/x")
    other = b'{"schemaVersion":2}'
    with serving(package, {root: other}) as address, refused(daemon, UNKNOWN, f"pull {address}/x@{root}: .*digest"):
        pulling(call, f"{address}/x@{root}")


def packed(content: bytes) -> Package:
    """An image of one layer with one file."""
    layer = LayerWriter()
    layer.file("file", content)
    packer = Packer()
    packer.add_layer(layer)
    return packer.pack()


def archived(*entries: tuple[str, bytes, str]) -> Package:
    """An image of one layer with (name, kind, link or content) in it, to the letter."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if kind == tarfile.REGTYPE:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content.encode()))
            else:
                entry.linkname = content
                archive.addfile(entry)
    layer = LayerWriter()
    layer.raw(stream.getvalue().rstrip(b"\0") + bytes(1024))
    packer = Packer()
    packer.add_layer(layer)
    return packer.pack()


@contextmanager
def serving(package: Package, changed: dict[str, bytes]) -> Iterator[str]:
    """A registry that has *package* under any name, with other bytes for the digests in *changed*."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        *_, kind, target = request.path.split("/")
        digest = target if target.startswith("sha256:") else package.root.digest
        if kind == "manifests":
            document = package.documents[digest]
            content = changed.get(digest, document.content)
            reply(request, 200, content, Content_Type=document.media_type or "", Docker_Content_Digest=digest)
        elif digest in package.documents:
            reply(request, 200, changed.get(digest, package.documents[digest].content))
        elif digest in package.layers:
            reply(request, 200, changed.get(digest, b"".join(package.layers[digest].chunks())))
        else:
            reply(request, 200)

    with faulty_registry(handle) as address:
        yield address


def test_a_layer_does_not_get_out_of_its_root(daemon: Daemon, call: Client, registry: Registry, tmp_path: Path) -> None:
    file, hard, soft = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
    outside = tmp_path / "outside"
    outside.mkdir()
    wicked = {
        "dots": archived(("../../../evil", file, "x")),
        "inner-dots": archived(("a/../../evil", file, "x")),
        "hard": archived(("passwd", hard, "../../../../etc/passwd")),
    }
    client = RegistryClient()
    for tag, package in wicked.items():
        name = f"{registry.address}/wicked:{tag}"
        push(client, package, name)
        with refused(daemon, UNKNOWN, f"pull {name}: layer sha256:.*: .*evil|passwd"):
            pulling(call, name)
    name = f"{registry.address}/wicked:soft"
    push(client, archived(("way", soft, str(outside)), ("way/evil", file, "x")), name)
    try:
        pulling(call, name)
    except grpc.RpcError as error:
        assert error.code() == UNKNOWN  # to be refused is one right answer, to stay inside the other
    assert list(outside.iterdir()) == []


def test_what_a_container_lacks(daemon: Daemon, kubelet: Kubelet, tmp_path: Path) -> None:
    pod = kubelet.run_pod()
    missing = tmp_path / "missing"
    mount = api.Mount(host_path=str(missing), container_path="/data")
    with refused(daemon, PRECONDITION, f".*mount /data: host path {missing}: no such file or directory"):
        kubelet.create(pod, kubelet.container_config(["true"], mounts=[mount]))
    with refused(daemon, NOT_FOUND, "create container .*nonesuch"):
        kubelet.create(pod, kubelet.container_config(["true"], image=api.ImageSpec(image="nonesuch")))
    with refused(daemon, INVALID, "create container .*image is empty"):
        kubelet.create(pod, kubelet.container_config(["true"], image=api.ImageSpec()))
    security = api.LinuxContainerSecurityContext(run_as_username="nemo")
    with refused(daemon, INVALID, ".*'nemo'"):
        kubelet.create(pod, kubelet.container_config(["true"], linux=api.LinuxContainerConfig(security_context=security)))
    with refused(daemon, NOT_FOUND, f"sandbox {NOBODY}"):
        kubelet.create(NOBODY, kubelet.container_config(["true"]))
    kubelet.stop_pod(pod)
    with refused(daemon, PRECONDITION, "create container .* is not ready"):
        kubelet.create(pod, kubelet.container_config(["true"]))


def test_a_command_that_is_not_there(daemon: Daemon, kubelet: Kubelet) -> None:
    pod = kubelet.run_pod()
    container = kubelet.create(pod, kubelet.container_config(["/no/such/program"]))
    with pytest.raises(grpc.RpcError, match="cannot execute '/no/such/program': no such file or directory") as caught:
        kubelet.start(container)
    assert caught.value.code() == UNKNOWN
    status = kubelet.status(container)
    assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 128, "StartError")
    assert "no such file or directory" in status.message and status.finished_at > 0
    with refused(daemon, PRECONDITION, ".*only a created container can be started"):
        kubelet.start(container)
    with refused(daemon, PRECONDITION, "exec: .*not running"):
        kubelet.execute(container, "true")
    running = kubelet.run(pod, "exec sleep 1000")
    with refused(daemon, UNKNOWN, "exec in .*: cannot execute 'nonesuch'"):
        kubelet.execute(running, "nonesuch")
    with refused(daemon, grpc.StatusCode.DEADLINE_EXCEEDED, "exec sleep .*not done after 1 s"):
        kubelet.execute(running, "sleep", "100", timeout=1)
    with refused(daemon, INVALID, "cmd is empty"):
        kubelet.execute(running)


def test_a_sandbox_that_cannot_be(daemon: Daemon, kubelet: Kubelet, call: Client) -> None:
    kubelet.run_pod()  # the first one makes the bridge, which stays
    with refused(daemon, INVALID, ".*"):
        kubelet.run_pod(api.PodSandboxConfig())
    with refused(daemon, INVALID, ".*no-such-handler"):
        call(api.RunPodSandboxRequest(config=kubelet.pod_config(), runtime_handler="no-such-handler"))
    linux = api.LinuxPodSandboxConfig(sysctls={"kernel.panic": "1"})
    with refused(daemon, INVALID, ".*kernel.panic"):
        kubelet.run_pod(kubelet.pod_config(linux=linux))
    linux = api.LinuxPodSandboxConfig(sysctls={"net.ipv4.ip_forward": "nonsense"})
    with refused(daemon, INVALID, ".*net.ipv4.ip_forward"):
        kubelet.run_pod(kubelet.pod_config(linux=linux))
    with refused(daemon, INVALID, ".*host name"):
        kubelet.run_pod(kubelet.pod_config(hostname="two words"))
    ports = [api.PortMapping(container_port=80, host_port=8080)]
    first = kubelet.pod_config(port_mappings=ports)
    kubelet.run_pod(first)
    with refused(daemon, grpc.StatusCode.FAILED_PRECONDITION, f"host port 8080/tcp: pod default/{first.metadata.name} has it"):
        kubelet.run_pod(kubelet.pod_config(port_mappings=ports))
    kubelet.run_pod(kubelet.pod_config(port_mappings=[api.PortMapping(container_port=80)]))


def test_ids_that_nobody_has(daemon: Daemon, kubelet: Kubelet, call: Client) -> None:
    for request in (
        api.ContainerStatusRequest(container_id=NOBODY),
        api.PodSandboxStatusRequest(pod_sandbox_id=NOBODY),
        api.StartContainerRequest(container_id=NOBODY),
        api.ExecSyncRequest(container_id=NOBODY, cmd=["true"]),
        api.ReopenContainerLogRequest(container_id=NOBODY),
    ):
        with refused(daemon, NOT_FOUND, ".*not found"):
            call(request)
    call(api.StopContainerRequest(container_id=NOBODY))
    call(api.RemoveContainerRequest(container_id=NOBODY))
    call(api.StopPodSandboxRequest(pod_sandbox_id=NOBODY))
    call(api.RemovePodSandboxRequest(pod_sandbox_id=NOBODY))
    call(api.RemoveImageRequest(image=api.ImageSpec(image="docker.io/library/nonesuch")))
    assert not call(api.ListContainersRequest(filter=api.ContainerFilter(id=NOBODY))).containers


#: What is told to be missing, so that a kubelet does without.
NOT_THERE = {"CheckpointContainer", "CheckpointPod", "RestorePod"}


def test_what_is_not_there_yet_says_so(call: Client) -> None:
    missing = set()
    for method in METHODS.values():
        if method.name != "GetContainerEvents":  # which is an answer without an end
            try:
                request = getattr(api, method.input_type.name)()
                list(call.stream(request)) if method.server_streaming else call(request)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    missing.add(method.name)
    assert missing == NOT_THERE
