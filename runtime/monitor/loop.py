"""An epoll, who listens to it, and a box for what other threads want done: the monitor has one, and each disk of logs another."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable

from kernel.fd import Fd, eventfd

Letter = Callable[[], None]


class Loop:
    """One thread's.  Others put what they want done into its *letters*, and ring its *bell*, an eventfd."""

    def __init__(self, bell: Fd | None = None, letters: deque[Letter] | None = None) -> None:
        bell = eventfd() if bell is None else bell
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.bell = bell
        self.letters: deque[Letter] = deque() if letters is None else letters
        self.listen(bell.fileno(), self._hear_bell)

    def listen(self, number: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Have *handler* called when there is something at descriptor *number*."""
        self._epoll.register(number, events)
        self._handlers[number] = handler

    def unlisten(self, number: int) -> None:
        """Do not, any more."""
        if self._handlers.pop(number, None) is not None:
            self._epoll.unregister(number)

    def hears(self, number: int) -> bool:
        return number in self._handlers

    def tell_again(self, number: int) -> None:
        """Have the kernel tell once more of what is there already, at a descriptor that it tells of at each write only."""
        self._epoll.modify(number, select.EPOLLIN | select.EPOLLET)

    def poll(self, seconds: float | None) -> list[tuple[int, int]]:
        return self._epoll.poll(seconds)

    def handle(self, happened: list[tuple[int, int]], before_each: Callable[[], None] = lambda: None) -> None:
        """Call the handlers of what has *happened*; what others want done goes before, for they wait."""
        ready = [(number, self._handlers.get(number)) for number, _ in happened]
        for number, handler in ready:
            before_each()
            self.open_letters(before_each)
            # An earlier one of this batch, or a letter, may have closed the number, or given it to somebody else.
            if handler is not None and self._handlers.get(number) is handler:
                handler()

    def open_letters(self, before_each: Callable[[], None] = lambda: None) -> None:
        while self.letters:
            letter = self.letters.popleft()
            before_each()
            letter()

    def _hear_bell(self) -> None:
        os.eventfd_read(self.bell.fileno())
        self.open_letters()
