"""The remotecommand protocol: a client's streams on one side, a process on the other, its exit code at the end.

```
    stdin  ──> process        its end closes the process's stdin
    resize ──> terminal       {"Width": 80, "Height": 24}, one after the other
    stdout, stderr <── process
    error  <── how it ended   a metav1.Status (v4, v5), or a text when it went wrong (before)
```

The end is said on error first, and then all three end: a client waits for these (k8s.io/client-go, remotecommand).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cri.errors import message_of
from cri.streaming.streams import Stream
from runtime.errors import KerneletError, TimedOut
from runtime.session import Session, Sink, Source

Result = TypeVar("Result")
Closable = TypeVar("Closable", Session, socket.socket)
#: Runs a function that blocks in a thread.
InThread = Callable[..., Awaitable[Any]]

#: How long nothing more may come from a process that has ended, before what it left running is not waited for.
QUIET_SECONDS = 0.1
#: What a process may have written when it ended, and nobody has read: no pipe holds more.
LAST_BYTES = 1 << 20
#: How long the end of an attached process may come after that of its outputs.
OVER_SECONDS = 5.0
MAX_RESIZE = 4096
STATUS_VERSIONS = frozenset({"v4.channel.k8s.io", "v5.channel.k8s.io"})
RESIZE_VERSIONS = STATUS_VERSIONS | {"v3.channel.k8s.io"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the RPC asked for."""

    stdin: bool
    stdout: bool
    stderr: bool
    terminal: bool

    def names(self, version: str) -> list[str]:
        """The streams that a client opens that speaks *version*; a terminal has no stderr."""
        named = {
            "error": True,
            "stdin": self.stdin,
            "stdout": self.stdout,
            "stderr": self.stderr and not self.terminal,
            "resize": self.terminal and version in RESIZE_VERSIONS,
        }
        return [name for name, is_wanted in named.items() if is_wanted]


async def serve(streams: dict[str, Stream], version: str, open_session: Callable[[], Session], in_thread: InThread) -> str:
    """Connect the streams with a new session, until its process has ended and that is said; how it ended, in words.

    Cancelled, or when the client has gone, the session is closed: that ends an exec'd process.
    """
    error = streams["error"]
    error.discard()
    try:
        session = await opened(open_session, in_thread)
    except (KerneletError, OSError) as reason:
        outcome = message_of(reason)
        await _say_failure(error, version, outcome)
    else:
        try:
            code = await _connected(streams, session, in_thread)
            outcome = f"exit code {code}"
            await _say_end(error, version, code)
        except KerneletError as reason:
            outcome = message_of(reason)
            await _say_failure(error, version, outcome)
        finally:
            await _surely(in_thread(session.close))
    for name in ("stdout", "stderr", "error"):
        if name in streams:
            streams[name].end()
    return outcome


