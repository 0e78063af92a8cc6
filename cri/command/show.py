"""kernelet pods, ps, images, version: what there is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cri.api import api_pb2 as api
from cri.command import connection, tables
from cri.status import RUNTIME_VERSION

_PODS = {api.SANDBOX_READY: "ready", api.SANDBOX_NOTREADY: "not ready"}
_CONTAINERS = {
    api.CONTAINER_CREATED: "created",
    api.CONTAINER_RUNNING: "running",
    api.CONTAINER_EXITED: "exited",
    api.CONTAINER_UNKNOWN: "unknown",
}


def add_pods(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    _add_brief(parser)


def run_pods(options: argparse.Namespace) -> int:
    with connection.connect(options) as client:
        pods = client.call(api.ListPodSandboxRequest(), api.ListPodSandboxResponse).items
    if _printed(options, pods, lambda pod: [pod.metadata.name]):
        return 0
    rows = [
        (
            pod.id[: tables.SHORT_ID],
            pod.metadata.namespace,
            pod.metadata.name,
            str(pod.metadata.attempt),
            _PODS.get(pod.state, str(pod.state)),
            tables.age(pod.created_at),
        )
        for pod in sorted(pods, key=lambda pod: -pod.created_at)
    ]
    print(tables.table(("POD", "NAMESPACE", "NAME", "ATTEMPT", "STATE", "AGE"), rows))
    return 0


def add_ps(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("-a", "--all", action="store_true", help="also containers that do not run")
    _add_brief(parser)


def run_ps(options: argparse.Namespace) -> int:
    running = api.ContainerFilter(state=api.ContainerStateValue(state=api.CONTAINER_RUNNING))
    wish = api.ListContainersRequest(filter=None if options.all else running)
    with connection.connect(options) as client:
        containers = client.call(wish, api.ListContainersResponse).containers
        pods = client.call(api.ListPodSandboxRequest(), api.ListPodSandboxResponse).items
    if _printed(options, containers, lambda container: [container.metadata.name]):
        return 0
    names = {pod.id: f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in pods}
    rows = [
        (
            container.id[: tables.SHORT_ID],
            container.metadata.name,
            names.get(container.pod_sandbox_id, container.pod_sandbox_id[: tables.SHORT_ID]),
            container.image.image,
            _CONTAINERS.get(container.state, str(container.state)),
            tables.age(container.created_at),
        )
        for container in sorted(containers, key=lambda container: -container.created_at)
    ]
    print(tables.table(("CONTAINER", "NAME", "POD", "IMAGE", "STATE", "AGE"), rows))
    return 0


def add_images(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    _add_brief(parser)


def run_images(options: argparse.Namespace) -> int:
    with connection.connect(options) as client:
        images = client.call(api.ListImagesRequest(), api.ListImagesResponse).images
    if _printed(options, images, lambda image: image.repo_tags or image.repo_digests):
        return 0
    rows = [
        (name, image.id.removeprefix("sha256:")[: tables.SHORT_ID], tables.size(image.size))
        for image in images
        for name in (image.repo_tags or image.repo_digests or ["<none>"])
    ]
    print(tables.table(("IMAGE", "ID", "SIZE"), sorted(rows)))
    return 0


def _add_brief(parser: argparse.ArgumentParser) -> None:
    brief = parser.add_mutually_exclusive_group()
    brief.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    brief.add_argument("--names", action="store_true", help="print names only")


def _printed(options: argparse.Namespace, items: Sequence[Any], names: Callable[[Any], Iterable[str]]) -> bool:
    """Print *items* as JSON, or briefly, when that is asked for; False when a table is."""
    if options.json:
        print(tables.as_json(items))
    elif options.quiet:
        print("".join(f"{item.id}\n" for item in items), end="")
    elif options.names:
        print("".join(f"{tables.printable(name)}\n" for name in sorted({name for item in items for name in names(item)})), end="")
    return bool(options.json or options.quiet or options.names)


def add_version(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)


def run_version(options: argparse.Namespace) -> int:
    """The command's own version comes first: it is wanted most when no daemon answers."""
    if not options.json:
        print(f"kernelet {RUNTIME_VERSION}", flush=True)
    with connection.connect(options) as client:
        answer = client.call(api.VersionRequest(), api.VersionResponse)
    if options.json:
        print(tables.as_json([answer]))
    else:
        print(f"daemon   {answer.runtime_name} {answer.runtime_version}, CRI {answer.runtime_api_version}")
    return 0
