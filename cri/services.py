"""The two services: one line per RPC, and how its body is run.  The table of contents of this package."""

from __future__ import annotations

from collections.abc import Mapping

from cri.containers import Containers
from cri.dispatch import Dispatch, Handler, not_yet
from cri.execution import Execution
from cri.images import ImageRpcs
from cri.sandboxes import Sandboxes
from cri.status import Status

Table = Mapping[str, Handler]


def runtime_service(run: Dispatch, sandboxes: Sandboxes, containers: Containers, execution: Execution, status: Status) -> Table:
    return {
        "Version": run.inline(status.version),
        "Status": run.inline(status.status),
        "RuntimeConfig": run.inline(status.runtime_config),
        "UpdateRuntimeConfig": run.inline(status.update_runtime_config),
        # sandboxes
        "RunPodSandbox": run.once(sandboxes.key, sandboxes.run),
        "StopPodSandbox": run.threaded(sandboxes.stop),
        "RemovePodSandbox": run.threaded(sandboxes.remove),
        "PodSandboxStatus": run.inline(sandboxes.status),
        "ListPodSandbox": run.inline(sandboxes.list),
        # containers
        "CreateContainer": run.once(containers.key, containers.create),
        "StartContainer": run.threaded(containers.start),
        "StopContainer": run.waiting(containers.stop),
        "RemoveContainer": run.threaded(containers.remove),
        "ContainerStatus": run.inline(containers.status),
        "ListContainers": run.inline(containers.list),
        "ReopenContainerLog": run.threaded(containers.reopen_log),
        "UpdateContainerResources": not_yet("updating resources"),
        "UpdatePodSandboxResources": not_yet("updating a pod's resources"),
        "CheckpointContainer": not_yet("checkpointing"),
        "CheckpointPod": not_yet("checkpointing a pod"),
        "RestorePod": not_yet("restoring a pod"),
        # commands and streams
        "ExecSync": run.cancellable(execution.exec_sync),
        "Exec": not_yet("interactive exec"),
        "Attach": not_yet("attach"),
        "PortForward": not_yet("port forwarding"),
        # usage, metrics, events
        "ContainerStats": not_yet("container statistics"),
        "ListContainerStats": not_yet("container statistics"),
        "PodSandboxStats": not_yet("pod statistics"),
        "ListPodSandboxStats": not_yet("pod statistics"),
        "ListMetricDescriptors": not_yet("metrics"),
        "ListPodSandboxMetrics": not_yet("metrics"),
        "GetContainerEvents": not_yet("a stream of events"),
        "StreamPodSandboxes": not_yet("streaming lists"),
        "StreamContainers": not_yet("streaming lists"),
        "StreamContainerStats": not_yet("streaming statistics"),
        "StreamPodSandboxStats": not_yet("streaming statistics"),
        "StreamPodSandboxMetrics": not_yet("streaming metrics"),
    }


def image_service(run: Dispatch, images: ImageRpcs) -> Table:
    return {
        "PullImage": run.cancellable(images.pull),
        "ListImages": run.inline(images.list),
        "ImageStatus": run.inline(images.status),
        "RemoveImage": run.threaded(images.remove),
        "ImageFsInfo": run.inline(images.file_system),
        "StreamImages": not_yet("streaming lists"),
    }
