"""A kubelet's requests, in a word each; and what may be left of them in a daemon's directories."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cri.api import api_pb2 as api
from runtime.paths import Paths
from tests.support import leaks, wait
from tests.support.client import Client
from tests.support.daemon import Daemon

_numbers = itertools.count(1)


class Kubelet:
    """Asks the daemon behind *call*; logs go to *logs*, an image is named once."""

    def __init__(self, call: Client, logs: Path, image: str) -> None:
        self.call = call
        self.logs = logs
        self.image = image

    def pull(self, image: str | None = None) -> str:
        """The id of the image, which is here afterwards."""
        request = api.PullImageRequest(image=api.ImageSpec(image=image or self.image))
        return str(self.call(request, deadline_seconds=60).image_ref)

    def pod_config(self, **fields: Any) -> api.PodSandboxConfig:
        """A pod of a name of its own, all of its containers seeing each other's processes only when asked for."""
        number = next(_numbers)
        options = api.NamespaceOption(pid=fields.pop("pid", api.CONTAINER))
        values: dict[str, Any] = {
            "metadata": api.PodSandboxMetadata(name=f"pod-{number}", namespace="default", uid=f"uid-{number}"),
            "hostname": f"pod-{number}",
            "log_directory": str(self.logs / f"pod-{number}"),
            "labels": {"app": "e2e"},
            "annotations": {"note": f"pod {number}"},
            "linux": api.LinuxPodSandboxConfig(
                security_context=api.LinuxSandboxSecurityContext(namespace_options=options, seccomp=api.SecurityProfile())
            ),
        }
        return api.PodSandboxConfig(**(values | fields))

    def run_pod(self, config: api.PodSandboxConfig | None = None) -> str:
        return str(self.call(api.RunPodSandboxRequest(config=config or self.pod_config())).pod_sandbox_id)

    def container_config(self, command: Sequence[str], **fields: Any) -> api.ContainerConfig:
        number = next(_numbers)
        options = api.NamespaceOption(pid=fields.pop("pid", api.CONTAINER))
        values: dict[str, Any] = {
            "metadata": api.ContainerMetadata(name=f"c-{number}"),
            "image": api.ImageSpec(image=self.image),
            "command": list(command),
            "log_path": f"c-{number}/0.log",
            "labels": {"app": "e2e"},
            "annotations": {"note": f"container {number}"},
            "linux": api.LinuxContainerConfig(
                security_context=api.LinuxContainerSecurityContext(namespace_options=options, seccomp=api.SecurityProfile())
            ),
        }
        return api.ContainerConfig(**(values | fields))

    def create(self, pod_id: str, config: api.ContainerConfig, pod: api.PodSandboxConfig | None = None) -> str:
        request = api.CreateContainerRequest(pod_sandbox_id=pod_id, config=config, sandbox_config=pod)
        return str(self.call(request).container_id)

    def start(self, container_id: str) -> None:
        self.call(api.StartContainerRequest(container_id=container_id))

    def run(self, pod_id: str, script: str, **fields: Any) -> str:
        """A container that runs *script*, started."""
        container_id = self.create(pod_id, self.container_config(["sh", "-c", script], **fields))
        self.start(container_id)
        return container_id

    def status(self, container_id: str) -> api.ContainerStatus:
        found: api.ContainerStatus = self.call(api.ContainerStatusRequest(container_id=container_id)).status
        return found

    def pod_status(self, pod_id: str) -> api.PodSandboxStatus:
        found: api.PodSandboxStatus = self.call(api.PodSandboxStatusRequest(pod_sandbox_id=pod_id)).status
        return found

    def finish(self, container_id: str, seconds: float = 20) -> int:
        """Wait for the container's end; its exit code."""
        wait.until(lambda: self.status(container_id).state == api.CONTAINER_EXITED, seconds, "the container to exit")
        return self.status(container_id).exit_code

    def execute(self, container_id: str, *command: str, timeout: int = 20) -> api.ExecSyncResponse:
        answer: api.ExecSyncResponse = self.call(api.ExecSyncRequest(container_id=container_id, cmd=command, timeout=timeout))
        return answer

    def stop(self, container_id: str, timeout: int = 0) -> None:
        self.call(api.StopContainerRequest(container_id=container_id, timeout=timeout))

    def remove(self, container_id: str) -> None:
        self.call(api.RemoveContainerRequest(container_id=container_id))

    def stop_pod(self, pod_id: str) -> None:
        self.call(api.StopPodSandboxRequest(pod_sandbox_id=pod_id))

    def remove_pod(self, pod_id: str) -> None:
        self.call(api.RemovePodSandboxRequest(pod_sandbox_id=pod_id))

    def lines(self, container_id: str, stream: str | None = None) -> list[str]:
        """The contents of the container's log, entry by entry; those of one *stream* when given."""
        return contents(Path(self.status(container_id).log_path), stream)

    def reconnect(self, daemon: Daemon) -> None:
        """Ask the daemon that is there now; the old connection would wait before it tries again."""
        self.call.close()
        self.call = daemon.client()
        self.call.wait_until_ready()

    def everything(self) -> dict[str, object]:
        """All that can be asked about pods and containers, by id."""
        pods = self.call(api.ListPodSandboxRequest()).items
        containers = self.call(api.ListContainersRequest()).containers
        found: dict[str, object] = {pod.id: (pod, self.pod_status(pod.id)) for pod in pods}
        return found | {each.id: (each, self.status(each.id)) for each in containers}

    def clear(self) -> None:
        """Remove every pod and every image."""
        for pod in self.call(api.ListPodSandboxRequest()).items:
            self.remove_pod(pod.id)
        for image in self.call(api.ListImagesRequest()).images:
            self.call(api.RemoveImageRequest(image=api.ImageSpec(image=image.id)))


