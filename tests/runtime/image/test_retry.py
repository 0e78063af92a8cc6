from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.image.retry import ATTEMPTS, pause


def test_only_what_may_change_is_asked_again() -> None:
    assert pause(404, None, 0) is None
    assert pause(503, None, ATTEMPTS - 1) is None
    first, second = pause(503, None, 0), pause(503, None, 1)
    assert first is not None
    assert second is not None
    assert 0 < first < second < 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("2", 2.0), (" 0 ", 0.0), ("3600", None), ("Thu, 01 Jan 1970 00:00:10 GMT", 5.0), ("Wed, 31 Dec 1969 00:00:00 GMT", 0.0)],
)
def test_as_long_as_the_registry_says(said: str, seconds: float | None) -> None:
    assert pause(429, said, 0, now=5.0) == seconds


@given(st.text(max_size=30))
def test_any_header_is_a_pause_or_ignored(said: str) -> None:
    found = pause(429, said, 0)
    assert found is None or 0 <= found <= 60
