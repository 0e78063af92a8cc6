"""Who looks on: all is seen, who is slow is waited for, who sleeps is not, and nobody else notices."""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from kernel.fd import Fd, pipe
from runtime.monitor import viewers
from runtime.monitor.streams import Read
from runtime.monitor.viewers import Viewers


@dataclass
class Loop:
    """The monitor's loop, turned by hand, with one stream."""

    epoll: select.epoll = field(default_factory=select.epoll)
    handlers: dict[int, Callable[[], None]] = field(default_factory=dict)
    log: bytes = b""

    def __post_init__(self) -> None:
        self.source, self.container = pipe()
        self.stream = Read(self.source, self.append)
        self.watch = SimpleNamespace(streams=[self.stream])
        self.viewers = Viewers(self.listen, self.unlisten, self.resume)  # type: ignore[arg-type]
        self.resume(None, self.stream)

    def append(self, batch: bytes) -> None:
        self.log += batch

    def listen(self, number: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self.epoll.register(number, events)
        self.handlers[number] = handler

    def unlisten(self, number: int) -> None:
        if self.handlers.pop(number, None) is not None:
            self.epoll.unregister(number)

    def resume(self, _watch: object, stream: object) -> None:
        assert stream is self.stream
        if self.source.fileno() not in self.handlers:
            self.listen(self.source.fileno(), self.pump)

    def pump(self) -> None:
        self.stream.pump()
        if self.viewers.hold(self.stream):
            self.unlisten(self.source.fileno())

    def turn(self) -> bool:
        """Handle what has happened; False when nothing has."""
        self.viewers.cut_off()
        happened = self.epoll.poll(0)
        for number, _ in happened:
            if number in self.handlers:
                self.handlers[number]()
        return bool(happened)

    def turn_until_idle(self) -> None:
        while self.turn():
            continue

    def view(self) -> Fd:
        """The other end of a new viewer's pipe, which holds one page."""
        reader, sink = pipe()
        fcntl.fcntl(sink.fileno(), fcntl.F_SETPIPE_SZ, 4096)
        self.viewers.add(self.watch, [(self.stream, sink)])  # type: ignore[arg-type]
        os.set_blocking(reader.fileno(), False)
        return reader

    @property
    def is_waiting(self) -> bool:
        return self.source.fileno() not in self.handlers


@pytest.fixture
def loop() -> Iterator[Loop]:
    found = Loop()
    yield found
    found.viewers.end(found.watch)  # type: ignore[arg-type]
    for file in (found.source, found.container):
        file.close()
    found.epoll.close()


def drain(reader: Fd, loop: Loop) -> bytes:
    """All that is there for a viewer, and what comes of taking it; to the end if there is one."""
    heard = b""
    while True:
        try:
            piece = os.read(reader.fileno(), 65536)
        except BlockingIOError:
            if not loop.turn():
                return heard
            continue
        if not piece:
            return heard + b"<end>"
        heard += piece


def test_all_see_the_same_besides_the_log(loop: Loop) -> None:
    with loop.view() as first, loop.view() as second:
        os.write(loop.container.fileno(), b"hello")
        loop.turn_until_idle()
        assert drain(first, loop) == drain(second, loop) == loop.log == b"hello"
        loop.viewers.end(loop.watch, loop.stream)  # type: ignore[arg-type]
        assert drain(first, loop) == drain(second, loop) == b"<end>"


def test_who_is_slow_is_waited_for_and_gets_all(loop: Loop) -> None:
    sent = os.urandom(200_000)
    with loop.view() as slow:
        os.set_blocking(loop.container.fileno(), False)
        written = os.write(loop.container.fileno(), sent)
        loop.turn_until_idle()
        assert loop.is_waiting and len(loop.log) == written == 65536
        with pytest.raises(BlockingIOError):  # the next of it stays in the pipe, and then the container waits
            while True:
                written += os.write(loop.container.fileno(), sent[written:])
        assert loop.viewers.patience() is not None
        assert drain(slow, loop) == loop.log == sent[:written]
        assert not loop.is_waiting and loop.viewers.patience() is None


def test_who_takes_nothing_is_cut_off(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(viewers.time, "monotonic", lambda: now)
    with loop.view() as asleep, loop.view() as awake:
        os.write(loop.container.fileno(), bytes(60_000))
        loop.turn_until_idle()
        assert loop.is_waiting
        assert drain(awake, loop) == bytes(60_000)
        now += viewers.PATIENCE_SECONDS - 0.1
        os.read(asleep.fileno(), 4096)  # it takes something: that counts
        loop.turn_until_idle()
        now += 1
        loop.turn()
        assert loop.is_waiting
        now += viewers.PATIENCE_SECONDS
        loop.turn_until_idle()
        assert not loop.is_waiting
        assert drain(asleep, loop).endswith(b"<end>")
        os.write(loop.container.fileno(), b"more")
        loop.turn_until_idle()
        assert drain(awake, loop) == b"more"


def test_who_is_cut_off_sees_the_end_of_all_its_pipes(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(viewers.time, "monotonic", lambda: now)
    other, other_end = pipe()
    quiet = Read(other, lambda batch: None)
    (reader, sink), (quiet_reader, quiet_sink) = pipe(), pipe()
    loop.viewers.add(loop.watch, [(loop.stream, sink), (quiet, quiet_sink)])  # type: ignore[arg-type]
    with reader, quiet_reader, other, other_end:
        for _ in range(2):
            os.write(loop.container.fileno(), bytes(60_000))
            loop.turn_until_idle()
        assert loop.is_waiting
        now += viewers.PATIENCE_SECONDS
        loop.turn_until_idle()
        assert drain(quiet_reader, loop) == b"<end>" and not quiet.viewers


def test_who_goes_is_missed_by_nobody(loop: Loop) -> None:
    with loop.view() as stays:
        goes = loop.view()
        os.write(loop.container.fileno(), bytes(50_000))
        loop.turn_until_idle()
        assert drain(stays, loop) == bytes(50_000) and loop.is_waiting
        goes.close()
        loop.turn_until_idle()
        assert not loop.is_waiting
        os.write(loop.container.fileno(), b"more")
        loop.turn_until_idle()
        assert drain(stays, loop) == b"more"


def test_what_is_left_at_the_end_is_still_sent(loop: Loop) -> None:
    with loop.view() as slow:
        os.write(loop.container.fileno(), bytes(50_000))
        loop.turn_until_idle()
        loop.viewers.end(loop.watch)  # type: ignore[arg-type]
        assert not loop.stream.viewers and not loop.is_waiting  # the log goes on without it
        assert drain(slow, loop) == bytes(50_000) + b"<end>"
