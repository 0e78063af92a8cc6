"""Port-forward over SPDY and through a WebSocket: pairs of streams, each a connection, with ends of their own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cri.streaming import portforward
from cri.streaming.server import Offer
from runtime.errors import PortUnreachable
from tests.cri.streaming.client import SECONDS, Client
from tests.cri.streaming.conftest import Serving

PROTOCOL = ("portforward.k8s.io",)


class Pod:
    """Listens on a port; what is connected to it is the test's."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.asked: list[int] = []
        self.refuses = False
        self._accepted: list[socket.socket] = []

    def connect(self, port: int) -> socket.socket:
        self.asked.append(port)
        if self.refuses:
            raise PortUnreachable(f"port-forward: port {port} of pod web: connection refused")
        return socket.create_connection(("127.0.0.1", self.port), SECONDS)

    def accept(self) -> socket.socket:
        self._server.settimeout(SECONDS)
        connection, _ = self._server.accept()
        connection.settimeout(SECONDS)
        self._accepted.append(connection)
        return connection

    def close(self) -> None:
        for each in (self._server, *self._accepted):
            each.close()


@pytest.fixture
def pod() -> Iterator[Pod]:
    found = Pod()
    yield found
    found.close()


@pytest.fixture
def forwarding(serving: Serving, pod: Pod) -> Callable[[], Client]:
    return lambda: serving.upgraded(serving.offer(Offer("portforward", connect=pod.connect)), PROTOCOL)


def pair(client: Client, request: str, port: int = 80) -> tuple[int, int]:
    """The numbers of a new pair's data and error streams, opened as clients do."""
    headers = {"port": str(port), "requestid": request}
    error = client.open({"streamtype": "error", **headers}, ends=True)
    return client.open({"streamtype": "data", **headers}), error


def say(client: Client, number: int, content: bytes, *, ends: bool = False) -> None:
    from tests.cri.streaming.client import data

    client.connection.sendall(data(number, content, ends=ends))


def hear_all(client: Client, *numbers: int) -> list[bytes]:
    while not all(client.streams[number].has_ended for number in numbers):
        assert client.listen(), client.streams
    return [client.streams[number].content for number in numbers]


def test_a_connection_with_an_end_for_each_side(forwarding: Callable[[], Client], pod: Pod, serving: Serving) -> None:
    client = forwarding()
    data, error = pair(client, "1", 8080)
    there = pod.accept()
    say(client, data, b"question", ends=True)
    assert (there.recv(100), there.recv(100)) == (b"question", b"")
    there.sendall(b"answer")  # to who has said all
    there.close()
    assert hear_all(client, data, error) == [b"answer", b""]
    assert pod.asked == [8080]
    data, error = pair(client, "2", 81)
    there = pod.accept()
    there.sendall(b"more")
    there.close()
    assert hear_all(client, data, error) == [b"more", b""]
    client.close()
    serving.until_idle()


