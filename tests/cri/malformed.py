"""Requests that no kubelet sends, for every RPC, read off the descriptors; the same number gives the same request.

What a request may do to the machine is kept small: paths to write to lie in an arena, commands do nothing, images are
asked of a registry that refuses connections.  Everything else may be anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cri.api import api_pb2 as api

METHODS: list[MethodDescriptor] = [method for service in api.DESCRIPTOR.services_by_name.values() for method in service.methods]

#: Those that ask for much are asked more often.
RICH = [method for method in METHODS if method.name in ("RunPodSandbox", "CreateContainer", "UpdateContainerResources")]
NUMBERS = (0, 1, -1, 2, 7, 127, 1000, 65535, 65536, 99999, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
TEXTS = (
    *("", "a", " ", "-", "--help", ".", "..", "../..", "a/../../b", "/", "//", "\n", "a\nb", "\t", "%s%n%x", "$(id)", "é"),
    *("localhost/x", "runtime/default", "unconfined", "CAP_SYS_ADMIN", "ALL", "NOBODY", "rw", "rwm", "0", "-1", "65536"),
    *("net.ipv4.ip_forward", "kernel.shmmax", "vm.swappiness", "2MB", "1GB", "0-3", "9999", "memory.max", "cgroup.procs"),
    *("10.0.0.1", "::1", "999.1.1.1", "10.0.0.0/99", "vendor.com/gpu=0", "sha256:" + "f" * 64, "f" * 64, "f" * 13, "\x7f"),
)
#: Enums of proto3 are open: any number may arrive.
ENUMS = (0, 1, 2, 3, 4, 65, 66, -1, 12345)
COMMANDS = ("true", "false", "", "/", "/bin/true", "sleep", "no-such-program", "x" * 5000, "a\0b")
LONG = (4096, 70_000, 1_000_000)
DEPTH = 6


@dataclass(frozen=True, slots=True)
class Scene:
    """What is there to be asked about."""

    arena: Path
    pod: str
    container: str

    def paths(self) -> tuple[str, ...]:
        arena = str(self.arena)
        inside = ("", "/file", "/directory", "/directory/", "/fifo", "/loop", "/link", "/socket", "/absent", "/directory/../file")
        outside = ("/dev/null", "/dev/zero", "/proc/self/mem", "/proc/1/root/absent", "/proc/self/fd/0", "/sys/kernel/absent")
        broken = ("", "relative", "..", "a/../../b", "/\0", "/" + "x" * 300, "/x" * 3000, "/absent/../absent", "/\n")
        return (*(arena + each for each in inside), *outside, *broken)


class Author:
    """Writes requests; *number* is the seed."""

    def __init__(self, number: int, scene: Scene) -> None:
        self._random = random.Random(number)
        self._scene = scene

    def request(self) -> tuple[MethodDescriptor, bytes]:
        """An RPC, and the bytes that are sent to it."""
        choose = self._random
        method = choose.choice(METHODS if choose.random() < 0.6 else RICH)
        kind = choose.random()
        if kind < 0.08:
            return method, choose.randbytes(choose.choice((1, 3, 20, 400, 9000)))
        message = GetMessageClass(method.input_type)() if kind < 0.3 else self._plausible(method)
        if kind < 0.3:
            self._fill(message, DEPTH)
        for _ in range(choose.choice((0, 1, 1, 2, 4))):
            self._spoil(message)
        content = message.SerializeToString()
        if choose.random() < 0.05 and content:
            spot = choose.randrange(len(content))
            content = content[:spot] + choose.randbytes(choose.choice((0, 1, 5))) + content[spot + 1 :]
        return method, content

    def _plausible(self, method: MethodDescriptor) -> Message:
        build = BUILDERS.get(method.name)
        if build is not None:
            return build(self._scene, self._random)
        message = GetMessageClass(method.input_type)()
        for name, value in (("pod_sandbox_id", self._scene.pod), ("container_id", self._scene.container)):
            if name in message.DESCRIPTOR.fields_by_name:
                setattr(message, name, value)
        return message

    def _spoil(self, message: Message) -> None:
        """Change one field somewhere in *message*, more likely of one that is there than of one that is not."""
        fields = list(message.DESCRIPTOR.fields)
        if not fields:
            return
        field = self._random.choice(fields)
        present = [known for known, _ in message.ListFields() if known.type == FieldDescriptor.TYPE_MESSAGE]
        if present and self._random.random() < 0.7:
            field = self._random.choice(present)
            value = getattr(message, field.name)
            inner = [value] if not field.is_repeated else [] if _is_map(field) else list(value)
            if inner and (not field.is_repeated or self._random.random() < 0.7):
                self._spoil(self._random.choice(inner))
                return
        self._set(message, field, DEPTH - 2)

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < 0.4:
                self._set(message, field, depth)

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        count = self._random.choice((0, 1, 1, 2, 5, 200 if depth > 3 else 3)) if field.is_repeated else 1
        if _is_map(field):
            self._set_map(message, field, min(count, 20))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth <= 0:
                return
            for _ in range(min(count, 20)):
                part = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
                part.SetInParent()
                self._fill(part, depth - 1)
        elif field.is_repeated:
            del getattr(message, field.name)[:]
            getattr(message, field.name).extend(self._value(field) for _ in range(count))
        else:
            setattr(message, field.name, self._value(field))

    def _set_map(self, message: Message, field: FieldDescriptor, count: int) -> None:
        entry = field.message_type.fields_by_name
        for _ in range(count):
            key = self._value(entry["key"])
            if entry["value"].type != FieldDescriptor.TYPE_MESSAGE:
                getattr(message, field.name)[key] = self._value(entry["value"])

    def _value(self, field: FieldDescriptor) -> Any:
        choose = self._random
        match field.type:
            case FieldDescriptor.TYPE_STRING:
                return self._text(field.name)
            case FieldDescriptor.TYPE_BYTES:
                return choose.choice((b"", b"\xff\xfe", b"a\0b", choose.randbytes(30)))
            case FieldDescriptor.TYPE_BOOL:
                return choose.random() < 0.5
            case FieldDescriptor.TYPE_ENUM:
                return choose.choice(ENUMS)
            case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
                return choose.choice((0.0, -1.5, 1e300, float("inf"), float("nan")))
        return _fitting(choose.choice((*NUMBERS, choose.getrandbits(31))), field)

    def _text(self, name: str) -> str:
        choose = self._random
        if name in ("command", "args", "cmd"):
            return choose.choice(COMMANDS)
        if name == "cgroup_parent":
            long = "/fuzz/" + "x" * 300
            return choose.choice(("", "/fuzz", "/fuzz/a.slice", "relative", "/..", "/fuzz/../..", "/", "/\0", long))
        if name == "log_path":
            return choose.choice(("", "x.log", "a/b/c.log", "../x", "x\0", "x" * 5000))
        if name == "log_directory":
            return choose.choice((str(self._scene.arena / "logs"), "", "relative", "/..", "/\0", "/proc/absent", "/dev/null/x"))
        if name.endswith(("path", "_ref", "directory")) or name in ("working_dir", "masked_paths", "readonly_paths"):
            return choose.choice(self._scene.paths())
        if name == "image":
            return choose.choice(("busybox", "docker.io/library/absent", "UPPER", "a b", "x@sha256:1", *TEXTS))
        if choose.random() < 0.03:
            return choose.choice(("x", "é", "\n", "/")) * choose.choice(LONG)
        return choose.choice((*TEXTS, self._scene.pod, self._scene.container))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _fitting(number: int, field: FieldDescriptor) -> int:
    """*number*, brought into the range of the field's type."""
    match field.type:
        case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_FIXED32:
            return number & 0xFFFFFFFF
        case FieldDescriptor.TYPE_UINT64 | FieldDescriptor.TYPE_FIXED64:
            return number & 0xFFFFFFFFFFFFFFFF
        case FieldDescriptor.TYPE_INT32 | FieldDescriptor.TYPE_SINT32 | FieldDescriptor.TYPE_SFIXED32:
            return (number + (1 << 31)) % (1 << 32) - (1 << 31)
    return number


