"""The two services: one line per RPC, and how its body is run.  The table of contents of this package."""

from __future__ import annotations

from collections.abc import Mapping

from cri.containers import Containers
from cri.dispatch import Dispatch, Handler, not_yet, parts, whole
from cri.events import Events
from cri.execution import Execution
from cri.images import ImageRpcs
from cri.metrics import Metrics
from cri.sandboxes import Sandboxes
from cri.stats import Stats
from cri.status import Status

Table = Mapping[str, Handler]


def runtime_service(
    run: Dispatch,
    sandboxes: Sandboxes,
    containers: Containers,
    execution: Execution,
    stats: Stats,
    metrics: Metrics,
    events: Events,
    status: Status,
) -> Table:
    return {
        "Version": run.inline(status.version),
        "Status": run.waiting(status.status),
        "RuntimeConfig": run.inline(status.runtime_config),
        "UpdateRuntimeConfig": run.inline(status.update_runtime_config),
        # sandboxes
        # These may wait for plugins of the cluster's network.
        "RunPodSandbox": run.once(sandboxes.key, sandboxes.run, waits=True),
        "StopPodSandbox": run.once(sandboxes.stop_key, sandboxes.stop, waits=True),
        "RemovePodSandbox": run.once(sandboxes.stop_key, sandboxes.remove, waits=True),
        "PodSandboxStatus": run.inline(sandboxes.status),
        "ListPodSandbox": whole(run.inline(sandboxes.list)),
        "StreamPodSandboxes": parts(run.inline(sandboxes.list)),
        # containers
        "CreateContainer": run.once(containers.key, containers.create),
        "StartContainer": run.threaded(containers.start),
        "StopContainer": run.waiting(containers.stop),
        "RemoveContainer": run.threaded(containers.remove),
        "ContainerStatus": run.inline(containers.status),
        "ListContainers": whole(run.inline(containers.list)),
        "StreamContainers": parts(run.inline(containers.list)),
        "ReopenContainerLog": run.threaded(containers.reopen_log),
        "UpdateContainerResources": run.threaded(containers.update_resources),
        "UpdatePodSandboxResources": run.threaded(sandboxes.update_resources),
        "CheckpointContainer": not_yet("checkpointing"),
        "CheckpointPod": not_yet("checkpointing a pod"),
        "RestorePod": not_yet("restoring a pod"),
        # commands and streams
        "ExecSync": run.cancellable(execution.exec_sync),
        "Exec": run.inline(execution.exec),
        "Attach": run.inline(execution.attach),
        "PortForward": run.inline(execution.port_forward),
        # usage, metrics, events
        "ContainerStats": run.threaded(stats.container),
        "ListContainerStats": whole(run.threaded(stats.containers)),
        "StreamContainerStats": parts(run.threaded(stats.containers)),
        "PodSandboxStats": run.threaded(stats.sandbox),
        "ListPodSandboxStats": whole(run.threaded(stats.sandboxes)),
        "StreamPodSandboxStats": parts(run.threaded(stats.sandboxes)),
        "ListMetricDescriptors": run.threaded(metrics.descriptors),
        "ListPodSandboxMetrics": whole(run.threaded(metrics.sandboxes)),
        "StreamPodSandboxMetrics": parts(run.threaded(metrics.sandboxes)),
        "GetContainerEvents": run.inline(events.subscribe),
    }


def image_service(run: Dispatch, images: ImageRpcs) -> Table:
    return {
        "PullImage": run.cancellable(images.pull),
        "ListImages": whole(run.inline(images.list)),
        "StreamImages": parts(run.inline(images.list)),
        "ImageStatus": run.inline(images.status),
        "RemoveImage": run.threaded(images.remove),
        "ImageFsInfo": run.threaded(images.file_system),
    }
