"""Tokens: one use, one minute, a thousand at once."""

from __future__ import annotations

import pytest

from cri.streaming.tokens import LIFE_SECONDS, MOST, Tokens
from runtime.errors import TooMany


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_token_is_good_once() -> None:
    tokens: Tokens[str] = Tokens(Clock())
    first, second = tokens.keep("one"), tokens.keep("two")
    assert first != second
    assert (tokens.take(second), tokens.take(second)) == ("two", None)
    assert (tokens.take("other"), tokens.take(""), tokens.take(first)) == (None, None, "one")


def test_a_token_is_good_for_a_minute() -> None:
    clock = Clock()
    tokens: Tokens[str] = Tokens(clock)
    early = tokens.keep("early")
    clock.seconds += LIFE_SECONDS - 1
    late = tokens.keep("late")
    clock.seconds += 1
    assert (tokens.take(early), tokens.take(late)) == (None, "late")


def test_a_thousand_may_be_waited_for() -> None:
    clock = Clock()
    tokens: Tokens[int] = Tokens(clock)
    kept = [tokens.keep(number) for number in range(MOST)]
    with pytest.raises(TooMany, match="1000 sessions"):
        tokens.keep(0)
    assert tokens.take(kept[500]) == 500
    tokens.keep(0)
    with pytest.raises(TooMany):
        tokens.keep(0)
    clock.seconds += LIFE_SECONDS
    tokens.keep(0)
    assert len(tokens._kept) == 1  # what nobody came for is not kept
