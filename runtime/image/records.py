"""What the database remembers of an image, and an image as callers see it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from runtime.image.config import ImageConfig


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``images``; its id is the config's digest.

    *roots* are the digests its names resolved to (an index's, when there was one); *blobs* the bytes of
    every blob of it that is on this node.
    """

    config: ImageConfig
    chain_ids: tuple[str, ...]
    roots: tuple[str, ...]
    manifests: tuple[str, ...]
    blobs: dict[str, int]

    def merged(self, other: ImageRecord) -> ImageRecord:
        """One record for two manifests of the same config, such as a gzip and a zstd one."""
        return ImageRecord(
            config=self.config,
            chain_ids=self.chain_ids,
            roots=tuple(dict.fromkeys(self.roots + other.roots)),
            manifests=tuple(dict.fromkeys(self.manifests + other.manifests)),
            blobs=self.blobs | other.blobs,
        )


@dataclass(frozen=True, slots=True)
class LayerRow:
    """An unpacked layer: what it takes on disk."""

    diff_id: str
    size_bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image of this node.  Both name lists are canonical and sorted."""

    id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size_bytes: int
    config: ImageConfig
    chain_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    bytes: int
    inodes: int


def chain_ids_of(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The identity of each stack of layers, bottom first: sha256 of the one below, a space and the diff id (OCI config)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else None
        chain.append(diff_id if text is None else "sha256:" + hashlib.sha256(text.encode()).hexdigest())
    return tuple(chain)
