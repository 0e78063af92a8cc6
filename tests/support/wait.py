"""Wait for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Between two looks; doubled after each, so that a quick end is seen quickly and a slow one costs little.
FIRST_PAUSE_SECONDS = 0.0005
LONGEST_PAUSE_SECONDS = 0.05


def until(condition: Callable[[], T], deadline_seconds: float = 5.0, what: str | None = None) -> T:
    """The first true value of *condition*; AssertionError with *what* was awaited when the deadline has passed.

    An exception of *condition* is not swallowed.
    """
    end = time.monotonic() + deadline_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        late = time.monotonic() >= end
        value = condition()
        if value:
            return value
        if late:
            name = what or getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"waited {deadline_seconds:g} s for {name}; the last answer was {value!r}")
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
