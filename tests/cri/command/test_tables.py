"""Tables for people."""

from __future__ import annotations

import pytest

from cri.command import tables


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert tables.table(("A", "LONG"), [("xyz", "1"), ("", "22")]) == "A    LONG\nxyz  1\n     22"
    assert tables.table(("A",), []) == "A"


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (90000, "1d")])
def test_age(seconds: int, text: str) -> None:
    assert tables.age(0, seconds * 1_000_000_000) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (5 * 10**12, "5 TB")]
)
def test_size(number: int, text: str) -> None:
    assert tables.size(number) == text