def pod(scene: Scene, choose: random.Random) -> api.PodSandboxConfig:
    """A pod as a kubelet asks for one."""
    number = choose.randrange(1 << 40)
    users = api.UserNamespace(mode=api.NODE)
    if choose.random() < 0.3:
        ids = [api.IDMapping(host_id=200_000, length=65536)]
        users = api.UserNamespace(uids=ids, gids=ids)
    options = api.NamespaceOption(pid=choose.choice((api.POD, api.CONTAINER)), userns_options=users)
    return api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name=f"p{number}", uid=f"u{number}", namespace="fuzz"),
        hostname="fuzz",
        log_directory=str(scene.arena / "logs"),
        dns_config=api.DNSConfig(servers=["10.0.0.1"]),
        labels={"a": "b"},
        linux=api.LinuxPodSandboxConfig(
            sysctls={"net.ipv4.ip_unprivileged_port_start": "80"},
            security_context=api.LinuxSandboxSecurityContext(namespace_options=options, seccomp=api.SecurityProfile()),
        ),
    )


def container(scene: Scene, choose: random.Random) -> api.ContainerConfig:
    """A container as a kubelet asks for one."""
    context = api.LinuxContainerSecurityContext(
        namespace_options=api.NamespaceOption(pid=api.CONTAINER),
        capabilities=api.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["CHOWN"]),
        masked_paths=["/proc/kcore"],
        readonly_paths=["/proc/sys"],
        seccomp=api.SecurityProfile(profile_type=choose.choice((0, 1))),
    )
    return api.ContainerConfig(
        metadata=api.ContainerMetadata(name=f"c{choose.randrange(1 << 40)}"),
        image=api.ImageSpec(image="busybox"),
        command=["true"],
        envs=[api.KeyValue(key="A", value=b"1")],
        mounts=[api.Mount(container_path="/data", host_path=str(scene.arena / "directory"))],
        devices=[api.Device(host_path="/dev/null", container_path="/dev/x", permissions="rw")],
        log_path="x.log",
        linux=api.LinuxContainerConfig(
            resources=api.LinuxContainerResources(oom_score_adj=10, hugepage_limits=[api.HugepageLimit(page_size="2MB")]),
            security_context=context,
        ),
    )


