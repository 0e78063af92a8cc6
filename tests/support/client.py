"""The kubelet's side of the socket: ``client(api.VersionRequest()).runtime_version``.

Every RPC of the CRI has a request type of its own, so the request says which RPC is meant.  Read off the
descriptor, as the server is: the client can call what the contract has and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cri.api import api_pb2 as api

#: A call that takes longer has hung: the slowest thing a test asks for is a container's start.
DEADLINE_SECONDS = 30.0

METHODS: dict[str, MethodDescriptor] = {
    method.input_type.full_name: method for service in api.DESCRIPTOR.services_by_name.values() for method in service.methods
}


class Client:
    """A connection to a daemon; use it in ``with``."""

    def __init__(self, socket: Path | str) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}", [("grpc.max_receive_message_length", 16 << 20)])

    def __call__(self, request: Message, *, deadline_seconds: float = DEADLINE_SECONDS) -> Any:
        """The answer to *request*; grpc.RpcError with the daemon's status code and message."""
        method = METHODS[request.DESCRIPTOR.full_name]
        if method.server_streaming:
            raise TypeError(f"{method.name} answers with a stream: ask for it with stream()")
        return self._call("unary_unary", method)(request, timeout=deadline_seconds)

    def raw(self, request: Message, *, deadline_seconds: float = DEADLINE_SECONDS) -> bytes:
        """The bytes of the answer to *request*."""
        answer: bytes = self._call("unary_unary", METHODS[request.DESCRIPTOR.full_name], raw=True)(
            request, timeout=deadline_seconds
        )
        return answer

    def stream(self, request: Message, *, deadline_seconds: float = DEADLINE_SECONDS) -> Iterator[Any]:
        """The answers to *request* as they arrive."""
        method = METHODS[request.DESCRIPTOR.full_name]
        answers: Iterator[Any] = self._call("unary_stream", method)(request, timeout=deadline_seconds)
        return answers

    def wait_until_ready(self, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """Return when the daemon accepts calls; grpc.FutureTimeoutError when it does not in time."""
        grpc.channel_ready_future(self._channel).result(timeout=deadline_seconds)

    def close(self) -> None:
        self._channel.close()

    def _call(self, kind: str, method: MethodDescriptor, *, raw: bool = False) -> Any:
        return getattr(self._channel, kind)(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=None if raw else GetMessageClass(method.output_type).FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
