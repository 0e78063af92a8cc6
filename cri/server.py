"""A gRPC server on a Unix socket, its methods read off the descriptor.

No generated service code: the handlers are wrapped in one place, and protoc's check of grpcio's
version has nothing to check.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from cri.contract import IMAGE, MESSAGE_LIMIT_BYTES, RUNTIME
from cri.dispatch import Handler
from cri.interceptor import Garbled, Observer, guard, guard_stream, unobserved
from cri.subject import NOBODY, Finder
from runtime.errors import InvalidArgument, WrongState

__all__ = ["IMAGE", "RUNTIME", "Server", "check_path", "generic_handlers"]

#: sun_path of a socket's address, without the closing NUL.
PATH_LIMIT_BYTES = 107

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    # A second server on the same socket must fail, not share it.
    ("grpc.so_reuseport", 0),
    # Clients may ping as often as they like: they are on this node.
    ("grpc.http2.max_ping_strikes", 0),
)


class Server:
    """Serves *services* on the socket at *path*; whoever starts it holds the lock of the run dir."""

    def __init__(
        self,
        path: Path,
        services: Mapping[ServiceDescriptor, Mapping[str, Handler]],
        finder: Finder = NOBODY,
        observe: Observer = unobserved,
    ) -> None:
        self._path = path
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(generic_handlers(services, finder, observe))

    async def start(self) -> None:
        """Listen; root and its group may connect.  Raises InvalidArgument or WrongState when that cannot be.

        A socket that a killed daemon left behind is replaced by gRPC itself, and so would be one that
        is listened on: hence the look before.
        """
        check_path(self._path)
        self._server.add_insecure_port(f"unix:{self._path}")
        os.chmod(self._path, 0o660)
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, wait for those under way, cancel them when *grace_seconds* are over."""
        await self._server.stop(grace_seconds)


def check_path(path: Path) -> None:
    """Raises InvalidArgument for a path that no socket can have, WrongState when somebody answers on it."""
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise InvalidArgument(f"socket {path}: the path has more than {PATH_LIMIT_BYTES} bytes")
    if not path.parent.is_dir():
        raise InvalidArgument(f"socket {path}: its directory is not there")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError as error:
            raise InvalidArgument(f"socket {path}: {(error.strerror or str(error)).lower()}") from None
    raise WrongState(f"socket {path}: somebody answers on it already")


def generic_handlers(
    services: Mapping[ServiceDescriptor, Mapping[str, Handler]], finder: Finder = NOBODY, observe: Observer = unobserved
) -> list[grpc.GenericRpcHandler]:
    """One handler a service.  Raises ValueError unless each table has exactly the service's RPCs."""
    handlers = []
    for service, table in services.items():
        names = {method.name for method in service.methods}
        if names != set(table):
            raise ValueError(f"{service.name}: {sorted(names ^ set(table))} are not in both the API and the table")
        methods = dict(_methods(service, table, finder, observe))
        handlers.append(grpc.method_handlers_generic_handler(service.full_name, methods))
    return handlers


def _methods(
    service: ServiceDescriptor, table: Mapping[str, Handler], finder: Finder, observe: Observer
) -> Iterable[tuple[str, grpc.RpcMethodHandler[Any, Any]]]:
    for method in service.methods:
        streams = method.server_streaming
        wrap = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        # types-grpcio knows handlers of the synchronous server only.
        behaviour: Any = (guard_stream if streams else guard)(method.name, table[method.name], finder, observe)
        read = partial(_deserialize, GetMessageClass(method.input_type))
        yield method.name, wrap(behaviour, request_deserializer=read, response_serializer=_serialize)


def _deserialize(kind: type[Message], content: bytes) -> Message | Garbled:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        return Garbled(kind(), str(error))


def _serialize(response: Message | bytes) -> bytes:
    """The bytes of *response*; a list comes encoded already (cri/encoded.py)."""
    return response if isinstance(response, bytes) else response.SerializeToString()
