"""Events over the socket: complete, in order, to all; and an end for who does not read."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from itertools import islice
from typing import Any

import grpc
import pytest

from cri import events
from cri.api import api_pb2 as api
from cri.events import Events
from runtime.errors import TooMany
from runtime.events import Kind
from tests.cri.conftest import Daemon
from tests.cri.fake import FakeNode
from tests.support import wait, wishes


@pytest.fixture
def stream(daemon: Daemon) -> Iterator[Any]:
    """A stream that is being listened to; ended after the test."""
    call = opened(daemon)
    yield call
    call.cancel()


def opened(daemon: Daemon) -> Any:
    call = daemon.client.stream(api.GetEventsRequest())
    call.initial_metadata()  # from here on nothing is missed
    return call


def test_an_event_has_the_status_of_the_pod_and_of_all_its_containers(daemon: Daemon, stream: Any) -> None:
    pod = daemon.pod("web", labels={"app": "web"})
    first, second = daemon.container(pod, "first", annotations={"note": "é"}), daemon.container(pod, "second")
    daemon.container(daemon.pod("other"), "elsewhere")
    change = daemon.node.tell(Kind.STARTED, pod, second)
    found = next(stream)
    assert (found.container_id, found.container_event_type) == (second, api.CONTAINER_STARTED_EVENT)
    assert found.created_at == change.at_ns
    status = daemon.client.call(api.PodSandboxStatusRequest(pod_sandbox_id=pod), api.PodSandboxStatusResponse).status
    assert found.pod_sandbox_status == status
    assert list(found.containers_statuses) == [
        daemon.client.call(api.ContainerStatusRequest(container_id=each), api.ContainerStatusResponse).status
        for each in (first, second)
    ]


def test_events_come_in_order_to_everybody(daemon: Daemon, stream: Any) -> None:
    other = opened(daemon)
    pod = daemon.pod()
    kinds = [Kind.CREATED, Kind.STARTED, Kind.STOPPED, Kind.DELETED]
    for kind in kinds:
        daemon.node.tell(kind, pod)
    for call in (stream, other):
        found = [next(call) for _ in kinds]
        assert [each.container_event_type for each in found] == [0, 1, 2, 3]
        assert {each.container_id for each in found} == {pod}
    other.cancel()
    daemon.node.tell(Kind.CREATED, pod)
    assert next(stream).container_event_type == api.CONTAINER_CREATED_EVENT


def test_nobody_listens_to_the_node_when_nobody_asks(daemon: Daemon) -> None:
    assert daemon.node.listeners == []
    calls = [opened(daemon) for _ in range(3)]
    assert len(daemon.node.listeners) == 1
    for call in calls:
        call.cancel()
    wait.until(lambda: not daemon.node.listeners, 5, "the streams to be left")


def test_a_daemon_that_stops_ends_the_streams_and_does_not_wait_for_them(daemon: Daemon, stream: Any) -> None:
    begun = time.monotonic()
    daemon.stop()
    assert list(stream) == []
    assert time.monotonic() - begun < 3


def test_who_does_not_read_is_left_behind_and_nobody_waits_for_him(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of the slow one ends; the fast one gets all; the memory that waits is bounded."""
    monkeypatch.setattr(events, "QUEUE_EVENTS", 50)
    pod = daemon.pod(annotations={"large": "x" * 20_000})
    slow, fast = opened(daemon), opened(daemon)
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.extend(each.created_at for each in islice(fast, 1000)))
    sent = []
    reader.start()
    try:
        for number in range(1000):
            sent.append(daemon.node.tell(Kind.STARTED, pod).at_ns)
            wait.until(lambda number=number: len(read) > number - 40, 10, "the fast one to read")
        wait.until(lambda: len(read) == 1000, 10, "the fast one to read all")
    finally:
        fast.cancel()
        reader.join()
    assert read == sent
    got = []
    with pytest.raises(grpc.RpcError) as caught:
        got.extend(each.created_at for each in slow)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "list what there is, and ask again" in caught.value.details()
    assert got == sent[: len(got)]  # without a gap, up to the end
    assert len(got) < 1000
    wait.until(lambda: not daemon.node.listeners, 5, "the streams to be left")


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


def node_with_pod() -> tuple[FakeNode, str]:
    node = FakeNode()
    return node, node.run_sandbox(wishes.sandbox())


@pytest.mark.parametrize(("limit", "value", "fit"), [("QUEUE_EVENTS", 3, 3), ("QUEUE_BYTES", 1, 1)])
def test_a_queue_is_bounded_by_number_and_by_bytes(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, fit: int) -> None:
    """An event that is larger than the limit alone is taken: it must be told somehow."""
    monkeypatch.setattr(events, limit, value)

    async def main() -> None:
        node, pod = node_with_pod()
        hub = Events(node)
        subscriber = hub.subscribe(api.GetEventsRequest())
        for _ in range(fit):
            node.tell(Kind.CREATED, pod)
        await asyncio.sleep(0)
        for _ in range(fit):
            assert api.ContainerEventResponse.FromString(await anext(subscriber)).container_id == pod
        for _ in range(fit + 1):
            node.tell(Kind.CREATED, pod)
        await asyncio.sleep(0)
        with pytest.raises(TooMany, match=f"{fit} events behind"):
            await anext(subscriber)
        assert node.listeners == []

    run(main())


def test_who_comes_while_the_daemon_stops_gets_an_end() -> None:
    async def main() -> None:
        node, _ = node_with_pod()
        hub = Events(node)
        early = hub.subscribe(api.GetEventsRequest())
        hub.close()
        late = hub.subscribe(api.GetEventsRequest())
        assert [each async for each in early] == [each async for each in late] == []
        assert node.listeners == []

    run(main())


def test_a_change_after_the_loop_is_closed_hurts_nobody() -> None:
    node, pod = node_with_pod()
    hub = Events(node)

    async def main() -> None:
        hub.subscribe(api.GetEventsRequest())

    run(main())
    node.tell(Kind.CREATED, pod)
