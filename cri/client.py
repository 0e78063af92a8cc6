"""A small client of the CRI: the commands' and the tests' way to a daemon, ours or another."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cri.api import api_pb2 as api
from cri.contract import IMAGE, MESSAGE_LIMIT_BYTES, RUNTIME

Response = TypeVar("Response", bound=Message)

QUICK_SECONDS = 20.0

#: RPC by the request's name: no two RPCs share a request.
_METHODS = {method.input_type.full_name: method for service in (RUNTIME, IMAGE) for method in service.methods}


class Client:
    """One connection; ``with Client(path) as client: client.call(api.VersionRequest(), api.VersionResponse)``."""

    def __init__(self, path: Path) -> None:
        options = [
            ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
            ("grpc.default_authority", "localhost"),
        ]
        self._channel = grpc.insecure_channel(f"unix:{path}", options=options)

    def call(self, request: Message, response: type[Response], timeout_seconds: float | None = None) -> Response:
        """The answer to *request*, which must be a *response*.  Raises grpc.RpcError with the status.

        Without a time to wait, what a daemon answers from memory is waited for ``QUICK_SECONDS``, all else until it is done.
        """
        method = _METHODS[request.DESCRIPTOR.full_name]
        if timeout_seconds is None and (method.name.startswith(("List", "Version")) or method.name.endswith("Status")):
            timeout_seconds = QUICK_SECONDS
        rpc = self._channel.unary_unary(
            _path(method),
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        answer: Response = rpc(request, timeout=timeout_seconds)
        return answer

    def stream(self, request: Message, timeout_seconds: float | None = None) -> Any:
        """The answers to *request* as they come, an iterator with grpc's ``cancel``.  Raises grpc.RpcError with the status."""
        method = _METHODS[request.DESCRIPTOR.full_name]
        rpc = self._channel.unary_stream(
            _path(method),
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return rpc(request, timeout=timeout_seconds)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def container_status(client: Client, container_id: str) -> api.ContainerStatus:
    """The status of one container, which the commands need most."""
    return client.call(api.ContainerStatusRequest(container_id=container_id), api.ContainerStatusResponse).status
