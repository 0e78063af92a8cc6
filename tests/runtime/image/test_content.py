from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import DigestMismatch, ImageNotFound, InvalidReference
from runtime.image.content import BlobWriter, ContentStore, digest_of


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    (tmp_path / "blobs").mkdir()
    return ContentStore(tmp_path / "blobs")


def put(content: ContentStore, tmp_path: Path, data: bytes) -> str:
    staged = tmp_path / "staged"
    with BlobWriter(staged, digest_of(data), len(data)) as writer:
        for at in range(0, len(data), 10):
            writer.write(data[at : at + 10])
        writer.finish()
    content.publish(staged, digest_of(data))
    return digest_of(data)


def test_a_blob_is_what_it_is_called(content: ContentStore, tmp_path: Path) -> None:
    digest = put(content, tmp_path, b"some content")
    assert content.has(digest)
    assert (content.read(digest), content.size(digest), content.digests()) == (b"some content", 12, [digest])
    assert os.listdir(tmp_path) == ["blobs"]
    content.remove(digest)
    content.remove(digest)
    assert content.digests() == []


@pytest.mark.parametrize(
    ("announced", "size", "why"),
    [
        (b"some content", 11, "more than the 11"),
        (b"some content", 13, "12 bytes came, 13"),
        (b"other content", 12, "what came has digest"),
    ],
)
def test_what_is_not_as_announced_leaves_nothing(tmp_path: Path, announced: bytes, size: int, why: str) -> None:
    with pytest.raises(DigestMismatch, match=why), BlobWriter(tmp_path / "staged", digest_of(announced), size) as writer:
        writer.write(b"some ")
        writer.write(b"content")
        writer.finish()
    assert os.listdir(tmp_path) == []


def test_a_writer_given_up_leaves_nothing(tmp_path: Path) -> None:
    with BlobWriter(tmp_path / "staged", digest_of(b"x"), 1) as writer:
        writer.write(b"x")
    assert os.listdir(tmp_path) == []


def test_damage_on_the_disk_is_noticed(content: ContentStore, tmp_path: Path) -> None:
    digest = put(content, tmp_path, b"some content")
    content.path(digest).write_bytes(b"sane content")
    with pytest.raises(DigestMismatch, match="damaged on this node's disk"):
        content.read(digest)


def test_what_is_not_here(content: ContentStore) -> None:
    absent = digest_of(b"absent")
    assert not content.has(absent)
    with pytest.raises(ImageNotFound, match=absent):
        content.read(absent)
    with pytest.raises(ImageNotFound, match=absent):
        content.size(absent)


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "../x", "sha512:" + "0" * 128])
def test_a_digest_is_no_path(content: ContentStore, digest: str) -> None:
    with pytest.raises(InvalidReference):
        content.path(digest)
