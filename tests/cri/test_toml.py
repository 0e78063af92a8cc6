"""Values out of a TOML table: of the right type, or named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cri.toml import Reader, merge
from runtime.errors import InvalidArgument


@dataclass
class Kind:
    key: object = None


@pytest.mark.parametrize(
    ("value", "ask", "message"),
    [
        (5, lambda read: read.table("key"), "at.key: not a table"),
        (5, lambda read: read.string("key", ""), "at.key: not a string"),
        ("c", lambda read: read.choice("key", "a", ("a", "b")), "at.key: 'c' is none of a, b"),
        ("a/b", lambda read: read.path("key", Path("/")), "at.key: 'a/b' is not an absolute path"),
        (["a", 1], lambda read: read.strings("key", (), "hosts"), "at.key: not a list of hosts"),
        (1, lambda read: read.boolean("key", False), "at.key: not true or false"),
        (True, lambda read: read.integer("key", 1, least=0, most=5), "at.key: True is not a whole number from 0 to 5"),
        (6, lambda read: read.integer("key", 1, least=0, most=5), "at.key: 6 is not a whole number from 0 to 5"),
    ],
)
def test_what_is_wrong_is_named_by_its_whole_key(value: object, ask: Callable[[Reader], object], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ask(Reader({"key": value}, Kind, "at."))
    assert str(caught.value) == message


def test_what_is_there_is_returned_and_what_is_not_is_the_default() -> None:
    def read(value: object) -> Reader:
        return Reader({"key": value}, Kind)

    assert read({"a": 1}).table("key") == {"a": 1}
    assert read("b").choice("key", "a", ("a", "b")) == "b"
    assert read("/b").path("key", Path("/a")) == Path("/b")
    assert read(["b"]).strings("key", ()) == ("b",)
    assert read(False).boolean("key", True) is False
    assert read(5).integer("key", 1, least=0, most=5) == 5
    empty = Reader({}, Kind)
    assert empty.table("key") == {}
    assert (empty.string("key", "a"), empty.path("key", Path("/a")), empty.strings("key", ("a",))) == ("a", Path("/a"), ("a",))
    assert (empty.boolean("key", True), empty.integer("key", 3, least=0, most=5)) == (True, 3)


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match=r"^at.kye: unknown key$"):
        Reader({"kye": 1}, Kind, "at.")


def test_tables_are_merged_and_lists_replaced() -> None:
    below: dict[str, Any] = {"a": 1, "list": [1, 2], "table": {"kept": 1, "replaced": 1}}
    above: dict[str, Any] = {"list": [3], "table": {"replaced": 2, "added": 3}, "b": {"c": 1}}
    assert merge(below, above) == {
        "a": 1,
        "list": [3],
        "table": {"kept": 1, "replaced": 2, "added": 3},
        "b": {"c": 1},
    }
    assert below == {"a": 1, "list": [1, 2], "table": {"kept": 1, "replaced": 1}}
