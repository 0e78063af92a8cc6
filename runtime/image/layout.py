"""An OCI image layout: a directory of blobs and an index.json, for nodes that reach no registry.

What is written here skopeo, umoci and containerd read, and what they write is read here.  A layout
comes from elsewhere, so it is believed no more than a registry: everything is verified on its way in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Self

from kernel.fd import Fd, open_path
from kernel.resolve import open_in_root, read_in_root
from runtime.errors import DigestMismatch, ImageNotFound, ImagePullFailed
from runtime.image.content import CHUNK, digest_of
from runtime.image.manifest import MANIFEST_LIMIT, OCI_INDEX, Descriptor, Index, parse_manifest
from runtime.image.pack import Package
from runtime.image.reference import require_digest
from runtime.image.registry import Fetched

#: The annotation by which index.json names an image (image spec, annotations.md).
NAME = "org.opencontainers.image.ref.name"
VERSION = b'{"imageLayoutVersion":"1.0.0"}'


def write_layout(package: Package, directory: Path, name: str) -> None:
    """Write *package* under *name* into *directory*, which is new or empty; raises OSError."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, document in package.documents.items():
        (blobs / digest.removeprefix("sha256:")).write_bytes(document.content)
    for digest, layer in package.layers.items():
        with (blobs / digest.removeprefix("sha256:")).open("wb") as target:
            target.writelines(layer.chunks())
    root = package.root
    entry = {"mediaType": root.media_type, "digest": root.digest, "size": root.size, "annotations": {NAME: name}}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_bytes(VERSION)


class Layout:
    """A layout directory as a source of images (documents.Source), for ``pull.load``.  Use it in ``with``.

    Everything is opened below one descriptor: a symlink in the layout leads nowhere outside.
    """

    def __init__(self, directory: Path) -> None:
        self._root: Fd = open_path(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._directory = directory

    def names(self) -> dict[str, str]:
        """Digests by name, for the entries that have one; raises ImagePullFailed when this is no layout."""
        named: dict[str, str] = {}
        for entry in self._index().manifests or []:
            name = (entry.annotations or {}).get(NAME)
            if name is not None:
                named[name] = entry.digest
        return named

    def root(self, name: str | None = None) -> str:
        """The digest of the image called *name*, or of the only one; raises ImageNotFound."""
        entries = self._index().manifests or []
        if name is not None:
            entries = [entry for entry in entries if (entry.annotations or {}).get(NAME) == name]
        if len(entries) != 1:
            wanted = "one image" if name is None else f"one image called {name!r}"
            raise ImageNotFound(f"{self._directory}: wanted {wanted}, found {len(entries)}")
        return entries[0].digest

    def manifest(self, target: str) -> Fetched:
        """The document with digest *target*; raises ImageNotFound or DigestMismatch."""
        content = self._read(self._path(target), MANIFEST_LIMIT)
        if digest_of(content) != target:
            raise DigestMismatch(f"manifest {target}: the file has digest {digest_of(content)}")
        return Fetched(content, None, target)

    def blob(self, descriptor: Descriptor) -> Generator[bytes]:
        """The bytes of a blob, not verified; raises ImageNotFound."""
        try:
            file = open_in_root(self._root, self._path(descriptor.digest), os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            raise ImageNotFound(f"{self._directory}: blob {descriptor.digest} is missing") from None
        with file:
            while chunk := os.read(file.fileno(), CHUNK):
                yield chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._root.close()

    def _index(self) -> Index:
        document = parse_manifest(self._read("index.json", MANIFEST_LIMIT), OCI_INDEX)
        if not isinstance(document, Index):
            raise ImagePullFailed(f"{self._directory}: index.json is no index")
        return document

    def _read(self, path: str, limit: int) -> bytes:
        try:
            return read_in_root(self._root, path, limit)
        except FileNotFoundError:
            raise ImageNotFound(f"{self._directory}: {path} is missing; is this an OCI image layout?") from None
        except OSError as error:
            raise ImagePullFailed(f"{self._directory}: {path}: {(error.strerror or str(error)).lower()}") from error

    def _path(self, digest: str) -> str:
        return "blobs/sha256/" + require_digest(digest, str(self._directory)).removeprefix("sha256:")
