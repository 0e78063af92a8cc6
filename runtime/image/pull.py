"""One pull, from reference to image: the recipe.

Nothing is kept of a pull that fails or is cancelled.  Until the one transaction in ``ImageStore.commit``
everything it made lies in its staging directory, or is a layer or blob that only its leases hold; an
intent in the journal covers both, so a crash is undone by ``ImageStore.recover``.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from kernel import filesystem
from kernel.fd import open_path
from runtime.errors import Cancelled, ImagePullFailed, RegistryUnavailable
from runtime.image import unpack
from runtime.image.auth import Credentials
from runtime.image.cancellation import Cancellation
from runtime.image.content import BlobWriter
from runtime.image.documents import Documents, Source, fetch_documents
from runtime.image.flights import TICK_SECONDS, Flight
from runtime.image.inherit import complete
from runtime.image.layer import Limits
from runtime.image.manifest import Descriptor
from runtime.image.records import Image, ImageRecord, LayerRow, chain_ids_of
from runtime.image.reference import Reference, parse_reference
from runtime.image.registry import Registry, Repository
from runtime.image.store import ImageStore

#: What a kubelet knows a failure by (runtime.errors.RegistryUnavailable).
UNAVAILABLE = "RegistryUnavailable: "
#: Layers of one pull at a time.  Inflating and hashing release the GIL; more only contend for it.
WORKERS = 4
#: Layers being unpacked at a time on this node, by all pulls together.
SLOTS = threading.BoundedSemaphore(max(2, min(4, os.cpu_count() or 1)))

logger = logging.getLogger(__name__)


def pull(
    images: ImageStore,
    registry: Registry,
    reference: str,
    *,
    credentials: Credentials | None = None,
    cancelled: threading.Event | None = None,
    limits: Limits | None = None,
) -> Image:
    """The image that *reference* means at its registry, fetched unless it is here; then only the registry is asked.

    Raises InvalidReference, Cancelled soon after *cancelled* is set, RegistryUnavailable, or another ImagePullFailed.
    """
    wanted = parse_reference(reference)
    *mirrors, last = registry.endpoints(wanted)
    failures: list[str] = []
    with ExitStack() as held:
        flight = held.enter_context(images.flights.join(f"image:{wanted}"))
        for endpoint in (*mirrors, last):
            with Cancellation(cancelled) as cancellation:
                try:
                    with registry.open(wanted, cancellation, endpoint=endpoint, credentials=credentials) as repository:
                        return _pull_from(images, repository, wanted, flight, cancellation, limits or Limits())
                except ImagePullFailed as error:
                    if endpoint is last:
                        raise _told(error, wanted, failures) from error
                    reason = str(error).removeprefix(UNAVAILABLE)
                    logger.warning("pull %s: its mirror %s is passed over: %s", wanted, endpoint.url, reason)
                    failures.append(f"its mirror {endpoint.url}: {reason}")
    raise AssertionError("the last one returns or raises")


def _pull_from(
    images: ImageStore,
    repository: Repository,
    wanted: Reference,
    flight: Flight,
    cancellation: Cancellation,
    limits: Limits,
) -> Image:
    with flight.lead(cancellation.check):
        announced = repository.head(wanted.target)
        root = wanted.digest or announced
        known = None if announced is None or root is None else images.resolved(wanted, root)
        return known or _install(images, repository, wanted, root or wanted.target, cancellation, limits)


def _told(error: ImagePullFailed, wanted: Reference, failures: list[str]) -> ImagePullFailed:
    """*error* with what is pulled, and what mirrors said before; where a kubelet knows the beginning, that stays."""
    text = "; before that, ".join([str(error), *failures[:1]]) + "".join(f"; {failure}" for failure in failures[1:])
    return type(error)(text if isinstance(error, RegistryUnavailable) else f"pull {wanted}: {text}")


def load(images: ImageStore, source: Source, reference: str, root: str, *, cancelled: threading.Event | None = None) -> Image:
    """The image that *root*, an index's or manifest's digest, is in *source*, stored under *reference*; no registry is asked."""
    wanted = parse_reference(reference)
    with ExitStack() as held:
        cancellation = held.enter_context(Cancellation(cancelled))
        flight = held.enter_context(images.flights.join(f"image:{wanted}"))
        held.enter_context(flight.lead(cancellation.check))
        return images.resolved(wanted, root) or _install(images, source, wanted, root, cancellation, Limits())


def _install(
    images: ImageStore, source: Source, reference: Reference, target: str, cancellation: Cancellation, limits: Limits
) -> Image:
    owner = f"image:{reference}"
    staging = images.paths.staging / hashlib.sha256(owner.encode()).hexdigest()[:32]
    images.journal.begin(owner, "pull")
    try:
        staging.mkdir(mode=0o700)
        with ExitStack() as leases:
            documents = fetch_documents(source, target)
            for digest in documents.digests():
                leases.enter_context(images.flights.join(f"blob:{digest}"))
            layers = _Layers(images, source, documents, staging, cancellation, limits).run(leases)
            _write_documents(images, documents, staging)
            cancellation.check()
            return images.commit(owner, reference, documents.image_id, _record(images, documents), layers)
    except BaseException:
        _sweep(staging)
        images.collect()
        images.journal.undone(owner, "pull")
        raise
    finally:
        _sweep(staging)


@dataclass(slots=True)
class _Layers:
    """The layers of one image: fetched and unpacked side by side, finished from the bottom up."""

    images: ImageStore
    source: Source
    documents: Documents
    staging: Path
    cancellation: Cancellation
    limits: Limits

    def run(self, leases: ExitStack) -> dict[str, LayerRow]:
        """All layers by chain id, in place; their leases are left in *leases*."""
        chain_ids = chain_ids_of(self.documents.config.diff_ids)
        if not chain_ids:
            return {}
        _check_space(self.staging, self.documents.manifest.layers)
        flights = [leases.enter_context(self.images.flights.join(f"layer:{chain_id}")) for chain_id in chain_ids]
        futures: list[concurrent.futures.Future[LayerRow]] = []
        with concurrent.futures.ThreadPoolExecutor(min(WORKERS, len(chain_ids)), "pull") as pool:
            try:
                for number, flight in enumerate(flights):
                    below = futures[-1] if futures else None
                    futures.append(pool.submit(self._layer, number, chain_ids, flight, below))
                concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
                failures = [error for future in futures if future.done() and (error := future.exception()) is not None]
                if failures:
                    raise next((error for error in failures if not isinstance(error, Cancelled)), failures[0])
            except BaseException:
                self.cancellation.cancel()  # the others stop at once, also where they wait for a byte
                for future in futures:
                    future.cancel()
                raise
        return {chain_id: future.result() for chain_id, future in zip(chain_ids, futures, strict=True)}

    def _layer(
        self, number: int, chain_ids: tuple[str, ...], flight: Flight, below: concurrent.futures.Future[LayerRow] | None
    ) -> LayerRow:
        """Layer *number*, by us or by whoever else is at it.  Waits only for layers below, so nobody waits in a circle."""
        chain_id = chain_ids[number]
        with flight.lead(self.cancellation.check):
            row = self.images.layer(chain_id) or flight.outcome
            if row is None:
                row = flight.outcome = self._unpack(number, chain_ids, below)
            return row

    def _unpack(self, number: int, chain_ids: tuple[str, ...], below: concurrent.futures.Future[LayerRow] | None) -> LayerRow:
        descriptor, diff_id = self.documents.manifest.layers[number], self.documents.config.diff_ids[number]
        directory, staged = self.staging / f"layer-{number}", self.staging / f"blob-{number}"
        directory.mkdir(mode=0o700)
        ours = self.images.content.has(descriptor.digest)
        job = unpack.LayerJob(
            digest=descriptor.digest,
            size=descriptor.size,
            media_type=descriptor.media_type,
            diff_id=diff_id,
            directory=directory,
            blob=None if ours else staged,
            limits=self.limits,
        )
        source = self.images.content.chunks(descriptor.digest) if ours else self.source.blob(descriptor)
        with _Slot(self.cancellation.check), closing(source) as chunks:
            applied = unpack.run(job, chunks, self.cancellation.check)
        if below is not None:
            below.result()
        try:
            complete(directory, applied, self.images.stack(chain_ids[:number]))
        except ImagePullFailed as error:
            raise type(error)(f"layer {descriptor.digest}: {error}") from error
        if not ours:
            self.images.content.publish(staged, descriptor.digest)
        self.images.publish(directory, chain_ids[number])
        return LayerRow(diff_id, applied.size_bytes, applied.inodes)


class _Slot:
    """One of the node's SLOTS, waited for with an eye on cancellation.  Its holder waits for no other layer."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        while not SLOTS.acquire(timeout=TICK_SECONDS):
            self._stop()

    def __exit__(self, *_: object) -> None:
        SLOTS.release()


