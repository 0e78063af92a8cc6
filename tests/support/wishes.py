"""What tests ask of a node: ordinary sandboxes and containers, with what differs given."""

from __future__ import annotations

import itertools
from pathlib import Path

from runtime.container.config import ContainerConfig
from runtime.container.seccomp import default_profile
from runtime.node import Node
from runtime.sandbox.config import Mode, NamespaceModes, SandboxConfig
from runtime.spec import defaults, schema
from tests.support import wait

_numbers = itertools.count(1)


def sandbox(*, network: Mode = "pod", pid: Mode = "container", ipc: Mode = "pod", **more: object) -> SandboxConfig:
    """A pod's sandbox with a name of its own."""
    number = next(_numbers)
    given: dict[str, object] = {"name": f"pod{number}", "namespace": "default", "uid": f"uid{number}", **more}
    return SandboxConfig(namespaces=NamespaceModes(network=network, pid=pid, ipc=ipc), **given)  # type: ignore[arg-type]


def spec(arguments: list[str], *, env: list[str] | None = None, cwd: str = "/", readonly: bool = False) -> schema.Spec:
    """The spec of an ordinary container."""
    capabilities = list(defaults.CAPABILITIES)
    return schema.Spec(
        root=schema.Root(path="rootfs", readonly=readonly),
        process=schema.Process(
            args=arguments,
            env=[f"PATH={defaults.PATH}", *(env or [])],
            cwd=cwd,
            capabilities=schema.Capabilities(bounding=capabilities, effective=capabilities, permitted=capabilities),
        ),
        mounts=defaults.mounts(),
        linux=schema.Linux(
            masked_paths=list(defaults.MASKED_PATHS),
            readonly_paths=list(defaults.READONLY_PATHS),
            devices=defaults.devices(),
            seccomp=default_profile(capabilities),
        ),
    )


def container(arguments: list[str], *, pid: Mode = "container", log: Path | None = None, **more: object) -> ContainerConfig:
    """A container of busybox with a name of its own; *more* goes to the config, or to its spec for env, cwd and readonly."""
    of_spec = {name: more.pop(name) for name in ("env", "cwd", "readonly") if name in more}
    given: dict[str, object] = {"name": f"c{next(_numbers)}", "image": "busybox", "spec": spec(arguments, **of_spec), **more}  # type: ignore[arg-type]
    return ContainerConfig(pid_mode=pid, log_path=str(log) if log else "", **given)  # type: ignore[arg-type]


def run(node: Node, sandbox_id: str, config: ContainerConfig) -> str:
    """Create and start; the container's id."""
    container_id = node.create_container(sandbox_id, config)
    node.start_container(container_id)
    return container_id


def finish(node: Node, container_id: str, seconds: float = 20) -> int:
    """Wait for the container's end; its exit code."""
    wait.until(lambda: node.find_container(container_id).state == "exited", seconds, "the container to exit")
    return node.find_container(container_id).exit_code


def lines(log: Path, stream: str | None = None) -> list[str]:
    """The contents of a log's entries, those of one *stream* when given."""
    entries = [line.split(" ", 3) for line in log.read_text().splitlines()]
    return [content for _, source, _, content in entries if stream in (None, source)]
