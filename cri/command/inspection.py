"""kernelet inspect: all that the daemon says of a container, a pod or an image, as JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from cri.api import api_pb2 as api
from cri.client import Client
from cri.command import connection
from runtime.errors import NotFound


def add_inspect(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("things", nargs="+", metavar="CONTAINER|POD|IMAGE", help="the beginning of an id, or a name")


def run_inspect(options: argparse.Namespace) -> int:
    with connection.connect(options) as client:
        print(json.dumps([_inspect(client, text) for text in options.things], indent=2))
    return 0


def _inspect(client: Client, text: str) -> dict[str, Any]:
    """What is *text*; what it names may be an image when it is no container and no pod."""
    try:
        thing = connection.find(client, text)
    except NotFound as error:
        image = client.call(api.ImageStatusRequest(image=api.ImageSpec(image=text), verbose=True), api.ImageStatusResponse)
        if not image.HasField("image"):
            raise NotFound(str(error).replace("no container or pod", "no container, pod or image")) from None
        return _document("image", image)
    if thing.kind == "pod":
        pod = api.PodSandboxStatusRequest(pod_sandbox_id=thing.id, verbose=True)
        return _document("pod", client.call(pod, api.PodSandboxStatusResponse))
    container = api.ContainerStatusRequest(container_id=thing.id, verbose=True)
    return _document("container", client.call(container, api.ContainerStatusResponse))


def _document(kind: str, answer: Message) -> dict[str, Any]:
    """The answer with the field names of the CRI; what is JSON in a string is taken out of it."""
    document = MessageToDict(answer, preserving_proto_field_name=True)
    info = {name: _decoded(text) for name, text in document.pop("info", {}).items()}
    return {"kind": kind, **document, **({"info": info} if info else {})}


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
