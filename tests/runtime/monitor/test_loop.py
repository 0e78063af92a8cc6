"""One thread's epoll, with what other threads want done in between."""

from __future__ import annotations

import os

from kernel.fd import eventfd
from runtime.monitor.loop import Loop


def test_what_a_letter_lets_go_of_is_not_heard_any_more() -> None:
    """Its descriptor may be closed by then: a process that was let go of while its output came ended the monitor."""
    loop, heard = Loop(), list[str]()
    with eventfd() as event:
        loop.listen(event.fileno(), lambda: heard.append("too late"))
        os.eventfd_write(event.fileno(), 1)
        happened = loop.poll(5)
        loop.letters.append(lambda: loop.unlisten(event.fileno()))
        loop.handle(happened)
    assert heard == []
    loop.bell.close()


def test_letters_go_before_what_has_happened() -> None:
    loop, heard = Loop(), list[str]()
    with eventfd() as event:
        loop.listen(event.fileno(), lambda: heard.append("event"))
        os.eventfd_write(event.fileno(), 1)
        happened = loop.poll(5)
        loop.letters.append(lambda: heard.append("letter"))
        loop.handle(happened, lambda: heard.append("before"))
        loop.unlisten(event.fileno())
    assert heard == ["before", "before", "letter", "event"]
    loop.bell.close()
