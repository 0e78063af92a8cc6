"""What a log line is about: the pod and the container that a request names, or that an id in a text means."""

from __future__ import annotations

import contextvars
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runtime.errors import KerneletError

if TYPE_CHECKING:  # it brings the whole runtime along
    from cri.node import Node

#: A whole id, or the beginning of one as messages have it.
_ID = re.compile(r"\b[0-9a-f]{13}(?:[0-9a-f]{51})?\b")


@dataclass(frozen=True, slots=True)
class Subject:
    """A pod, maybe a container in it; empty for neither."""

    namespace: str = ""
    pod: str = ""
    container: str = ""

    def fields(self) -> dict[str, str]:
        """The names of fields in a log line, and what they say here."""
        named = {"namespace": self.namespace, "pod": self.pod, "container": self.container}
        return {name: value for name, value in named.items() if value}


_NOBODY = Subject()

#: Of the request that is being answered; a thread that works on it has a copy of the context.
current: contextvars.ContextVar[Subject] = contextvars.ContextVar("subject", default=_NOBODY)


class Finder:
    """Knows whose an id is, or its beginning; without a node, or of none that is there, nobody's."""

    def __init__(self, node: Node | None = None) -> None:
        self._node = node

    def sandbox(self, prefix: str) -> Subject:
        try:
            config = None if self._node is None else self._node.find_sandbox(prefix).config
        except KerneletError:
            return _NOBODY
        return _NOBODY if config is None else Subject(config.namespace, config.name)

    def container(self, prefix: str) -> Subject:
        try:
            container = None if self._node is None else self._node.find_container(prefix)
        except KerneletError:
            return _NOBODY
        return _NOBODY if container is None else replace(self.sandbox(container.sandbox_id), container=container.config.name)

    def text(self, text: str) -> Subject:
        """The first container or pod whose id is in *text*."""
        for match in _ID.finditer(text):
            for find in (self.container, self.sandbox):
                if (found := find(match.group())) != _NOBODY:
                    return found
        return _NOBODY


#: Of who has no node.
NOBODY = Finder()


def of_request(request: Any, finder: Finder) -> Subject:
    """What *request* is about, by the metadata in it or by its id."""
    pod, container = Subject(), ""
    for config in _configs(request):
        if "namespace" in config.metadata.DESCRIPTOR.fields_by_name:
            pod = Subject(config.metadata.namespace, config.metadata.name)
        else:
            container = config.metadata.name
    fields = request.DESCRIPTOR.fields_by_name
    for name, find in (("container_id", finder.container), ("pod_sandbox_id", finder.sandbox)):
        if pod == _NOBODY and name in fields and (prefix := getattr(request, name)):
            pod = find(prefix)
    return Subject(pod.namespace, pod.pod, container or pod.container)


def _configs(request: Any) -> Iterator[Any]:
    """The configurations of a pod or a container in *request*."""
    fields = request.DESCRIPTOR.fields_by_name
    for name in ("sandbox_config", "config"):
        if name in fields and fields[name].message_type is not None and request.HasField(name):
            config = getattr(request, name)
            if "metadata" in config.DESCRIPTOR.fields_by_name:
                yield config