def test_much_both_ways(forwarding: Callable[[], Client], pod: Pod) -> None:
    client, size = forwarding(), 5_000_000
    data, _ = pair(client, "1")
    there = pod.accept()
    heard: list[bytes] = []

    def serve() -> None:
        got = 0
        while got < size:
            got += len(there.recv(65536))
        there.sendall(bytes(size))
        there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    for _ in range(size // 50_000):
        say(client, data, bytes(50_000))
    heard += hear_all(client, data)
    thread.join()
    assert len(heard[0]) == size


def test_many_connections_side_by_side(forwarding: Callable[[], Client], pod: Pod) -> None:
    client = forwarding()
    pairs = {}
    for number in range(20):
        data, error = pair(client, f"r{number}", 1000 + number)
        pairs[data] = (error, pod.accept())
    for number, (data, (_, there)) in enumerate(pairs.items()):
        say(client, data, b"%d" % number)
        assert there.recv(10) == b"%d" % number
    for data, (error, there) in reversed(pairs.items()):
        there.close()
        assert hear_all(client, data, error) == [b"", b""]
    assert pod.asked == [*range(1000, 1020)]


def test_streams_may_come_in_any_order_and_without_an_id(forwarding: Callable[[], Client], pod: Pod) -> None:
    client = forwarding()
    data = client.open({"streamtype": "data", "port": "7", "requestid": "x"})
    error = client.open({"streamtype": "error", "port": "7", "requestid": "x"}, ends=True)
    pod.accept().close()
    assert hear_all(client, data, error) == [b"", b""]
    error = client.open({"streamtype": "error", "port": "8"}, ends=True)
    data = client.open({"streamtype": "data", "port": "8"})
    pod.accept().close()
    assert hear_all(client, data, error) == [b"", b""]
    assert pod.asked == [7, 8]


def test_a_port_that_nobody_listens_on_is_told(forwarding: Callable[[], Client], pod: Pod) -> None:
    pod.refuses = True
    client = forwarding()
    data, error = pair(client, "1")
    assert hear_all(client, data, error) == [b"", b"port-forward: port 80 of pod web: connection refused"]


def test_a_pod_that_resets_is_no_error(forwarding: Callable[[], Client], pod: Pod) -> None:
    client = forwarding()
    data, error = pair(client, "1")
    there = pod.accept()
    there.sendall(b"all")
    while b"all" not in client.streams[data].content:
        assert client.listen()
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    there.close()
    assert hear_all(client, data, error) == [b"all", b""]
    say(client, data, b"late")  # of a stream that is no more
    assert pair(client, "2")


def test_who_resets_a_stream_or_goes_ends_the_connection(
    forwarding: Callable[[], Client], pod: Pod, serving: Serving
) -> None:
    from tests.cri.streaming.client import RST_STREAM, control

    client = forwarding()
    data, _ = pair(client, "1")
    there = pod.accept()
    client.connection.sendall(control(RST_STREAM, data.to_bytes(4, "big") + (5).to_bytes(4, "big")))
    assert there.recv(10) == b""
    pair(client, "2")
    there = pod.accept()
    client.close()
    assert there.recv(10) == b""
    serving.until_idle()


@pytest.mark.parametrize(
    "headers",
    [
        {"streamtype": "data", "port": "0", "requestid": "1"},
        {"streamtype": "data", "port": "70000", "requestid": "1"},
        {"streamtype": "data", "port": "100000000000080", "requestid": "1"},
        {"streamtype": "data", "port": "x", "requestid": "1"},
        {"streamtype": "data", "requestid": "1"},
        {"streamtype": "stdin", "port": "80", "requestid": "1"},
    ],
)
def test_streams_that_make_no_sense_are_reset(forwarding: Callable[[], Client], pod: Pod, headers: dict[str, str]) -> None:
    client = forwarding()
    number = client.open(headers)
    while client.streams[number].status is None:
        assert client.listen()
    pair(client, "1")
    pod.accept()


def test_half_a_pair_is_given_up(forwarding: Callable[[], Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "PAIR_SECONDS", 0.1)
    client = forwarding()
    number = client.open({"streamtype": "data", "port": "80", "requestid": "1"})
    while client.streams[number].status is None:
        assert client.listen()


def test_through_a_websocket(serving: Serving, pod: Pod) -> None:
    """The same bytes as over SPDY, cut into messages where it pleases the client."""
    from wsproto.events import BytesMessage

    from tests.cri.streaming.client import Frames, data
    from tests.cri.streaming.test_channels import WebSocket

    url = serving.offer(Offer("portforward", connect=pod.connect))
    there = WebSocket(serving.connect(url))
    there.open(url, ["SPDY/3.1+portforward.k8s.io"])
    frames = Frames()
    said = frames.open(1, {"streamtype": "error", "port": "80", "requestid": "1"}, ends=True)
    said += frames.open(3, {"streamtype": "data", "port": "80", "requestid": "1"}) + data(3, b"question")
    for at in range(0, len(said), 7):
        there.connection.sendall(there.messages.send(BytesMessage(data=said[at : at + 7])))
    pod_side = pod.accept()
    assert pod_side.recv(100) == b"question"
    pod_side.sendall(b"answer")
    heard = b""
    while b"answer" not in heard:
        there.messages.receive_data(there.connection.recv(65536))
        heard += b"".join(bytes(event.data) for event in there.messages.events() if isinstance(event, BytesMessage))
    there.connection.close()
    assert pod_side.recv(10) == b""
    serving.until_idle()
