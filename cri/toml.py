"""Typed values out of a TOML table; what is wrong is named by its whole key, as in ``network.subnet``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import InvalidArgument

Choice = TypeVar("Choice", bound=str)


class Reader:
    """One table, at *where* ("network."), whose keys are the fields of the dataclass *kind*.

    Raises InvalidArgument for any other key: it is a typing error that would do nothing.
    """

    def __init__(self, table: Mapping[str, Any], kind: type[Any], where: str = "") -> None:
        unknown = sorted(set(table) - {known.name for known in fields(kind)})
        if unknown:
            raise InvalidArgument(f"{where}{unknown[0]}: unknown key")
        self._table, self._where = table, where

    def table(self, key: str) -> dict[str, Any]:
        """The table at *key*, empty when it is not there."""
        value = self._table.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "not a table")
        return value

    def string(self, key: str, default: str) -> str:
        value = self._table.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "not a string")
        return value

    def choice(self, key: str, default: Choice, choices: Iterable[Choice]) -> Choice:
        """One of *choices*."""
        value = self.string(key, default)
        for each in choices:
            if each == value:
                return each
        raise self.wrong(key, f"{value!r} is none of {', '.join(choices)}")

    def path(self, key: str, default: Path) -> Path:
        """An absolute path."""
        path = Path(self.string(key, str(default)))
        if not path.is_absolute():
            raise self.wrong(key, f"{str(path)!r} is not an absolute path")
        return path

    def strings(self, key: str, default: tuple[str, ...], what: str = "strings") -> tuple[str, ...]:
        """A list of *what*."""
        value = self._table.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, f"not a list of {what}")
        return tuple(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._table.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "not true or false")
        return value

    def integer(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number from *least* to *most*."""
        value = self._table.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"{value!r} is not a whole number from {least} to {most}")
        return value

    def wrong(self, key: str, why: str) -> InvalidArgument:
        """The error that says *why* the value at *key* will not do."""
        return InvalidArgument(f"{self._where}{key}: {why}")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """*below* with what *above* says instead: tables are merged key by key, a list or a value takes the other's place."""
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        merged[key] = merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
