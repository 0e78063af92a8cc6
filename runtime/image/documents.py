"""From a name to what must be fetched: index, manifest and config of the image for this machine."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from runtime.errors import DigestMismatch, ImagePullFailed
from runtime.image.config import ImageConfig, check_platform, parse_config
from runtime.image.content import digest_of
from runtime.image.manifest import CONFIG_LIMIT, CONFIG_TYPES, Descriptor, Index, Manifest, parse_manifest
from runtime.image.platform import choose, host_platform
from runtime.image.registry import Fetched

#: An index may hold indexes; nobody nests deeper.
DEPTH = 3


class Source(Protocol):
    """Where an image comes from: a registry's repository, or a package of our own making."""

    def manifest(self, target: str) -> Fetched: ...

    def blob(self, descriptor: Descriptor) -> Generator[bytes]:
        """Its bytes; the caller closes the generator, which may hold a connection."""


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of one image, verified.  *root* is what the name resolved to, *contents* their bytes by digest."""

    root: str
    manifest_digest: str
    manifest: Manifest
    image_id: str
    config: ImageConfig
    contents: dict[str, bytes]

    def digests(self) -> list[str]:
        """Every blob of the image, documents first."""
        return list(dict.fromkeys([*self.contents, *(layer.digest for layer in self.manifest.layers)]))


def fetch_documents(source: Source, target: str) -> Documents:
    """What *target*, a tag or digest, is for this machine; raises ImagePullFailed or what *source* raises."""
    contents: dict[str, bytes] = {}
    fetched = source.manifest(target)
    root, document = fetched.digest, parse_manifest(fetched.content, fetched.media_type)
    contents[fetched.digest] = fetched.content
    for _ in range(DEPTH):
        if isinstance(document, Manifest):
            break
        fetched, document = _child(source, document)
        contents[fetched.digest] = fetched.content
    if isinstance(document, Index):
        raise ImagePullFailed(f"an index in an index, more than {DEPTH} deep")
    content = _config_content(source, document)
    config = parse_config(content)
    check_platform(config, host_platform())
    if len(document.layers) != len(config.diff_ids):
        raise ImagePullFailed(f"the manifest has {len(document.layers)} layers, the config {len(config.diff_ids)} diff ids")
    contents[document.config.digest] = content
    return Documents(root, fetched.digest, document, document.config.digest, config, contents)


def _child(source: Source, index: Index) -> tuple[Fetched, Index | Manifest]:
    """The entry for this machine.  Its descriptor was verified with the index, so its media type outranks a header."""
    entry = choose(index, host_platform())
    fetched = source.manifest(entry.digest)
    if len(fetched.content) != entry.size:
        raise DigestMismatch(f"manifest {entry.digest}: {len(fetched.content)} bytes came, {entry.size} were announced")
    return fetched, parse_manifest(fetched.content, entry.media_type)


def _config_content(source: Source, manifest: Manifest) -> bytes:
    descriptor = manifest.config
    if descriptor.media_type not in CONFIG_TYPES:
        kind = manifest.artifact_type or descriptor.media_type
        raise ImagePullFailed(f"this is an artifact of type {kind!r}, not a container image")
    if descriptor.size > CONFIG_LIMIT:
        raise ImagePullFailed(f"image config: {descriptor.size} bytes, more than {CONFIG_LIMIT}")
    content = descriptor.embedded() or b""
    if digest_of(content) != descriptor.digest:
        with closing(source.blob(descriptor)) as chunks:
            content = _up_to(chunks, descriptor.size)
    found = digest_of(content)
    if len(content) != descriptor.size or found != descriptor.digest:
        raise DigestMismatch(f"image config {descriptor.digest}: what came has {len(content)} bytes and digest {found}")
    return content


def _up_to(chunks: Iterator[bytes], size: int) -> bytes:
    """All of *chunks*, or the part that shows there is more than *size*."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > size:
            break
    return bytes(content)
