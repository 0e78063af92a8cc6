from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import LayerRefused
from runtime.image.compression import PIECE, compression_of, uncompressed

SKIPPABLE = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"aside"


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def whole(data: bytes, size: int = 4096) -> bytes:
    return b"".join(uncompressed(cut(data, size)))


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_gzip_members_and_padding(size: int) -> None:
    first, second = os.urandom(5000), bytes(100_000)
    blob = gzip.compress(first) + gzip.compress(b"") + gzip.compress(second) + bytes(1000)
    assert whole(blob, size) == first + second


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_zstd_frames_some_to_be_skipped(size: int) -> None:
    first, second = os.urandom(5000), bytes(100_000)
    assert whole(SKIPPABLE + zstd.compress(first) + SKIPPABLE + zstd.compress(second) + SKIPPABLE, size) == first + second


@given(st.binary(max_size=300), st.integers(1, 50))
def test_what_is_neither_is_left_alone(data: bytes, size: int) -> None:
    if compression_of(data[:4]) == "none":
        assert whole(data, size) == data


@given(st.lists(st.binary(max_size=200), max_size=4), st.integers(1, 400), st.booleans())
def test_any_cut_of_any_members(parts: list[bytes], size: int, use_zstd: bool) -> None:
    compress = zstd.compress if use_zstd else gzip.compress
    assert whole(b"".join(compress(part) for part in parts), size) == b"".join(parts)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_a_bomb_comes_out_in_small_pieces(compress: object) -> None:
    assert callable(compress)
    sizes = [len(piece) for piece in uncompressed([compress(bytes(50 << 20))])]
    assert sum(sizes) == 50 << 20
    assert max(sizes) <= PIECE


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_a_stream_that_ends_early_is_refused(compress: object) -> None:
    assert callable(compress)
    blob = compress(os.urandom(10_000))
    for end in (5, 20, len(blob) // 2, len(blob) - 1):
        with pytest.raises(LayerRefused, match="ends in the middle"):
            whole(blob[:end])


def test_damage_is_refused() -> None:
    blob = bytearray(gzip.compress(bytes(100_000)))
    blob[-6] ^= 1  # its checksum
    with pytest.raises(LayerRefused, match="damaged gzip"):
        whole(bytes(blob))
    with pytest.raises(LayerRefused, match="gzip"):
        whole(gzip.compress(b"x") + b"something else")
    with pytest.raises(LayerRefused, match="damaged zstd"):
        whole(zstd.compress(b"x") + b"something else")


def test_a_window_of_gigabytes_is_refused() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.compression_level: 1}
    compressor = zstd.ZstdCompressor(options=options)
    blob = compressor.compress(os.urandom(1000)) + compressor.flush()
    with pytest.raises(LayerRefused, match="too much memory"):
        whole(blob)


@given(st.binary(min_size=1, max_size=100), st.integers(0, 200), st.integers(1, 255), st.booleans())
def test_any_damage_is_refused_or_harmless(data: bytes, at: int, change: int, use_zstd: bool) -> None:
    blob = bytearray(zstd.compress(data) if use_zstd else gzip.compress(data))
    blob[at % len(blob)] ^= change
    with contextlib.suppress(LayerRefused):
        whole(bytes(blob))


def test_raw_deflate_is_not_guessed() -> None:
    data = zlib.compress(b"x")
    assert whole(data) == data
