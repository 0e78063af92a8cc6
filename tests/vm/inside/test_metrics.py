"""critest's specs about metrics (cri-tools 1.37, pod.go), restated for a node that has every controller and a network."""

from __future__ import annotations

import pytest

from cri.api import api_pb2 as api
from tests.support.client import Client
from tests.support.metrics import DESCRIBED, MANDATORY
from tests.support.requires import requires
from tests.vm.inside.conftest import MIB, Node

pytestmark = requires("controllers memory cpu io pids")

#: What need not be there, or be given once it is described.
EXEMPT = ("container_hugetlb_", "container_pressure_", "container_ulimits_soft", "container_spec_cpu_quota")


@pytest.fixture
def pod(node: Node) -> str:
    """An ordinary one, with a network of its own."""
    context = api.LinuxSandboxSecurityContext(
        namespace_options=api.NamespaceOption(pid=api.CONTAINER), seccomp=api.SecurityProfile()
    )
    return node.run_pod(node.pod_config(linux=api.LinuxPodSandboxConfig(security_context=context)))


def test_what_is_described_is_given_with_the_labels_that_are_described(node: Node, pod: str, call: Client) -> None:
    described = {each.name: each for each in call(api.ListMetricDescriptorsRequest()).descriptors}
    resources = api.LinuxContainerResources(
        cpu_period=100_000, cpu_quota=20_000, cpu_shares=1024, memory_limit_in_bytes=64 * MIB, memory_swap_limit_in_bytes=64 * MIB
    )
    container = node.create(pod, node.container_config(["top"], linux=api.LinuxContainerConfig(resources=resources)))
    node.start(container)
    for number in range(10):
        node.execute(container, "sh", "-c", f"echo {number} > /tmp/{number}; sync")
    (found,) = (each for each in call(api.ListPodSandboxMetricsRequest()).pod_metrics if each.pod_sandbox_id == pod)
    given = {each.name: len(each.label_values) for part in (found, *found.container_metrics) for each in part.metrics}
    assert set(described) >= MANDATORY | DESCRIBED
    assert set(given) >= MANDATORY
    assert {name for name in described if name not in given and not name.startswith(EXEMPT)} <= DESCRIBED
    assert given == {name: len(described[name].label_keys) for name in given}
