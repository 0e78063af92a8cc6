"""ListMetricDescriptors and ListPodSandboxMetrics: what the node counted, as metrics (``metric_table``).

A metric whose file this node's cgroups do not have is neither described nor given: a zero would look like a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from cri import encoded
from cri.api import api_pb2 as api
from cri.containers import request_of as container_request
from cri.containers import resources_of
from cri.metric_table import BASE_LABELS, COUNTER, NETWORK_LABELS, NETWORK_TABLE, TABLE, Metric, Sample
from cri.node import Node
from cri.sandboxes import request_of as sandbox_request
from runtime.network.traffic import LinkUse
from runtime.sandbox.state import SandboxState
from runtime.usage import ContainerUse, Disk, SandboxUse


class Metrics:
    def __init__(self, node: Node) -> None:
        self._node = node

    def descriptors(self, _request: api.ListMetricDescriptorsRequest) -> api.ListMetricDescriptorsResponse:
        """The metrics that an ordinary pod of this node has."""
        of_containers = [_descriptor(each.name, each.help, each.labels) for each in self._table]
        of_links = [_descriptor(each.name, each.help, NETWORK_LABELS) for each in NETWORK_TABLE]
        return api.ListMetricDescriptorsResponse(descriptors=[*of_containers, *of_links])

    def sandboxes(self, _request: api.ListPodSandboxMetricsRequest | api.StreamPodSandboxMetricsRequest) -> list[bytes]:
        """The metrics of all pods that are ready and of their running containers, each pod as an element of the answer."""
        ready = [sandbox for sandbox in self._node.sandboxes() if sandbox.state is SandboxState.READY]
        disk = self._node.disk()
        number = api.ListPodSandboxMetricsResponse.POD_METRICS_FIELD_NUMBER
        return [encoded.element(number, self._sandbox(use, disk)) for use in self._node.use_of_sandboxes(ready, brief=False)]

    @cached_property
    def _table(self) -> Sequence[Metric]:
        files = self._node.accounts()
        return [metric for metric in TABLE if not metric.file or metric.file in files]

    def _sandbox(self, use: SandboxUse, disk: Disk) -> api.PodSandboxMetrics:
        metadata = sandbox_request(use.sandbox).metadata
        labels = (metadata.name, metadata.namespace, "", use.sandbox.id, "")
        return api.PodSandboxMetrics(
            pod_sandbox_id=use.sandbox.id,
            metrics=[metric for link in use.links or () for metric in _of_link(link, labels, use.use.at_ns)],
            container_metrics=[self._container(each, labels, disk) for each in use.containers],
        )

    def _container(self, use: ContainerUse, pod: tuple[str, ...], disk: Disk) -> api.ContainerMetrics:
        container = use.container
        config = container_request(container)
        image = config.image.user_specified_image or config.image.image
        labels = (*pod[:2], config.metadata.name, container.id, image)
        sample = Sample(use, self._node.processes_of(container), disk, resources_of(container))
        at_ns = use.use.at_ns
        return api.ContainerMetrics(
            container_id=container.id,
            metrics=[
                _metric(metric.name, metric.kind, (*labels, *own), value, at_ns)
                for metric in self._table
                for own, value in metric.find(sample)
            ],
        )


def _descriptor(name: str, text: str, labels: Iterable[str]) -> api.MetricDescriptor:
    return api.MetricDescriptor(name=name, help=text, label_keys=(*BASE_LABELS, *labels))


def _of_link(link: LinkUse, labels: tuple[str, ...], at_ns: int) -> list[api.Metric]:
    return [_metric(each.name, COUNTER, (*labels, link.name), each.find(link), at_ns) for each in NETWORK_TABLE]


def _metric(name: str, kind: api.MetricType, labels: tuple[str, ...], value: int, at_ns: int) -> api.Metric:
    return api.Metric(name=name, timestamp=at_ns, metric_type=kind, label_values=labels, value=api.UInt64Value(value=value))
