"""What every client command shares: where the daemon is, and how people name what it has."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple, TypeVar

from cri import config_files
from cri.api import api_pb2 as api
from cri.client import Client
from runtime.errors import InvalidArgument, NotFound

T = TypeVar("T")


class Thing(NamedTuple):
    """A container or a pod, by its whole id."""

    kind: str
    id: str


def add_options(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("KERNELET_SOCKET") or config_files.find_socket()
    parser.add_argument("--socket", type=Path, default=Path(default), help="the daemon's socket ($KERNELET_SOCKET, %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def connect(options: argparse.Namespace) -> Client:
    return Client(options.socket)


def find_container(client: Client, text: str) -> api.Container:
    """The container that *text* names: the beginning of its id, or its name.  Raises NotFound or InvalidArgument."""
    items = client.call(api.ListContainersRequest(), api.ListContainersResponse).containers
    found = [item for item in items if item.id.startswith(text)] or [i for i in items if i.metadata.name == text]
    # A name lives on over attempts: people mean the one that runs.
    running = [item for item in found if item.state == api.CONTAINER_RUNNING]
    return _only(running or found, text, "container")


def find(client: Client, text: str) -> Thing:
    """The container or pod that *text* names.  Raises NotFound or InvalidArgument."""
    containers = client.call(api.ListContainersRequest(), api.ListContainersResponse).containers
    pods = client.call(api.ListPodSandboxRequest(), api.ListPodSandboxResponse).items
    found = [Thing("container", item.id) for item in containers if item.id.startswith(text)]
    found += [Thing("pod", item.id) for item in pods if item.id.startswith(text)]
    if not found:
        found = [Thing("container", item.id) for item in containers if item.metadata.name == text]
        found += [Thing("pod", item.id) for item in pods if item.metadata.name == text]
    return _only(found, text, "container or pod")


def _only(found: list[T], text: str, what: str) -> T:
    if not text or not found:
        raise NotFound(f"no {what} has an id that begins with {text!r}, nor that name")
    if len(found) > 1:
        raise InvalidArgument(f"{len(found)} of them are {text!r}: give more of the id")
    return found[0]
