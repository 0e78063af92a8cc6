"""Plain text for people, 100 columns wide: calls that are folded between arguments, colours where they help."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from typing import TextIO

WIDTH = 100
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
#: Where a call may be folded: behind a comma, before a bar; strings are whole.
_PIECES = re.compile(r'"(?:[^"\\]|\\.)*"|[^",|]+|,|\|')


class Page:
    """Where to print; with colours when *stream* is a terminal and NO_COLOR (no-color.org) is not set."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.has_colours = self.stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def ink(self, text: str, style: str) -> str:
        """*text* in bold, dim or a colour, where there are colours."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.has_colours and text else text

    def line(self, text: str = "") -> None:
        print(text, file=self.stream)

    def heading(self, title: str) -> None:
        """An empty line, then *title*."""
        self.line()
        self.line(self.ink(printable(title), "bold"))

    def step(self, label: str, call: str, why: str = "", *, style: str = "") -> None:
        """A labelled call, folded under itself, and below it why; *label* is as wide as the text is indented."""
        indent = " " * len(label)
        call, why = printable(call), printable(why)
        first, *rest = fold(call, WIDTH - len(label))
        self.line(label + (self.ink(first, style) if style else first))
        for piece in rest:
            self.line(indent + (self.ink(piece, style) if style else piece))
        for piece in wrap(why, WIDTH - len(label)):
            self.line(indent + self.ink(piece, "dim"))

    def item(self, label: str, text: str, style: str) -> None:
        """A labelled text, wrapped between words under itself."""
        for piece in wrap(printable(text), WIDTH - len(label)) or [""]:
            self.line(label + self.ink(piece, style))
            label = " " * len(label)


def printable(text: str) -> str:
    """*text* without what a terminal would act on: words of documents and names of files come from strangers."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def wrap(text: str, width: int) -> list[str]:
    """*text* in lines of at most *width*, between words only."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def fold(call: str, width: int) -> list[str]:
    """*call* in lines of at most *width*, the later ones indented by two; what cannot be folded stays whole."""
    lines, current = [], ""
    for piece in _joined(_PIECES.findall(call)):
        if current.strip() and len(current) + len(piece.rstrip()) > width:
            lines.append(current.rstrip())
            current = "  " + piece.lstrip()
        else:
            current += piece
    return [*lines, current.rstrip()]


def _joined(pieces: list[str]) -> list[str]:
    """The pieces between which a call may be folded: each with the comma behind it, or the bar before it."""
    found = [""]
    for piece in pieces:
        if piece == "|" or found[-1].endswith(","):
            found.append("")
        found[-1] += piece
    return found
