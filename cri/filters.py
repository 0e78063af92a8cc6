"""The List requests' filters (pure): what is set must all match, and an id may be the beginning of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cri.api import api_pb2 as api


def sandbox_filter(wish: api.PodSandboxFilter) -> Callable[[api.PodSandbox], bool]:
    """A function that tells whether an item is one that *wish* asks for; an empty wish asks for all."""
    if not wish.ByteSize():
        return _accept_all
    sandbox_id, labels = wish.id, dict(wish.label_selector)
    state = wish.state.state if wish.HasField("state") else None

    def accepts(item: api.PodSandbox) -> bool:
        return (
            item.id.startswith(sandbox_id)
            and (state is None or item.state == state)
            and (not labels or has_labels(item.labels, labels))
        )

    return accepts


def container_filter(wish: api.ContainerFilter) -> Callable[[api.Container], bool]:
    """A function that tells whether an item is one that *wish* asks for; an empty wish asks for all."""
    if not wish.ByteSize():
        return _accept_all
    container_id, sandbox_id, labels = wish.id, wish.pod_sandbox_id, dict(wish.label_selector)
    state = wish.state.state if wish.HasField("state") else None

    def accepts(item: api.Container) -> bool:
        return (
            item.id.startswith(container_id)
            and item.pod_sandbox_id.startswith(sandbox_id)
            and (state is None or item.state == state)
            and (not labels or has_labels(item.labels, labels))
        )

    return accepts


def _accept_all(_item: object) -> bool:
    return True


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether all of *selector* is in *labels*."""
    # Not ``labels[name]`` alone: reading a map field of protobuf makes the entry.
    return all(name in labels and labels[name] == value for name, value in selector.items())
