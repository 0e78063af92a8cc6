from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.image.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [Challenge("basic", {})]),
        ('Basic realm="a"', [Challenge("basic", {"realm": "a"})]),
        ("BASIC Realm=a", [Challenge("basic", {"realm": "a"})]),
        (
            'Bearer realm="https://h/token",service="s",scope="repository:a/b:pull,push"',
            [Challenge("bearer", {"realm": "https://h/token", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (
            'Basic realm="x, y", Bearer realm="q\\"uote" , error = "invalid_token"',
            [Challenge("basic", {"realm": "x, y"}), Challenge("bearer", {"realm": 'q"uote', "error": "invalid_token"})],
        ),
        (
            "Negotiate, NTLM YWJj==, Basic realm=r",
            [Challenge("negotiate", {}), Challenge("ntlm", {}), Challenge("basic", {"realm": "r"})],
        ),
        ('Bearer realm="open', [Challenge("bearer", {})]),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[Challenge]) -> None:
    assert parse_challenges(header) == expected


_token = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)
_value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
_challenge = st.tuples(_token, st.dictionaries(_token.map(str.lower), _value, min_size=1, max_size=3))


@given(st.lists(_challenge, max_size=3))
def test_what_is_written_is_read_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert parse_challenges(header) == [Challenge(scheme.lower(), parameters) for scheme, parameters in challenges]


@given(st.text(st.sampled_from('abB "\\,=;\t/\x00é'), max_size=60))
def test_any_header_is_parsed_or_cut_short(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower() != ""
