"""Messages and descriptors between daemon and monitor."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from kernel.fd import memory
from runtime.monitor import protocol

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_message_arrives_as_it_was_sent_and_alone(pair: Pair) -> None:
    for number in range(3):
        protocol.send(pair[0], {"op": "start", "id": "ü\n\udcff", "seq": number})
    for number in range(3):
        assert protocol.receive(pair[1]) == ({"op": "start", "id": "ü\n\udcff", "seq": number}, [])


def test_descriptors_ride_along_in_their_order_and_are_closed_over_execve(pair: Pair) -> None:
    with memory("one", b"1") as one, memory("two", b"2") as two:
        protocol.send(pair[0], {"seq": 1}, [one.fileno(), two.fileno(), one.fileno()])
        received = protocol.receive(pair[1])
    assert received is not None
    _, files = received
    assert [os.pread(file.fileno(), 1, 0) for file in files] == [b"1", b"2", b"1"]
    assert not any(os.get_inheritable(file.fileno()) for file in files)
    for file in files:
        file.close()


def test_as_many_descriptors_as_a_launch_can_have(pair: Pair) -> None:
    with memory("one", b"1") as one:
        protocol.send(pair[0], {"seq": 1}, [one.fileno()] * protocol.MAX_DESCRIPTORS)
        received = protocol.receive(pair[1])
        assert received is not None
        assert len(received[1]) == protocol.MAX_DESCRIPTORS
        for file in received[1]:
            file.close()
        with pytest.raises(ValueError, match="251 descriptors is too large"):
            protocol.send(pair[0], {"seq": 1}, [one.fileno()] * (protocol.MAX_DESCRIPTORS + 1))


def test_a_message_that_is_no_packet_is_not_sent(pair: Pair) -> None:
    protocol.send(pair[0], {"text": "x" * (protocol.MAX_MESSAGE - 20)})
    assert protocol.receive(pair[1]) is not None
    with pytest.raises(ValueError, match="is too large"):
        protocol.send(pair[0], {"text": "x" * protocol.MAX_MESSAGE})


def test_the_end_of_the_other_side_is_none(pair: Pair) -> None:
    pair[0].close()
    assert protocol.receive(pair[1]) is None
    with pytest.raises(OSError) as refusal:
        protocol.send(pair[1], {"seq": 1})
    assert refusal.value.errno == errno.EPIPE
