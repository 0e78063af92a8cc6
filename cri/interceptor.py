"""Around every RPC: a number, a log line, and an exception's way to a status.

A failure is logged here and nowhere else; below, it is only raised.  What a kubelet asks every
second is logged when it fails.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from cri.dispatch import Handler
from cri.errors import code_of, message_of

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]

#: A status travels percent-encoded, in headers of which a client takes 8 KiB: a longer message would arrive
#: as RESOURCE_EXHAUSTED.
MESSAGE_LIMIT_BYTES = 6000

#: Fields that say what an RPC is about, in the order of looking.
_SUBJECTS = ("pod_sandbox_id", "container_id")
_QUIET = ("List", "Status", "Version", "ImageFsInfo", "RuntimeConfig")

log = logging.getLogger("cri.rpc")
_numbers = itertools.count(1)


def guard(rpc: str, handler: Handler) -> Behaviour:
    """What gRPC calls for *rpc*: *handler*, with its exceptions as statuses."""
    is_quiet = rpc.startswith(_QUIET) or rpc.endswith("Status")

    async def behaviour(request: Any, context: Context) -> Any:
        number, begun = next(_numbers), time.monotonic()

        def report(level: int, code: grpc.StatusCode, message: str = "", *, trace: bool = False) -> None:
            if log.isEnabledFor(level):
                took_ms = (time.monotonic() - begun) * 1000
                log.log(level, line(rpc, number, subject(request), code, took_ms, message), exc_info=trace)

        try:
            response = await handler(request)
        except asyncio.CancelledError:
            report(logging.INFO, grpc.StatusCode.CANCELLED, "the caller went away")
            raise
        except Exception as error:
            code, message = code_of(error), clip(message_of(error), MESSAGE_LIMIT_BYTES)
            is_bug = code is grpc.StatusCode.INTERNAL
            report(_level(code), code, message, trace=is_bug)
        else:
            report(logging.DEBUG if is_quiet else logging.INFO, grpc.StatusCode.OK)
            return response
        return await context.abort(code, message)

    return behaviour


def subject(request: Any) -> str:
    """What *request* is about, as a person would say: namespace/pod, container, image, or an id's beginning."""
    fields = request.DESCRIPTOR.fields_by_name
    parts = []
    if "sandbox_config" in fields and request.HasField("sandbox_config"):
        parts.append(_pod(request.sandbox_config))
    if "config" in fields and request.HasField("config"):
        is_pod = "port_mappings" in request.config.DESCRIPTOR.fields_by_name
        parts.append(_pod(request.config) if is_pod else request.config.metadata.name)
    if not parts and "image" in fields and fields["image"].message_type is not None:
        parts.append(request.image.image)
    if not parts:
        parts += [getattr(request, name)[:13] for name in _SUBJECTS if name in fields]
    return "/".join(part for part in parts if part)


def line(rpc: str, number: int, about: str, code: grpc.StatusCode, took_ms: float, message: str) -> str:
    """One log line, name=value throughout."""
    values = {"rpc": rpc, "call": number, "about": about, "code": code.name, "ms": f"{took_ms:.1f}", "error": message}
    return " ".join(f"{name}={_quoted(value)}" for name, value in values.items() if value != "")


def clip(message: str, limit_bytes: int) -> str:
    """The beginning of *message* that has *limit_bytes* at most when it is percent-encoded."""
    left = limit_bytes
    for index, character in enumerate(message):
        left -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode(errors="replace"))
        if left < 0:
            return message[:index]
    return message


def _pod(config: Any) -> str:
    return f"{config.metadata.namespace}/{config.metadata.name}"


def _level(code: grpc.StatusCode) -> int:
    if code is grpc.StatusCode.INTERNAL:
        return logging.ERROR
    # A question about what is gone, or for what is not there yet, is an ordinary one.
    return logging.INFO if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED) else logging.WARNING


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text.isprintable() or {" ", '"', "="} & set(text) else text