def contents(log: Path, stream: str | None = None) -> list[str]:
    """What the entries of a CRI log say; a piece of a line (P) is joined to the rest of it."""
    found: list[str] = []
    open_piece: dict[str, str] = {}
    for entry in log.read_text().splitlines():
        _, source, tag, content = entry.split(" ", 3)
        if stream in (None, source):
            content = open_piece.pop(source, "") + content
            if tag == "P":
                open_piece[source] = content
            else:
                found.append(content)
    return found + list(open_piece.values())


def kept(paths: Paths) -> Mapping[str, list[str]]:
    """The names in each directory of the daemon, and what its journal has open."""
    directories = (
        paths.containers,
        paths.sandboxes,
        paths.run_containers,
        paths.run_sandboxes,
        paths.staging,
        paths.layers,
        paths.blobs,
    )
    found = {directory.name: sorted(os.listdir(directory)) for directory in directories[:2]}
    found |= {f"run/{directory.name}": sorted(os.listdir(directory)) for directory in directories[2:4]}
    found |= {directory.name: sorted(os.listdir(directory)) for directory in directories[4:]}
    database = sqlite3.connect(f"file:{paths.database}?mode=ro", uri=True)
    try:
        for table, columns in (("journal", "owner || ' ' || act"), ("addresses", "address || ' ' || owner")):
            found[table] = sorted(row for (row,) in database.execute(f"SELECT {columns} FROM {table}"))
    finally:
        database.close()
    return found


def settled(daemon: Daemon, before: leaks.Census) -> None:
    """Return when the kernel holds nothing that it did not hold *before*, but for daemon, monitor and what is pytest's own.

    Rules are counted: a daemon makes its own anew, with other numbers.
    """

    def more() -> set[leaks.Found]:
        monitor, now = daemon.monitor_pid(), leaks.take()
        themselves = {("process", daemon.pid), ("process", monitor), ("namespace", os.readlink(f"/proc/{monitor}/ns/mnt"))}
        rules = [len([kind for kind, _ in found if kind == "rule"]) for found in (before, now)]
        ignored = {"descriptor", "thread"} | ({"rule"} if rules[1] <= rules[0] else set())
        return {each for each in now - before - themselves if each[0] not in ignored}

    try:
        wait.until(lambda: not more(), 5)
    except AssertionError:
        raise AssertionError(f"left behind: {sorted(more(), key=str)}") from None
