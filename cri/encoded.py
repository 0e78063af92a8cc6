"""List answers from messages that are encoded already.

A kubelet asks for all sandboxes and containers three times a second, for ever, and they change
rarely.  Of 200 containers an answer takes 2.2 ms when they are encoded anew and 0.03 ms when their
bytes are only put together.
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
    """One element of a list answer: the record it was made of, the message, and its part of the answer's bytes."""

    record: Record
    message: Item
    encoded: bytes


class Cache(Generic[Record, Item]):
    """The elements of the repeated field *field_number*, by id.  One thread's: the event loop's."""

    def __init__(self, field_number: int, make: Callable[[Record], Item]) -> None:
        self._field_number = field_number
        self._make = make
        self._entries: dict[str, Entry[Record, Item]] = {}

    def entries(self, records: Iterable[tuple[str, Record]]) -> list[Entry[Record, Item]]:
        """The entries of *records* (id, record), made anew where the record is not the same object as last time."""
        entries = {}
        for key, record in records:
            entry = self._entries.get(key)
            if entry is None or entry.record is not record:
                message = self._make(record)
                entry = Entry(record, message, element(self._field_number, message))
            entries[key] = entry
        self._entries = entries
        return list(entries.values())


def element(field_number: int, message: Message) -> bytes:
    """*message* as one element of the repeated field *field_number*; elements one after the other are the list's encoding."""
    content = message.SerializeToString()
    return _varint(field_number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
