"""Layer blobs uncompressed while they stream: gzip by isal, zstd by backports.zstd, or plain tar.

What a blob is, its first bytes say; media types have been wrong about it.  Both formats allow
several members or frames in a row (eStargz and zstd:chunked depend on it), and both decompressors
stop after the first, so the loop here goes on with what they leave.  No step may produce more than
``PIECE`` bytes: a bomb costs time, never memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, cast

from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
from isal import isal_zlib

from runtime.errors import LayerRefused

#: At most this many bytes come out of one step.
PIECE = 1 << 20

#: A zstd frame may ask for a window of gigabytes; 2^27 is what zstd(1) accepts by default.
ZSTD_WINDOW_LOG = 27

#: isal's stubs call the exception class an exception.
ISAL_ERROR = cast(type[Exception], isal_zlib.IsalError)

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: Skippable frames: 0x184D2A50 to 0x184D2A5F, little endian.
ZSTD_SKIPPABLE = tuple(bytes((first, 0x2A, 0x4D, 0x18)) for first in range(0x50, 0x60))


def compression_of(start: bytes | bytearray) -> str:
    """ "gzip", "zstd" or "none", by the first four bytes."""
    if start.startswith(GZIP_MAGIC):
        return "gzip"
    if start.startswith((ZSTD_MAGIC, *ZSTD_SKIPPABLE)):
        return "zstd"
    return "none"


def uncompressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of *chunks* uncompressed, in pieces of at most PIECE; raises LayerRefused for a damaged stream."""
    source = iter(chunks)
    start = bytearray()
    for chunk in source:
        start += chunk
        if len(start) >= 4:
            break
    form = compression_of(start)
    whole = _prepend(bytes(start), source)
    if form == "gzip":
        return _members(whole, _Gzip, b"\0", "gzip")
    if form == "zstd":
        return _members(whole, _Zstd, b"", "zstd")
    return whole


class _Step(Protocol):
    """One member or frame."""

    def feed(self, data: bytes) -> bytes:
        """At most PIECE bytes of output; *data* is new input."""

    @property
    def pending(self) -> bool:
        """Whether feeding nothing would yield more."""

    @property
    def finished(self) -> bool: ...

    @property
    def rest(self) -> bytes:
        """What came after the end."""


class _Gzip:
    def __init__(self) -> None:
        self._inflater = isal_zlib.decompressobj(31)
        self._full = False

    def feed(self, data: bytes) -> bytes:
        tail = self._inflater.unconsumed_tail
        try:
            piece = self._inflater.decompress(tail + data if tail else data, PIECE)
        except ISAL_ERROR as error:
            raise LayerRefused(f"damaged gzip stream: {error}") from None
        self._full = len(piece) == PIECE
        return piece

    @property
    def pending(self) -> bool:
        # isal may hold output back inside itself when a piece is full and all input is taken.
        return bool(self._inflater.unconsumed_tail) or (self._full and not self._inflater.eof)

    @property
    def finished(self) -> bool:
        return self._inflater.eof

    @property
    def rest(self) -> bytes:
        return self._inflater.unused_data


class _Zstd:
    def __init__(self) -> None:
        self._frame = ZstdDecompressor(options={DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})

    def feed(self, data: bytes) -> bytes:
        try:
            return self._frame.decompress(data, PIECE)
        except ZstdError as error:
            raise LayerRefused(f"damaged zstd stream: {error}") from None

    @property
    def pending(self) -> bool:
        return not self._frame.needs_input and not self._frame.eof

    @property
    def finished(self) -> bool:
        return self._frame.eof

    @property
    def rest(self) -> bytes:
        return self._frame.unused_data


def _members(chunks: Iterator[bytes], make: Callable[[], _Step], padding: bytes, name: str) -> Iterator[bytes]:
    """All members of the stream, one after the other; only *padding* may stand behind the last."""
    step: _Step | None = None
    data = b""
    while True:
        if not data and (step is None or not step.pending):
            data = next(chunks, b"")
            if not data:
                break
        if step is None:
            data = data.lstrip(padding) if padding else data
            if not data:
                continue
            step = make()
        piece = step.feed(data)
        data = b""
        if step.finished:
            data, step = step.rest, None
        if piece:
            yield piece
    if step is not None:
        raise LayerRefused(f"the {name} stream ends in the middle")


def _prepend(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from rest
