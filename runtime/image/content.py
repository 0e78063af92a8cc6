"""Blobs by digest: verified while they are written, whole when they have a name.

A blob grows under a temporary name in a staging directory, is compared with the digest and size it
was promised with, flushed, and renamed into ``blobs/sha256``; what is found there is what it is called.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Self

from kernel.fd import Fd, open_path
from runtime.errors import DigestMismatch, ImageNotFound
from runtime.image.reference import is_digest, require_digest

CHUNK = 256 << 10


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class BlobWriter:
    """A blob under way at *path*.  Closing it without ``finish`` takes the file away."""

    def __init__(self, path: Path, digest: str, size: int) -> None:
        self._path = path
        self._digest = require_digest(digest, "blob")
        self._size = size
        self._hash = hashlib.sha256()
        self._written = 0
        self._finished = False
        self._file = Fd(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def write(self, chunk: bytes) -> None:
        """Add *chunk*; raises DigestMismatch at the first byte too many."""
        self._written += len(chunk)
        if self._written > self._size:
            raise DigestMismatch(f"more than the {self._size} bytes announced")
        self._hash.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._file.fileno(), view) :]

    def finish(self) -> None:
        """Check size and digest, and flush to the disk; raises DigestMismatch."""
        self.check()
        os.fsync(self._file.fileno())
        self._finished = True

    def check(self) -> None:
        """Raise DigestMismatch unless what came is what was announced."""
        found = "sha256:" + self._hash.hexdigest()
        if self._written != self._size:
            raise DigestMismatch(f"{self._written} bytes came, {self._size} were announced")
        if found != self._digest:
            raise DigestMismatch(f"what came has digest {found}; it was changed on the way or the registry is damaged")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if not self._finished:
            self._path.unlink(missing_ok=True)


class ContentStore:
    """The blobs of this node, below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, digest: str) -> Path:
        """Where *digest* is or would be; raises InvalidReference for what is no digest."""
        return self._directory / require_digest(digest, "blob").removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """Bytes of a blob; raises ImageNotFound when it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise ImageNotFound(f"blob {digest} is not on this node") from None

    def read(self, digest: str) -> bytes:
        """A document, verified once more; raises ImageNotFound or DigestMismatch."""
        content = b"".join(self.chunks(digest))
        if digest_of(content) != digest:
            raise DigestMismatch(f"blob {digest} is damaged on this node's disk; remove the image and pull it again")
        return content

    def chunks(self, digest: str) -> Generator[bytes]:
        """A blob piece by piece; the reader verifies what matters to it."""
        try:
            file = open_path(self.path(digest))
        except FileNotFoundError:
            raise ImageNotFound(f"blob {digest} is not on this node") from None
        with file:
            while chunk := os.read(file.fileno(), CHUNK):
                yield chunk

    def publish(self, staged: Path, digest: str) -> None:
        """Give a finished blob its name, durably."""
        os.rename(staged, self.path(digest))
        self.sync()

    def sync(self) -> None:
        """Make the names in the directory durable."""
        with open_path(self._directory, os.O_RDONLY | os.O_DIRECTORY) as directory:
            os.fsync(directory.fileno())

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> list[str]:
        """Everything that is here."""
        return [digest for name in os.listdir(self._directory) if is_digest(digest := f"sha256:{name}")]
