"""The List requests' filters (pure): what is set must all match, and an id may be the beginning of one."""

from __future__ import annotations

from collections.abc import Mapping

from cri.api import api_pb2 as api


def accepts_sandbox(wish: api.PodSandboxFilter, item: api.PodSandbox) -> bool:
    """Whether *item* is one that *wish* asks for; an empty wish asks for all."""
    return (
        item.id.startswith(wish.id)
        and (not wish.HasField("state") or item.state == wish.state.state)
        and _has_labels(item.labels, wish.label_selector)
    )


def accepts_container(wish: api.ContainerFilter, item: api.Container) -> bool:
    """Whether *item* is one that *wish* asks for; an empty wish asks for all."""
    return (
        item.id.startswith(wish.id)
        and item.pod_sandbox_id.startswith(wish.pod_sandbox_id)
        and (not wish.HasField("state") or item.state == wish.state.state)
        and _has_labels(item.labels, wish.label_selector)
    )


def _has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    # Not ``labels[name]``: reading a map field of protobuf makes the entry.
    return all(name in labels and labels[name] == value for name, value in selector.items())