def _create(scene: Scene, choose: random.Random) -> Message:
    config = container(scene, choose)
    return api.CreateContainerRequest(pod_sandbox_id=scene.pod, config=config, sandbox_config=pod(scene, choose))


BUILDERS: Mapping[str, Callable[[Scene, random.Random], Message]] = {
    "RunPodSandbox": lambda scene, choose: api.RunPodSandboxRequest(config=pod(scene, choose)),
    "CreateContainer": _create,
    "ExecSync": lambda scene, _: api.ExecSyncRequest(container_id=scene.container, cmd=["true"], timeout=5),
    "Exec": lambda scene, _: api.ExecRequest(container_id=scene.container, cmd=["true"], stdout=True),
    "Attach": lambda scene, _: api.AttachRequest(container_id=scene.container, stdout=True),
    "PortForward": lambda scene, _: api.PortForwardRequest(pod_sandbox_id=scene.pod, port=[80]),
    "UpdateContainerResources": lambda scene, _: api.UpdateContainerResourcesRequest(
        container_id=scene.container, linux=api.LinuxContainerResources(cpu_shares=10)
    ),
    "ImageStatus": lambda _scene, _choose: api.ImageStatusRequest(image=api.ImageSpec(image="busybox")),
    "PullImage": lambda _scene, _choose: api.PullImageRequest(
        image=api.ImageSpec(image="docker.io/library/absent"), auth=api.AuthConfig(username="a", password="b")
    ),
    "RemoveImage": lambda _scene, _choose: api.RemoveImageRequest(image=api.ImageSpec(image="docker.io/library/absent")),
    "ListContainers": lambda scene, _: api.ListContainersRequest(filter=api.ContainerFilter(pod_sandbox_id=scene.pod)),
    "UpdateRuntimeConfig": lambda _scene, _choose: api.UpdateRuntimeConfigRequest(
        runtime_config=api.RuntimeConfig(network_config=api.NetworkConfig(pod_cidr="10.1.0.0/24"))
    ),
}
