"""What stands between an RPC and its URL: one token for one session, for a minute."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Generic, TypeVar

from runtime.errors import TooMany

LIFE_SECONDS = 60.0
MOST = 1000
#: Whoever guesses a token has a shell in a container; the reference server has 48 bits of them.
BYTES = 16

What = TypeVar("What")


class Tokens(Generic[What]):
    """Who gives one gets what it stands for, once; *now* is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        #: In the order of their ends, since all live equally long.
        self._kept: dict[str, tuple[float, What]] = {}

    def keep(self, what: What) -> str:
        """A token for *what*.  Raises TooMany when there are a thousand that nobody has used yet."""
        self._forget_late()
        if len(self._kept) >= MOST:
            raise TooMany(f"streaming: {MOST} sessions have been asked for and not begun; the oldest is given up soon, try again")
        token = secrets.token_urlsafe(BYTES)
        self._kept[token] = self._now() + LIFE_SECONDS, what
        return token

    def take(self, token: str) -> What | None:
        """What *token* stands for; None for one that is unknown, used, or too old."""
        self._forget_late()
        kept = self._kept.pop(token, None)
        return None if kept is None else kept[1]

    def _forget_late(self) -> None:
        now = self._now()
        while self._kept and (first := next(iter(self._kept.items())))[1][0] <= now:
            del self._kept[first[0]]
