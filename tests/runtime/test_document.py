"""What is stored is what is read back, any bytes of an environment included."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import document
from runtime.spec import schema


class Record(msgspec.Struct, kw_only=True):
    attachment: bytes
    environment: list[str]
    process: schema.Process | None = None


@given(st.binary(max_size=20), st.lists(st.binary(max_size=12), max_size=4))
def test_a_record_survives_the_store(attachment: bytes, environment: list[bytes]) -> None:
    record = Record(attachment=attachment, environment=[os.fsdecode(entry) for entry in environment])
    again = document.decode(document.encode(record), Record)
    assert again == record
    assert [os.fsencode(entry) for entry in again.environment] == environment


def test_a_structure_inside_survives_too() -> None:
    process = schema.Process(args=["a"], env=[os.fsdecode(b"A=\xff")])
    record = Record(attachment=b"\0", environment=[], process=process)
    assert document.decode(document.encode(record), Record) == record


@pytest.mark.parametrize("text", [b"", b"{", b'{"attachment": 1, "environment": []}', b'{"attachment": ""}', b"\xff"])
def test_a_broken_record_is_an_error(text: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        document.decode(text, Record)
