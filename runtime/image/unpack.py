"""One layer's job: compressed bytes in, a verified blob and a verified directory out.

The bytes are looked at once, as they come: socket -> sha256 -> blob file, and -> inflate -> sha256
(diff id) -> tar -> files.  Both ends lie in the pull's staging directory, which nothing reads, and are
published only when both digests are right.

The border is kept clean: a job is plain data, its input an iterable of bytes, its outcome plain data
or an exception of ours.  Threads run it today; a worker process in a cgroup of its own can run the
same function tomorrow, given the job and a socket.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kernel.fd import open_path
from runtime.errors import DigestMismatch, ImagePullFailed, LayerRefused
from runtime.image.compression import uncompressed
from runtime.image.content import BlobWriter
from runtime.image.layer import Applied, Limits, apply_layer
from runtime.image.manifest import LAYER_TYPES
from runtime.image.tar import TarReader


@dataclass(frozen=True, slots=True)
class LayerJob:
    """What is to be done.  *directory* exists and is empty; *blob* None means that the bytes are a blob of ours."""

    digest: str
    size: int
    media_type: str
    diff_id: str
    directory: Path
    blob: Path | None
    limits: Limits


def run(job: LayerJob, chunks: Iterable[bytes], stop: Callable[[], None]) -> Applied:
    """Do *job* with the compressed bytes in *chunks*; *stop* is called for every chunk and may raise.

    Raises LayerRefused, DigestMismatch or ImagePullFailed, each naming the layer.
    """
    try:
        if job.media_type not in LAYER_TYPES:
            raise LayerRefused(f"media type {job.media_type!r} is not a layer that can be unpacked")
        return _run(job, chunks, stop)
    except ImagePullFailed as error:
        raise type(error)(str(error) if job.digest in str(error) else f"layer {job.digest}: {error}") from error


def _run(job: LayerJob, chunks: Iterable[bytes], stop: Callable[[], None]) -> Applied:
    diff = hashlib.sha256()
    with ExitStack() as held:
        directory = held.enter_context(open_path(job.directory, os.O_RDONLY | os.O_DIRECTORY))
        writer = None if job.blob is None else held.enter_context(BlobWriter(job.blob, job.digest, job.size))
        source = _written(chunks, writer, stop)
        try:
            applied = apply_layer(TarReader(_hashed(uncompressed(source), diff)), directory, job.limits)
        except LayerRefused:
            # Bytes changed on the way look like a malformed archive: say which of the two it is.
            for _ in source:
                pass
            if writer is not None:
                writer.check()
            raise
        if writer is not None:
            writer.finish()
    found = "sha256:" + diff.hexdigest()
    if found != job.diff_id:
        raise DigestMismatch(f"its content has diff id {found}, the image config says {job.diff_id}")
    return applied


def _written(chunks: Iterable[bytes], writer: BlobWriter | None, stop: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        stop()
        if writer is not None:
            writer.write(chunk)
        yield chunk


def _hashed(chunks: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
