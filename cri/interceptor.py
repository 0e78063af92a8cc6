"""Around every RPC: a number, a log line, and an exception's way to a status.

A failure is logged here and nowhere else; below, it is only raised.  What a kubelet asks every
second is logged when it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import Message

from cri.dispatch import Handler
from cri.errors import code_of, message_of
from cri.lines import pairs
from cri.subject import NOBODY, Finder, Subject, current, of_request
from runtime.errors import InvalidArgument

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
#: Told of each call that ended: RPC, status code, seconds.
Observer = Callable[[str, str, float], None]

#: A status travels percent-encoded, in headers of which a client takes 8 KiB: a longer message would arrive
#: as RESOURCE_EXHAUSTED.
MESSAGE_LIMIT_BYTES = 6000

_IDS = {"pod_sandbox_id": "sandbox_id", "container_id": "container_id"}
_QUIET = ("List", "Status", "Stream", "Version", "ImageFsInfo", "RuntimeConfig")
_QUIET_ENDS = ("Status", "Stats")

log = logging.getLogger("cri.rpc")
_numbers = itertools.count(1)


def unobserved(_rpc: str, _code: str, _seconds: float) -> None:
    """Keeps no account."""


def guard(rpc: str, handler: Handler, finder: Finder = NOBODY, observe: Observer = unobserved) -> Behaviour:
    """What gRPC calls for *rpc*: *handler*, with its exceptions as statuses; *finder* knows whose an id is."""

    async def behaviour(request: Any, context: Context) -> Any:
        call = _Call(rpc, request, finder, observe)
        with call.left():
            try:
                response = await handler(_whole(request))
            except Exception as error:
                code, message = call.failed(error)
            else:
                asyncio.get_running_loop().call_soon(call.report_success())  # the answer goes first (0.07 ms)
                return response
        return await context.abort(code, message)

    return behaviour


def guard_stream(rpc: str, handler: Handler, finder: Finder = NOBODY, observe: Observer = unobserved) -> Behaviour:
    """The same for an RPC that answers with a stream: *handler* returns its messages, which are closed when the caller leaves."""

    async def behaviour(request: Any, context: Context) -> None:
        call = _Call(rpc, request, finder, observe)
        with call.left():
            try:
                async with contextlib.aclosing(await handler(_whole(request))) as messages:
                    # From here on nothing is missed, and the caller may know.
                    await context.send_initial_metadata(())
                    async for message in messages:
                        await context.write(message)
            except Exception as error:
                code, message = call.failed(error)
            else:
                call.report_success()()
                return
        await context.abort(code, message)

    return behaviour


class Garbled(NamedTuple):
    """What arrived in place of a request, and is none; *empty* is one in which nothing is said."""

    empty: Message
    reason: str


def _whole(request: Any) -> Any:
    """*request*, unless it is none: gRPC would call that an error of ours."""
    if isinstance(request, Garbled):
        raise InvalidArgument(f"not a {request.empty.DESCRIPTOR.name}: {request.reason}")
    return request


class _Call:
    """One call on its way: its number, whom it is about, and when it began."""

    def __init__(self, rpc: str, request: Any, finder: Finder, observe: Observer) -> None:
        request = request.empty if isinstance(request, Garbled) else request
        self._rpc, self._request, self._observe = rpc, request, observe
        self._number, self._begun = next(_numbers), time.monotonic()
        # Now: of what is removed nobody will know the name.
        self._about = of_request(request, finder)
        current.set(self._about)

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """For the time in which the caller may go away: that is reported."""
        try:
            yield
        except asyncio.CancelledError:
            self._report(logging.INFO, grpc.StatusCode.CANCELLED, "the caller went away")
            raise

    def failed(self, error: Exception) -> tuple[grpc.StatusCode, str]:
        """Report *error*; the status to answer with."""
        code, message = code_of(error), clip(message_of(error), MESSAGE_LIMIT_BYTES)
        self._report(_level(code), code, message, trace=code is grpc.StatusCode.INTERNAL)
        return code, message

    def report_success(self) -> Callable[[], None]:
        """What reports that it ended now, and well."""
        is_quiet = self._rpc.startswith(_QUIET) or self._rpc.endswith(_QUIET_ENDS)
        level, seconds = logging.DEBUG if is_quiet else logging.INFO, time.monotonic() - self._begun
        return partial(self._report, level, grpc.StatusCode.OK, seconds=seconds)

    def _report(
        self, level: int, code: grpc.StatusCode, message: str = "", *, trace: bool = False, seconds: float | None = None
    ) -> None:
        seconds = time.monotonic() - self._begun if seconds is None else seconds
        self._observe(self._rpc, code.name, seconds)
        if log.isEnabledFor(level):
            values = fields(self._rpc, self._number, self._about, self._request, code, seconds * 1000, message)
            log.log(level, pairs(values), exc_info=trace, extra={"fields": values})


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
