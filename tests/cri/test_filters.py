"""Filters are pure: what is not set does not count, what is set must all match."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cri import filters
from cri.api import api_pb2 as api

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "1", "2"]), max_size=3)
POD = api.PodSandbox(id="abc", state=api.SANDBOX_READY, labels={"a": "1"})
CONTAINER = api.Container(id="abc", pod_sandbox_id="xyz", state=api.CONTAINER_RUNNING, labels={"a": "1"})


def test_an_empty_filter_accepts_all() -> None:
    assert filters.sandbox_filter(api.PodSandboxFilter())(POD)
    assert filters.container_filter(api.ContainerFilter())(CONTAINER)


def test_the_first_state_is_a_state_too() -> None:
    """SANDBOX_READY and CONTAINER_CREATED are zero: only the message around them tells that they were asked for."""
    ready = api.PodSandboxFilter(state=api.PodSandboxStateValue(state=api.SANDBOX_READY))
    assert filters.sandbox_filter(ready)(POD)
    assert not filters.sandbox_filter(ready)(api.PodSandbox(id="a", state=api.SANDBOX_NOTREADY))
    created = api.ContainerFilter(state=api.ContainerStateValue(state=api.CONTAINER_CREATED))
    assert not filters.container_filter(created)(CONTAINER)


def test_ids_by_their_beginning() -> None:
    assert filters.container_filter(api.ContainerFilter(id="ab", pod_sandbox_id="x"))(CONTAINER)
    assert not filters.container_filter(api.ContainerFilter(id="bc"))(CONTAINER)
    assert not filters.container_filter(api.ContainerFilter(id="ab", pod_sandbox_id="a"))(CONTAINER)


@given(LABELS, LABELS)
def test_a_selector_is_a_part_of_the_labels(labels: dict[str, str], selector: dict[str, str]) -> None:
    item = api.PodSandbox(labels=labels)
    wanted = selector.items() <= labels.items()
    assert filters.sandbox_filter(api.PodSandboxFilter(label_selector=selector))(item) is wanted
    assert dict(item.labels) == labels
