"""Records and configs as JSON documents, for the store and the run dir.

JSON text is UTF-8, and an environment need not be: a value that ``os.fsdecode`` made carries lone
surrogates, which msgspec refuses.  Such a document is written with escapes by the standard library,
which is slower and reads the same.  Bytes fields are base64.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

T = TypeVar("T")


def encode(value: msgspec.Struct) -> bytes:
    """*value* as JSON; ``decode`` gives an equal one back."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode("ascii")


def decode(document: bytes, kind: type[T]) -> T:
    """The *kind* in *document*.  Raises msgspec.DecodeError: a record of ours that is broken is no user's mistake."""
    try:
        return msgspec.json.decode(document, type=kind)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            parsed = json.loads(document)
        except ValueError:
            raise error from None
        return msgspec.convert(parsed, kind)
