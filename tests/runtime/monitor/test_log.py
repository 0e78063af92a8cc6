"""CRI log lines, without a file in sight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.monitor.log import MAX_LINE, entries, timestamp

NOW = 1_795_553_099_048_417_047


def parse(text: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(stream, tag, content) of each entry, as a kubelet splits them."""
    found = []
    for line in text.split(b"\n")[:-1]:
        stamp, stream, tag, content = line.split(b" ", 3)
        assert stamp == timestamp(NOW)
        found.append((stream, tag, content))
    return found


def joined(text: bytes) -> bytes:
    return b"".join(content + (b"\n" if tag == b"F" else b"") for _, tag, content in parse(text))


def test_a_time_is_rfc_3339_with_nanoseconds() -> None:
    assert timestamp(NOW) == b"2026-11-24T20:44:59.048417047Z"


def test_whole_lines_are_full_and_a_rest_is_partial() -> None:
    assert parse(entries(b"one\n\ntwo\nthr", b"stdout", NOW)) == [
        (b"stdout", b"F", b"one"),
        (b"stdout", b"F", b""),
        (b"stdout", b"F", b"two"),
        (b"stdout", b"P", b"thr"),
    ]


def test_a_long_line_is_cut_into_partial_entries_and_a_full_one() -> None:
    line = b"x" * (2 * MAX_LINE + 5)
    found = parse(entries(line + b"\nshort\n", b"stderr", NOW))
    assert [(tag, len(content)) for _, tag, content in found] == [(b"P", MAX_LINE), (b"P", MAX_LINE), (b"F", 5), (b"F", 5)]


def test_a_line_of_exactly_the_limit_stays_whole() -> None:
    found = parse(entries(b"x" * MAX_LINE + b"\n" + b"y" * (MAX_LINE + 1), b"stdout", NOW))
    assert [(tag, len(content)) for _, tag, content in found] == [(b"F", MAX_LINE), (b"P", MAX_LINE), (b"P", 1)]


@given(st.lists(st.binary(max_size=60) | st.integers(0, 3 * MAX_LINE).map(lambda size: b"z" * size), max_size=8).map(b"\n".join))
def test_no_byte_is_lost_and_no_entry_is_too_long(batch: bytes) -> None:
    text = entries(batch, b"stdout", NOW)
    assert joined(text) == batch
    assert all(len(content) <= MAX_LINE for _, _, content in parse(text))
