"""D-Bus messages: as the specification and systemd's own library lay them out, and nothing but Malformed for what is none."""

from __future__ import annotations

import random
from typing import Any

import pytest

from runtime.cgroups.message import CALL, FIXED, RETURN, Malformed, Message, Variant, length, pack, split, unpack

#: Hello, as libdbus 1.14 sends it (its serial number 1).
HELLO = bytes.fromhex(
    "6c010001 00000000 01000000 6e000000"
    "01016f00 15000000 2f6f7267 2f667265 65646573 6b746f70 2f444275 73000000"
    "02017300 14000000 6f72672e 66726565 6465736b 746f702e 44427573 00000000"
    "06017300 14000000 6f72672e 66726565 6465736b 746f702e 44427573 00000000"
    "03017300 05000000 48656c6c 6f000000"
)


def test_a_call_is_the_bytes_that_another_library_sends() -> None:
    name = "org.freedesktop.DBus"
    fields = {"path": "/org/freedesktop/DBus", "interface": name, "destination": name, "member": "Hello"}
    assert pack(CALL, 1, "", (), **fields) == HELLO


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("", []),
        ("ybnqiuxtd", [255, True, -2, 65535, -7, 1 << 31, -(1 << 60), 1 << 63, 0.5]),
        ("sog", ["ünit", "/org/freedesktop", "a(sv)"]),
        ("ay", [b"\x01\x00\xff"]),
        ("au", [[1, 2, 3]]),
        ("aas", [[["a"], [], ["b", "c"]]]),
        ("a(sv)", [[("PIDs", Variant("au", [1, 7])), ("Delegate", Variant("b", True)), ("Slice", Variant("s", "a.slice"))]]),
        ("a(sa(sv))", [[]]),
        ("y(yt)", [1, (2, 3)]),
        ("v", [Variant("a(st)", [("/dev/sda", 1000)])]),
    ],
)
def test_what_is_packed_comes_out_as_it_was(signature: str, values: list[Any]) -> None:
    raw = pack(RETURN, 9, signature, values, reply_to=4)
    fields = {"reply_to": 4, **({"signature": signature} if signature else {})}
    assert unpack(raw) == Message(RETURN, 9, fields, values)
    assert len(raw) == FIXED.size + length(raw[: FIXED.size])


def test_a_signature_is_split_into_complete_types() -> None:
    assert split("a{sv}u(s(ii))aas") == ["a{sv}", "u", "(s(ii))", "aas"]


@pytest.mark.parametrize("signature", ["a", "(s", "z", ")", "a{sv", "a()"])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(Malformed):
        split(signature)


def test_noise_is_malformed_and_nothing_else() -> None:
    """Whatever is at the other end: no exception but ours, no endless loop."""
    raw = pack(RETURN, 1, "a(sv)s", [[("A", Variant("as", ["x", "y"]))], "end"], reply_to=3)
    source = random.Random(4)
    for _ in range(3000):
        spoiled = bytearray(raw[: source.randrange(FIXED.size, len(raw) + 1)])
        for _ in range(source.randrange(4)):
            spoiled[source.randrange(FIXED.size - 4, len(spoiled))] = source.randrange(256)
        try:
            unpack(bytes(spoiled))
        except Malformed:
            continue


@pytest.mark.parametrize("fixed", [b"B\2\0\1" + bytes(12), b"l\2\0\2" + bytes(12), b"l\2\0\1" + b"\xff" * 12])
def test_a_beginning_that_cannot_be_one_is_refused(fixed: bytes) -> None:
    with pytest.raises(Malformed):
        length(fixed)
