"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

SHORT_ID = 13


def as_json(messages: Iterable[Message], *, indent: int | None = 2) -> str:
    """A JSON list of *messages*, with the field names of the CRI; without *indent* on one line."""
    return json.dumps([MessageToDict(message, preserving_proto_field_name=True) for message in messages], indent=indent)


def is_screen() -> bool:
    """Whether a person looks at what is printed."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def age(then_ns: int, now_ns: int | None = None) -> str:
    """How long ago *then_ns* was, in the largest unit that fits."""
    seconds = max(0, ((time.time_ns() if now_ns is None else now_ns) - then_ns) // 1_000_000_000)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def size(number: int) -> str:
    """*number* bytes in decimal units, as registries count."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def printable(text: str) -> str:
    """*text* without what a terminal would act on: names come from strangers."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
