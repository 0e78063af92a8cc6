"""D-Bus messages as bytes (the D-Bus specification, "Message protocol"; no I/O): little-endian, version 1.

The part of the protocol that a manager of units is spoken to in.  Own, because a container waits for it: the whole of
it is imported in 3 ms, the smallest library in 20.  A struct is a tuple, an array a list, a variant a ``Variant``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
#: Header fields by number: their names, and the type of each.
_FIELDS = {
    1: ("path", "o"),
    2: ("interface", "s"),
    3: ("member", "s"),
    4: ("error", "s"),
    5: ("reply_to", "u"),
    6: ("destination", "s"),
    7: ("sender", "s"),
    8: ("signature", "g"),
    9: ("descriptors", "u"),
}
_NUMBERS = {name: (number, kind) for number, (name, kind) in _FIELDS.items()}
_NUMERIC = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGNMENT = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "s": 4, "o": 4, "a": 4}
#: The fixed part: byte order, type, flags, version, length of the body, serial, length of the header's fields.
FIXED = struct.Struct("<BBBBIII")
_LITTLE, _VERSION = ord("l"), 1
#: The specification's own limit of a message.
LONGEST = 1 << 27


class Variant(NamedTuple):
    """A value that says its own type."""

    signature: str
    value: Any


class Message(NamedTuple):
    """One message: what kind, its header's fields by name, and the values of its body."""

    kind: int
    serial: int
    fields: dict[str, Any]
    body: list[Any]


class Malformed(ValueError):
    """What came is no D-Bus message."""


def pack(kind: int, serial: int, signature: str, values: Sequence[Any], **fields: str | int) -> bytes:
    """A message of *kind* with *values* of *signature* as its body."""
    body = bytearray()
    for single, value in zip(split(signature), values, strict=True):
        _put(body, single, value)
    if signature:
        fields["signature"] = signature
    listed = bytearray()
    for name, value in fields.items():
        number, type_code = _NUMBERS[name]
        _put(listed, "(yv)", (number, Variant(type_code, value)))
    header = bytearray(FIXED.pack(_LITTLE, kind, 0, _VERSION, len(body), serial, len(listed))) + listed
    _align(header, 8)
    return bytes(header + body)


def length(fixed: bytes) -> int:
    """How many bytes follow the 16 *fixed* ones.  Raises Malformed."""
    order, _, _, version, body, _, fields = FIXED.unpack(fixed)
    if order != _LITTLE or version != _VERSION:
        raise Malformed(f"byte order {order} and version {version}: little-endian and 1 are wanted")
    padded = -(-fields // 8) * 8
    if padded + body > LONGEST:
        raise Malformed(f"a message of {padded + body} bytes")
    return int(padded + body)


def unpack(message: bytes) -> Message:
    """The *message*, whole.  Raises Malformed."""
    _, kind, _, _, body_length, serial, _ = FIXED.unpack_from(message)
    try:
        reader = _Reader(message, FIXED.size - 4)
        fields = {
            _FIELDS[number][0]: variant.value
            for number, variant in reader.read("a(yv)")
            if number in _FIELDS and variant.signature == _FIELDS[number][1]
        }
        reader.at = len(message) - body_length
        body = [reader.read(single) for single in split(fields.get("signature", ""))]
    except (struct.error, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"a message that ends early, is no text, or has no end: {error}") from None
    return Message(kind, serial, fields, body)


def split(signature: str) -> list[str]:
    """The single complete types of *signature*: "a{sv}u" is "a{sv}" and "u".  Raises Malformed."""
    found = []
    at = 0
    while at < len(signature):
        end = _end_of_type(signature, at)
        found.append(signature[at:end])
        at = end
    return found


def _end_of_type(signature: str, at: int) -> int:
    while signature[at : at + 1] == "a":
        at += 1
    opening = signature[at : at + 1]
    if opening not in ("(", "{"):
        if not opening or opening not in "ybnqiuxtdsogv":
            raise Malformed(f"{signature!r} is no signature")
        return at + 1
    depth = 0
    for index in range(at, len(signature)):
        depth += (signature[index] in "({") - (signature[index] in ")}")
        if depth == 0 and index > at + 1:
            return index + 1
    raise Malformed(f"{signature!r} is no signature")


def _align(data: bytearray, size: int) -> None:
    data.extend(bytes(-len(data) % size))


def _put(data: bytearray, signature: str, value: Any) -> None:
    """Append *value*, of one complete type."""
    code = signature[0]
    _align(data, _ALIGNMENT.get(code, 8))
    if code in _NUMERIC:
        data += struct.pack("<" + _NUMERIC[code], value)
    elif code in "so":
        text = value.encode()
        data += struct.pack("<I", len(text)) + text + b"\0"
    elif code == "g":
        data += bytes([len(value)]) + value.encode() + b"\0"
    elif code == "v":
        _put(data, "g", value.signature)
        _put(data, value.signature, value.value)
    elif code == "a":
        _put_array(data, signature[1:], value)
    else:
        for single, member in zip(split(signature[1:-1]), value, strict=True):
            _put(data, single, member)


def _put_array(data: bytearray, element: str, values: Iterable[Any] | bytes) -> None:
    at = len(data)
    data += bytes(4)
    _align(data, _ALIGNMENT.get(element[0], 8))
    begin = len(data)
    if element == "y":
        data += bytes(values)
    else:
        for value in values:
            _put(data, element, value)
    struct.pack_into("<I", data, at, len(data) - begin)


class _Reader:
    """Values out of a message, from *at* on."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def read(self, signature: str) -> Any:
        code = signature[0]
        self._align(_ALIGNMENT.get(code, 8))
        if code in _NUMERIC:
            return self._number(code)
        if code in "so":
            return self._text(self._number("u"))
        if code == "g":
            return self._text(self._number("y"))
        if code == "v":
            single = self.read("g")
            if len(split(single)) != 1:
                raise Malformed(f"a variant of {single!r}")
            return Variant(single, self.read(single))
        if code == "a":
            return self._array(signature[1:])
        return tuple(self.read(single) for single in split(signature[1:-1]))

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + _NUMERIC[code], self.data, self.at)
        self.at += struct.calcsize(_NUMERIC[code])
        return bool(value) if code == "b" else value

    def _text(self, size: int) -> str:
        if self.at + size >= len(self.data):
            raise Malformed("a text that goes on after the message's end")
        text = self.data[self.at : self.at + size].decode()
        self.at += size + 1
        return text

    def _array(self, element: str) -> Any:
        size = self._number("u")
        self._align(_ALIGNMENT.get(element[0], 8))
        end = self.at + size
        if end > len(self.data):
            raise Malformed("an array that goes on after the message's end")
        if element == "y":
            self.at = end
            return self.data[end - size : end]
        found = []
        while self.at < end:
            found.append(self.read(element))
        return found

    def _align(self, size: int) -> None:
        self.at += -self.at % size