async def opened(open_it: Callable[[], Closable], in_thread: InThread) -> Closable:
    """What *open_it* makes in a thread; cancelled meanwhile, it is waited for and closed."""
    opening = asyncio.ensure_future(in_thread(open_it))
    try:
        made: Closable = await asyncio.shield(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(KerneletError, OSError):
            await _surely(in_thread((await _surely(opening)).close))
        raise
    return made


async def _surely(act: Awaitable[Result]) -> Result:
    """What *act* returns, waited for also when this task is cancelled meanwhile."""
    task = asyncio.ensure_future(act)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise


async def _connected(streams: dict[str, Stream], session: Session, in_thread: InThread) -> int:
    """Pass everything on until the process has ended; its exit code.  Raises MonitorLost."""
    listening = [asyncio.ensure_future(_listen(streams["resize"], session))] if "resize" in streams else []
    if "stdin" in streams:
        if session.stdin is None:  # the container's has ended for good
            streams["stdin"].discard()
        else:
            listening.append(asyncio.ensure_future(_hear(streams["stdin"], session.stdin, in_thread)))
    outputs = [(session.stdout, streams.get("stdout")), (session.stderr, streams.get("stderr"))]
    pairs = [(source, stream) for source, stream in outputs if source is not None and stream is not None]
    telling = [asyncio.ensure_future(_tell(source, stream)) for source, stream in pairs]
    try:
        if session.outputs_end:
            await asyncio.gather(*telling)
            return await _end_after_outputs(session, OVER_SECONDS if telling else None)
        code = await _end_of(session)
        await _stop(telling)
        await asyncio.gather(*(_tell(source, stream, LAST_BYTES) for source, stream in pairs))
        return code
    finally:
        await _stop([*listening, *telling])
        for name in ("stdin", "resize"):
            if name in streams:
                streams[name].discard()


async def _end_of(session: Session) -> int:
    """The exit code.  Not asyncio.wrap_future: cancelled, that would make an end of its own."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the daemon has stopped meanwhile
            loop.call_soon_threadsafe(ended.set)

    session.ended.add_done_callback(wake)
    await ended.wait()
    return session.wait(0)


async def _end_after_outputs(session: Session, patience_seconds: float | None) -> int:
    """The exit code, which comes right after the end of the outputs, or not at all.  Raises TimedOut."""
    try:
        return await asyncio.wait_for(_end_of(session), patience_seconds)
    except TimeoutError:
        raise TimedOut(
            "attach: the output has ended, though the container runs on: "
            "nobody has read it for too long, or the container has closed it; attach again"
        ) from None


async def _stop(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, ConnectionError):
            log.error("streaming: %r", result, exc_info=result)


async def _hear(stream: Stream, sink: Sink, in_thread: InThread) -> None:
    """What the client says, to the process; its end, too, or what else the process does not read."""
    while said := await stream.read():
        view = memoryview(said)
        while view:
            taken = sink.write(view)
            if taken is None:
                stream.discard()
                return
            view = view[taken:]
            if not taken:
                await _ready_to_take(sink)
    await in_thread(sink.close)


async def _tell(source: Source, stream: Stream, last_bytes: int | None = None) -> None:
    """What the process says, to the client, to its end; with *last_bytes* so much at most, of what is there already."""
    left = last_bytes
    while left is None or left > 0:
        said = source.read()
        if said:
            await stream.write(said)
            left = None if left is None else left - len(said)
        elif said is not None or not await _ready_to_say(source, None if left is None else QUIET_SECONDS):
            return


async def _listen(stream: Stream, session: Session) -> None:
    """Sizes for the terminal."""
    text, decoder = "", json.JSONDecoder()
    while said := await stream.read():
        text = (text + said.decode("utf-8", "replace")).lstrip()
        for size, rest in _objects(text, decoder):
            text = rest
            width, height = size.get("Width"), size.get("Height")
            if isinstance(width, int) and isinstance(height, int):
                session.resize(width, height)
        if len(text) > MAX_RESIZE:  # that is no size, and never will be
            stream.discard()
            return


def _objects(text: str, decoder: json.JSONDecoder) -> Iterator[tuple[dict[str, Any], str]]:
    """The JSON objects at the beginning of *text*, each with what comes after it."""
    while text:
        try:
            found, end = decoder.raw_decode(text)
        except (json.JSONDecodeError, RecursionError):
            return
        text = text[end:].lstrip()
        yield found if isinstance(found, dict) else {}, text


async def _say_end(error: Stream, version: str, code: int) -> None:
    reason = f"command terminated with non-zero exit code: {code}"
    if version in STATUS_VERSIONS:
        await error.write(json.dumps(_success() if code == 0 else _exit(code, reason)).encode())
    elif code:
        await error.write(reason.encode())


async def _say_failure(error: Stream, version: str, reason: str) -> None:
    status = {"metadata": {}, "status": "Failure", "message": reason, "reason": "InternalError", "code": 500}
    await error.write(json.dumps(status).encode() if version in STATUS_VERSIONS else reason.encode())


def _success() -> dict[str, Any]:
    return {"metadata": {}, "status": "Success"}


def _exit(code: int, reason: str) -> dict[str, Any]:
    details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    return {"metadata": {}, "status": "Failure", "message": reason, "reason": "NonZeroExitCode", "details": details}


async def _ready_to_take(sink: Sink) -> None:
    loop = asyncio.get_running_loop()
    ready, number = asyncio.Event(), sink.fileno()
    loop.add_writer(number, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(number)


async def _ready_to_say(source: Source, patience_seconds: float | None) -> bool:
    """Whether there is something to read, or an end; not within *patience_seconds*."""
    loop = asyncio.get_running_loop()
    ready, number = asyncio.Event(), source.fileno()
    loop.add_reader(number, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), patience_seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(number)
    return True
