"""Send a package to a registry: blobs it lacks, then manifests, the root last and under its name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlencode, urlsplit

from runtime.errors import ImagePullFailed, RegistryRefused, RegistryUnavailable
from runtime.image.auth import Credentials
from runtime.image.cancellation import Cancellation
from runtime.image.manifest import INDEX_TYPES, MANIFEST_TYPES
from runtime.image.pack import Package
from runtime.image.reference import parse_reference
from runtime.image.registry import Fetched, Registry, Repository, join_url

#: Bytes, or a function that begins them anew: a request may have to be sent twice.
Body = bytes | Callable[[], Iterator[bytes]]


def push(
    registry: Registry,
    package: Package,
    reference: str,
    *,
    credentials: Credentials | None = None,
    cancelled: threading.Event | None = None,
) -> str:
    """Store *package* at the registry as *reference*; returns the digest it has there.

    Raises RegistryUnavailable or RegistryRefused.
    """
    wanted = parse_reference(reference)
    try:
        with (
            Cancellation(cancelled) as cancellation,
            registry.open(wanted, cancellation, credentials=credentials, push=True) as repository,
        ):
            for layer in package.layers.values():
                _push_blob(repository, layer.digest, layer.size, layer.chunks)
            kinds = MANIFEST_TYPES | INDEX_TYPES
            manifests = [document for document in package.documents.values() if document.media_type in kinds]
            for document in package.documents.values():
                if document.media_type not in kinds:
                    _push_blob(repository, document.digest, len(document.content), document.content)
            for document in sorted(manifests, key=lambda one: one.digest == package.root.digest):
                target = wanted.target if document.digest == package.root.digest else document.digest
                _push_manifest(repository, document, target)
            return package.root.digest
    except RegistryUnavailable:
        raise
    except ImagePullFailed as error:
        raise type(error)(f"push {wanted}: {error}") from error


def _push_blob(repository: Repository, digest: str, size: int, body: Body) -> None:
    """One blob, unless the registry has it: a POST for the place, a PUT of the bytes (distribution spec, "Pushing blobs")."""
    response = repository.send("HEAD", f"{repository.root}/blobs/{digest}", {})
    repository.finish(response)
    if response.status == 200:
        return
    response = repository.send("POST", f"{repository.root}/blobs/uploads/", {"Content-Length": "0"})
    repository.require(response, (202,), f"upload of blob {digest}")
    repository.finish(response)
    place = join_url(f"{repository.root}/blobs/uploads/", response.headers.get("Location", ""))
    if not response.headers.get("Location"):
        raise RegistryRefused(f"upload of blob {digest}: the registry names no place for it")
    url = place + ("&" if urlsplit(place).query else "?") + urlencode({"digest": digest})
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    response = repository.send("PUT", url, headers, body)
    repository.require(response, (201, 204), f"upload of blob {digest}")
    repository.finish(response)


def _push_manifest(repository: Repository, document: Fetched, target: str) -> None:
    headers = {"Content-Type": document.media_type or ""}
    response = repository.send("PUT", f"{repository.root}/manifests/{target}", headers, document.content)
    repository.require(response, (201,), f"upload of manifest {target}")
    repository.finish(response)
