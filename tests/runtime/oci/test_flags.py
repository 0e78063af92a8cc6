"""Flags as Go programs read them."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidArgument
from runtime.oci.flags import LIST, SWITCH, TEXT, Parsed, parse

TABLE = {"bundle b": TEXT, "env e": LIST, "detach d": SWITCH, "preserve-fds": TEXT}


def read(*words: str, mixed: bool = True) -> Parsed:
    return parse(TABLE, list(words), mixed=mixed)


@pytest.mark.parametrize("words", [("--bundle", "x"), ("-bundle", "x"), ("--bundle=x",), ("-b", "x"), ("-b=x",)])
def test_a_flag_has_many_spellings(words: tuple[str, ...]) -> None:
    assert read(*words, "web").text("bundle") == "x"
    assert read(*words, "web").arguments == ["web"]


def test_a_value_may_look_like_a_flag() -> None:
    assert read("--bundle", "--detach").text("bundle") == "--detach"
    assert not read("--bundle", "--detach").switch("detach")


def test_a_list_keeps_its_order() -> None:
    assert read("-e", "A=1", "--env", "B=2", "-e=C=3").texts("env") == ["A=1", "B=2", "C=3"]
    assert read().texts("env") == []


@pytest.mark.parametrize(("word", "is_on"), [("-d", True), ("--detach=true", True), ("--detach=false", False), ("-d=0", False)])
def test_a_switch_is_on_unless_it_is_taken_back(word: str, is_on: bool) -> None:
    assert read(word).switch("detach") is is_on
    assert read(word).has("detach")
    assert not read().has("detach")


def test_flags_may_follow_arguments_unless_these_are_another_program() -> None:
    assert read("web", "--detach").switch("detach")
    assert read("web", "--detach", mixed=False).arguments == ["web", "--detach"]
    assert read("--", "-d").arguments == ["-d"]
    assert read("-").arguments == ["-"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nosuch",), "flag provided but not defined: -nosuch"),
        (("-x=1",), "flag provided but not defined: -x"),
        (("--bundle",), "flag needs an argument: -bundle"),
        (("--detach=perhaps",), 'invalid boolean value "perhaps" for -detach'),
    ],
)
def test_what_is_no_flag_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(*words)
    assert str(raised.value) == message


@pytest.mark.parametrize("text", ["-1", "two", "1.5", "٣", ""])
def test_a_number_is_a_number(text: str) -> None:
    if text:
        with pytest.raises(InvalidArgument, match="preserve-fds"):
            read(f"--preserve-fds={text}").number("preserve-fds")
    assert read("--preserve-fds=12").number("preserve-fds") == 12
    assert read().number("preserve-fds") == 0
