"""What a step's arguments can be: numbers, strings, and memory that is laid out when the program is packed.

Arguments keep their names until then, so that a step can be printed as it was meant.
"""

from __future__ import annotations

import enum
import os
from functools import cache
from typing import NamedTuple

from kernel._linux import lib


class Slot(NamedTuple):
    """The result of an earlier step, by name."""

    name: str


class Flags(NamedTuple):
    """Kernel constants or'ed together, kept by name."""

    names: tuple[str, ...]

    def value(self) -> int:
        return value_of(self.names)

    def __str__(self) -> str:
        return "|".join(self.names) or "0"


class Vector(NamedTuple):
    """A NULL-terminated array of strings, as execve(2) takes."""

    items: tuple[bytes, ...]


class Words(NamedTuple):
    """An array of integers in memory, each *width* bytes; *label* is how it is printed."""

    width: int
    values: tuple[int, ...]
    label: str = ""


class Filter(NamedTuple):
    """A struct sock_fprog over the BPF instructions *code*."""

    code: bytes


class Buffer(NamedTuple):
    """Memory that the kernel writes to and a later step reads: the same name is the same memory."""

    name: str
    size: int
    offset: int = 0


class Structure(NamedTuple):
    """Words of 64 bits in memory: numbers, and addresses of other memory; *label* is how it is printed."""

    words: tuple[int | Buffer | Structure, ...]
    label: str


Argument = int | str | bytes | Slot | Flags | Vector | Words | Filter | Buffer | Structure


def describe_argument(argument: Argument) -> str:
    """*argument* as it was given."""
    match argument:
        case Slot(name):
            return name
        case enum.IntEnum():
            return argument.name.lower()
        case Vector(items):
            return "[" + ", ".join(quote(item) for item in items) + "]"
        case Structure(_, label):
            return label
        case Words(_, values, label):
            return label or "{" + ", ".join(map(str, values)) + "}"
        case Filter(code):
            return f"<filter of {len(code) // 8} instructions>"
        case Buffer(name, _, _):
            return f"&{name}"
        case str():
            return quote(os.fsencode(argument))
        case bytes():
            return quote(argument)
        case _:
            return str(argument)


def quote(text: bytes) -> str:
    """*text* between quotes, with all that does not print spelled out."""
    plain = text.decode("utf-8", "backslashreplace").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in plain) + '"'


@cache
def value_of(names: tuple[str, ...]) -> int:
    """The constants *names* or'ed together."""
    value = 0
    for name in names:
        value |= int(getattr(lib, name))
    return value
