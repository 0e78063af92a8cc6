"""List answers from messages that are encoded already.

A kubelet asks for all sandboxes and containers three times a second, for ever, and they change
rarely: encoding 200 containers anew takes 1.5 ms, joining them 6 us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

Record = TypeVar("Record")
Item = TypeVar("Item", bound=Message)


@dataclass(frozen=True, slots=True)
class Entry(Generic[Record, Item]):
    """One element of a list answer: the record it was made of, the message, and the message's bytes."""

    record: Record
    message: Item
    encoded: bytes


class Cache(Generic[Record, Item]):
    """Entries by id.  One thread's: the event loop's."""

    def __init__(self, make: Callable[[Record], Item]) -> None:
        self._make = make
        self._entries: dict[str, Entry[Record, Item]] = {}

    def entries(self, records: Iterable[tuple[str, Record]]) -> list[Entry[Record, Item]]:
        """The entries of *records* (id, record), made anew where the record is not the same object as last time."""
        entries = {}
        for key, record in records:
            entry = self._entries.get(key)
            if entry is None or entry.record is not record:
                message = self._make(record)
                entry = Entry(record, message, message.SerializeToString())
            entries[key] = entry
        self._entries = entries
        return list(entries.values())


def join(field_number: int, items: Iterable[bytes]) -> bytes:
    """The encoding of a message whose repeated field *field_number* holds the encoded *items*, and nothing else."""
    tag = _varint(field_number << 3 | 2)
    return b"".join(tag + _varint(len(item)) + item for item in items)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
