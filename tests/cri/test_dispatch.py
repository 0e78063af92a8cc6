"""How bodies are run: callers join an act, leave it, and never hold up the loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from cri.dispatch import WORK_THREADS, Dispatch, not_yet
from runtime.errors import Unsupported, WrongState


@pytest.fixture
def dispatch() -> Iterator[Dispatch]:
    made = Dispatch()
    yield made
    made.close()


class Act:
    """A body that can be held up, and counts how often it was run."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.runs = 0
        self.error: Exception | None = None

    def __call__(self, request: str) -> str:
        self.runs += 1
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return f"done {self.runs} {request}"


def key(request: str) -> str:
    return request[0]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_callers_with_the_same_request_share_one_act(dispatch: Dispatch) -> None:
    act = Act()

    async def main() -> None:
        handler = dispatch.once(key, act)
        calls = [asyncio.ensure_future(handler("a1")) for _ in range(3)]
        await settle()
        act.go.set()
        assert await asyncio.gather(*calls) == ["done 1 a1"] * 3
        # and when it is over, the next one runs anew
        assert await handler("a1") == "done 2 a1"

    run(main())


def test_different_keys_do_not_wait_for_each_other(dispatch: Dispatch) -> None:
    slow, quick = Act(), Act()
    quick.go.set()

    async def main() -> None:
        handler = dispatch.once(key, lambda request: (slow if request == "a" else quick)(request))
        waiting = asyncio.ensure_future(handler("a"))
        assert await handler("b") == "done 1 b"
        assert not waiting.done()
        slow.go.set()
        await waiting

    run(main())


def test_another_request_with_the_same_key_is_refused_while_the_first_runs(dispatch: Dispatch) -> None:
    act = Act()

    async def main() -> None:
        handler = dispatch.once(key, act)
        first = asyncio.ensure_future(handler("a1"))
        await settle()
        with pytest.raises(WrongState):
            await handler("a2")
        act.go.set()
        await first

    run(main())


def test_an_act_goes_on_without_its_callers_and_can_be_joined_again(dispatch: Dispatch) -> None:
    act = Act()

    async def main() -> None:
        handler = dispatch.once(key, act)
        first = asyncio.ensure_future(handler("a"))
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        again = asyncio.ensure_future(handler("a"))
        await settle()
        act.go.set()
        assert await again == "done 1 a"
        assert act.runs == 1

    run(main())


def test_a_failure_that_nobody_waits_for_is_logged_once(dispatch: Dispatch, caplog: pytest.LogCaptureFixture) -> None:
    act = Act()
    act.error = ValueError("broken")

    async def main() -> None:
        handler = dispatch.once(key, act)
        lonely = asyncio.ensure_future(handler("a"))
        await settle()
        lonely.cancel()
        await settle()
        act.go.set()
        while not caplog.records:
            await asyncio.sleep(0.001)
        awaited = asyncio.ensure_future(handler("a"))
        with pytest.raises(ValueError, match="broken"):
            await awaited

    with caplog.at_level(logging.WARNING):
        run(main())
    assert [record.getMessage() for record in caplog.records] == ["a failed after its callers went away: broken"]


def test_a_cancelled_call_sets_its_event(dispatch: Dispatch) -> None:
    seen = threading.Event()

    def body(request: str, cancelled: threading.Event) -> str:
        if cancelled.wait(10):
            seen.set()
        return request

    async def main() -> None:
        call = asyncio.ensure_future(dispatch.cancellable(body)("a"))
        await settle()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(seen.wait, 10)

    run(main())


def test_a_call_that_is_not_cancelled_is_only_a_call(dispatch: Dispatch) -> None:
    async def main() -> None:
        assert await dispatch.cancellable(lambda request, cancelled: (request, cancelled.is_set()))("a") == ("a", False)

    run(main())


def test_waiting_for_others_does_not_keep_work_from_being_done(dispatch: Dispatch) -> None:
    gate = threading.Event()

    async def main() -> None:
        slow = dispatch.waiting(lambda request: gate.wait(10))
        waiting = [asyncio.ensure_future(slow(number)) for number in range(100)]
        assert await dispatch.threaded(lambda request: request)("work") == "work"
        gate.set()
        assert all(await asyncio.gather(*waiting))

    run(main())


def test_pods_that_wait_for_their_network_do_not_keep_work_from_being_done(
    dispatch: Dispatch,
) -> None:
    act = Act()

    async def main() -> None:
        pods = dispatch.once(lambda request: request, act, waits=True)
        hanging = [asyncio.ensure_future(pods(f"pod {number}")) for number in range(WORK_THREADS)]
        await settle()
        assert await dispatch.threaded(str.upper)("start") == "START"
        act.go.set()
        await asyncio.gather(*hanging)

    run(main())


def test_inline_runs_on_the_loop_and_threaded_does_not(dispatch: Dispatch) -> None:
    async def main() -> None:
        here = threading.get_ident()
        assert await dispatch.inline(lambda request: threading.get_ident())(None) == here
        assert await dispatch.threaded(lambda request: threading.get_ident())(None) != here

    run(main())


def test_what_is_not_there_yet_says_so() -> None:
    async def answer(request: object) -> None:
        await not_yet("attach")(request)

    with pytest.raises(Unsupported, match=r"^attach is not implemented"):
        run(answer(None))
