"""Around every RPC: a number, a log line, and an exception's way to a status.

A failure is logged here and nowhere else; below, it is only raised.  What a kubelet asks every
second is logged when it fails.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from cri.dispatch import Handler
from cri.errors import code_of, message_of
from cri.lines import pairs
from cri.subject import NOBODY, Finder, Subject, current, of_request

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]

#: A status travels percent-encoded, in headers of which a client takes 8 KiB: a longer message would arrive
#: as RESOURCE_EXHAUSTED.
MESSAGE_LIMIT_BYTES = 6000

_IDS = {"pod_sandbox_id": "sandbox_id", "container_id": "container_id"}
_QUIET = ("List", "Status", "Version", "ImageFsInfo", "RuntimeConfig")

log = logging.getLogger("cri.rpc")
_numbers = itertools.count(1)


def guard(rpc: str, handler: Handler, finder: Finder = NOBODY) -> Behaviour:
    """What gRPC calls for *rpc*: *handler*, with its exceptions as statuses; *finder* knows whose an id is."""
    is_quiet = rpc.startswith(_QUIET) or rpc.endswith("Status")

    async def behaviour(request: Any, context: Context) -> Any:
        number, begun = next(_numbers), time.monotonic()
        # Now: of what is removed nobody will know the name.
        about = of_request(request, finder)
        current.set(about)

        def report(level: int, code: grpc.StatusCode, message: str = "", *, trace: bool = False) -> None:
            if log.isEnabledFor(level):
                took_ms = (time.monotonic() - begun) * 1000
                values = fields(rpc, number, about, request, code, took_ms, message)
                log.log(level, pairs(values), exc_info=trace, extra={"fields": values})

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


def fields(
    rpc: str, number: int, about: Subject, request: Any, code: grpc.StatusCode, took_ms: float, message: str
) -> dict[str, object]:
    """A call as the fields of a log line; *about* is followed by what else says what it was for."""
    values: dict[str, object] = {"rpc": rpc, "call": number, **about.fields(), **_rest(request)}
    values |= {"code": code.name, "ms": f"{took_ms:.1f}"}
    return values | ({"error": message} if message else {})


def clip(message: str, limit_bytes: int) -> str:
    """The beginning of *message* that has *limit_bytes* at most when it is percent-encoded."""
    left = limit_bytes
    for index, character in enumerate(message):
        left -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode(errors="replace"))
        if left < 0:
            return message[:index]
    return message


def _rest(request: Any) -> dict[str, str]:
    """The image that *request* names, and the beginnings of the ids in it."""
    known = request.DESCRIPTOR.fields_by_name
    image = request.image.image if "image" in known and known["image"].message_type is not None else ""
    ids = {short: getattr(request, name)[:13] for name, short in _IDS.items() if name in known}
    return {name: value for name, value in {"image": image, **ids}.items() if value}


def _level(code: grpc.StatusCode) -> int:
    if code is grpc.StatusCode.INTERNAL:
        return logging.ERROR
    # A question about what is gone, or for what is not there yet, is an ordinary one.
    return logging.INFO if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED) else logging.WARNING
