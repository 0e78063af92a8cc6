"""kernelet stop, rm, pull, rmi: what can be done to it."""

from __future__ import annotations

import argparse
import base64
import json

from cri.api import api_pb2 as api
from cri.client import Client
from cri.command import connection, tables
from cri.command.connection import Thing
from runtime.errors import InvalidArgument, NotFound

#: What docker and podman give a container to end by itself.
STOP_SECONDS = 10


def add_stop(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument(
        "-t", "--timeout", type=int, default=STOP_SECONDS, metavar="SECONDS", help="kill after that long (%(default)s)"
    )
    parser.add_argument("things", nargs="+", metavar="CONTAINER|POD", help="the beginning of an id, or a name")


def run_stop(options: argparse.Namespace) -> int:
    with connection.connect(options) as client:
        for text in options.things:
            thing = connection.find(client, text)
            _stop(client, thing, options.timeout)
            _told(options, thing)
    return 0


def add_rm(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("-f", "--force", action="store_true", help="also what runs: it is killed")
    parser.add_argument("things", nargs="+", metavar="CONTAINER|POD", help="the beginning of an id, or a name")


def run_rm(options: argparse.Namespace) -> int:
    with connection.connect(options) as client:
        for text in options.things:
            thing = connection.find(client, text)
            if not options.force and _runs(client, thing):
                raise InvalidArgument(f"{thing.kind} {text} runs: stop it first, or use --force")
            _remove(client, thing)
            _told(options, thing)
    return 0


def add_pull(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("--creds", default="", metavar="USER:PASSWORD", help="how to log in to the registry")
    parser.add_argument("image", help="a reference such as docker.io/library/busybox:1.36")


def run_pull(options: argparse.Namespace) -> int:
    auth = api.AuthConfig(auth=base64.b64encode(options.creds.encode()).decode()) if options.creds else None
    request = api.PullImageRequest(image=api.ImageSpec(image=options.image), auth=auth)
    with connection.connect(options) as client:
        answer = client.call(request, api.PullImageResponse)
    print(tables.as_json([answer]) if options.json else answer.image_ref)
    return 0


def add_rmi(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a reference, or an id")


def run_rmi(options: argparse.Namespace) -> int:
    """Each name is taken away by itself; an image goes with its last one.  Raises NotFound for one that is not here."""
    with connection.connect(options) as client:
        for name in options.images:
            wish = api.ImageSpec(image=name)
            image = client.call(api.ImageStatusRequest(image=wish), api.ImageStatusResponse).image
            if not image.id:
                raise NotFound(f"no image here has the name or id {name!r}")
            client.call(api.RemoveImageRequest(image=wish), api.RemoveImageResponse)
            _told(options, Thing("image", image.id))
    return 0


def _told(options: argparse.Namespace, thing: Thing) -> None:
    """Say that it is done: one line each, JSON or not, as soon as it is."""
    print(json.dumps(thing._asdict()) if options.json else thing.id, flush=True)


def _stop(client: Client, thing: Thing, timeout: int) -> None:
    if thing.kind == "pod":
        client.call(api.StopPodSandboxRequest(pod_sandbox_id=thing.id), api.StopPodSandboxResponse)
    else:
        client.call(api.StopContainerRequest(container_id=thing.id, timeout=timeout), api.StopContainerResponse)


def _remove(client: Client, thing: Thing) -> None:
    if thing.kind == "pod":
        client.call(api.RemovePodSandboxRequest(pod_sandbox_id=thing.id), api.RemovePodSandboxResponse)
    else:
        client.call(api.RemoveContainerRequest(container_id=thing.id), api.RemoveContainerResponse)


def _runs(client: Client, thing: Thing) -> bool:
    if thing.kind == "pod":
        answer = client.call(api.PodSandboxStatusRequest(pod_sandbox_id=thing.id), api.PodSandboxStatusResponse)
        return answer.status.state == api.SANDBOX_READY
    status = client.call(api.ContainerStatusRequest(container_id=thing.id), api.ContainerStatusResponse).status
    return status.state == api.CONTAINER_RUNNING
