"""An image's /etc/passwd and /etc/group, read as the C library reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: How much of such a file is read: an image may carry one of any size (CVE-2026-47262).
MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class PasswdEntry:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class GroupEntry:
    name: str
    gid: int
    members: tuple[str, ...]


def parse_passwd(content: bytes) -> Iterator[PasswdEntry]:
    """The entries of an /etc/passwd (passwd(5)); lines that are none are passed over."""
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) >= 6 and fields[0] and _is_id(fields[2]) and _is_id(fields[3]):
            yield PasswdEntry(fields[0], int(fields[2]), int(fields[3]), fields[5])


def parse_group(content: bytes) -> Iterator[GroupEntry]:
    """The entries of an /etc/group (group(5)); lines that are none are passed over."""
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] and _is_id(fields[2]):
            yield GroupEntry(fields[0], int(fields[2]), tuple(filter(None, fields[3].split(","))))


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11 and int(text) < 1 << 32
