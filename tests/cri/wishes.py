"""Requests, as short as a test can say them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cri.api import api_pb2 as api
from cri.config import HandlerConfig
from cri.spec import Host
from cri.spec import container_config as translate
from kernel.capability import CAPABILITIES
from runtime.container.config import ContainerConfig
from runtime.image.config import ImageConfig
from runtime.sandbox.config import NamespaceModes, SandboxConfig
from runtime.spec import schema

#: All 41 that kernel/capability.py knows, whatever kernel the tests run on.
KNOWN = tuple(CAPABILITIES)
PLAIN = HandlerConfig()


def image(**fields: Any) -> ImageConfig:
    return ImageConfig(architecture="amd64", os="linux", **fields)


def sandbox(**fields: Any) -> SandboxConfig:
    values: dict[str, Any] = {"name": "web", "namespace": "default", "uid": "u-1", "hostname": "web"}
    return SandboxConfig(**(values | fields))


def modes(**fields: Any) -> NamespaceModes:
    return NamespaceModes(**fields)


def no_devices(path: str) -> list[schema.Device]:
    raise AssertionError(f"nobody asked for {path}")


def no_file(path: str) -> bytes:
    raise FileNotFoundError(2, "No such file or directory", path)


def inject_none(spec: schema.Spec, names: Sequence[str]) -> list[int]:
    assert not names
    return []


def host(
    find_devices: Callable[[str], list[schema.Device]] = no_devices,
    read_file: Callable[[str], bytes] = no_file,
    *,
    handler: HandlerConfig = PLAIN,
    inject: Callable[[schema.Spec, Sequence[str]], list[int]] = inject_none,
) -> Host:
    modules = ("apparmor", "selinux")
    return Host(
        hostname="node",
        capabilities=KNOWN,
        security_modules=modules,
        find_devices=find_devices,
        find_image=lambda name: f"id-of-{name}",
        read_file=read_file,
        handler=handler,
        inject_devices=inject,
    )


def container(**fields: Any) -> api.ContainerConfig:
    values: dict[str, Any] = {"metadata": api.ContainerMetadata(name="c1"), "command": ["sh"]}
    return api.ContainerConfig(**(values | fields))


def secured(**fields: Any) -> api.ContainerConfig:
    """A container whose security context is made of *fields*."""
    context = api.LinuxContainerSecurityContext(**fields)
    return container(linux=api.LinuxContainerConfig(security_context=context))


def translated(
    config: api.ContainerConfig,
    *,
    pod: SandboxConfig | None = None,
    of: ImageConfig | None = None,
    on: Host | None = None,
) -> ContainerConfig:
    return translate(config, pod or sandbox(), "sha256:1", of or image(), on or host())


def process(config: ContainerConfig) -> schema.Process:
    assert config.spec.process is not None
    return config.spec.process