def _check_space(staging: Path, layers: list[Descriptor]) -> None:
    """Refuse now what cannot fit: the compressed layers alone are more than is free."""
    found = os.statvfs(staging)
    free, needed = found.f_bavail * found.f_frsize, sum(layer.size for layer in layers)
    if needed > free:
        raise ImagePullFailed(f"needs more than {needed >> 20} MiB, {free >> 20} MiB are free in {staging.parent}")


def _write_documents(images: ImageStore, documents: Documents, staging: Path) -> None:
    for number, (digest, content) in enumerate(documents.contents.items()):
        staged = staging / f"document-{number}"
        with BlobWriter(staged, digest, len(content)) as writer:
            writer.write(content)
            writer.finish()
        images.content.publish(staged, digest)


def _record(images: ImageStore, documents: Documents) -> ImageRecord:
    held = [digest for digest in documents.digests() if images.content.has(digest)]
    return ImageRecord(
        config=documents.config,
        chain_ids=chain_ids_of(documents.config.diff_ids),
        roots=(documents.root,),
        manifests=(documents.manifest_digest,),
        blobs={digest: images.content.size(digest) for digest in held},
    )


def _sweep(staging: Path) -> None:
    with open_path(staging.parent, os.O_RDONLY | os.O_DIRECTORY) as parent:
        filesystem.remove_tree(parent, staging.name)
