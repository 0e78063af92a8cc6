"""Index, manifest and config: the documents of an image, both families (OCI 1.1 and Docker schema 2).

Bytes to values and the rules for them; no I/O.  A document that could be read in two ways is
refused: both an index and a manifest (CVE-2021-41190), a key twice, a header that contradicts the
body.  Two readers that disagree about a document are how a scanned image becomes another one.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NoReturn, TypeVar

import msgspec

from runtime.errors import ImagePullFailed
from runtime.image.reference import is_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
SCHEMA1_TYPES = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
LAYER_TYPES = frozenset(
    {
        OCI_LAYER,
        f"{OCI_LAYER}+gzip",
        f"{OCI_LAYER}+zstd",
        DOCKER_LAYER,
        f"{DOCKER_LAYER}.gzip",
        f"{DOCKER_LAYER}.zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)

#: The distribution spec asks clients to accept 4 MiB; nobody needs more.
MANIFEST_LIMIT = 4 << 20
CONFIG_LIMIT = 8 << 20

#: overlayfs stacks at most 500 (OVL_MAX_STACK), the writable layer not counted.
LAYER_LIMIT = 500


class Model(msgspec.Struct, rename="camel", kw_only=True):
    """Base of every document here: unknown fields are ignored, an optional field may be null."""


class Platform(Model):
    architecture: str = ""
    os: str = ""
    variant: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Model, omit_defaults=True):
    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None
    data: str | None = None

    def embedded(self) -> bytes | None:
        """The content carried in the descriptor itself, not yet checked against the digest."""
        try:
            return None if self.data is None else base64.b64decode(self.data, validate=True)
        except binascii.Error:
            return None


class Index(Model):
    schema_version: int
    manifests: list[Descriptor] | None
    media_type: str | None = None


class Manifest(Model):
    schema_version: int
    config: Descriptor
    layers: list[Descriptor]
    media_type: str | None = None
    artifact_type: str | None = None


Document = TypeVar("Document", bound=Model)


def parse_manifest(content: bytes, media_type: str | None) -> Index | Manifest:
    """The index or manifest in *content*, which its descriptor or header called *media_type*.

    *media_type* is a hint only when it is absent or generic.  Raises ImagePullFailed saying what is
    wrong.
    """
    named = (media_type or "").partition(";")[0].strip().lower() or None
    if len(content) > MANIFEST_LIMIT:
        raise _refused(f"{len(content)} bytes, more than {MANIFEST_LIMIT}")
    value = load_json(content, "manifest")
    kind = _kind(value, named)
    document: Index | Manifest
    document = convert(value, Index, "manifest") if kind in INDEX_TYPES else convert(value, Manifest, "manifest")
    if document.schema_version != 2:
        raise _refused(f"schemaVersion {document.schema_version}, want 2")
    if isinstance(document, Index):
        children = document.manifests or []
    else:
        children = [document.config, *document.layers]
        if len(document.layers) > LAYER_LIMIT:
            raise _refused(f"{len(document.layers)} layers, an overlay takes {LAYER_LIMIT}")
    for child in children:
        check_descriptor(child)
    return document


def check_descriptor(descriptor: Descriptor) -> None:
    """Refuse a descriptor whose content could not be verified."""
    if not is_digest(descriptor.digest):
        raise _refused(f"descriptor with digest {descriptor.digest[:100]!r}: only sha256 can be verified")
    if not 0 <= descriptor.size < 1 << 53:
        raise _refused(f"descriptor {descriptor.digest} with size {descriptor.size}")


def load_json(content: bytes, what: str) -> dict[str, Any]:
    """The JSON object in *content*; a key given twice is refused (RFC 7493, as the image spec asks)."""
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ImagePullFailed(f"{what}: nested too deeply") from None
    except ValueError as error:
        raise ImagePullFailed(f"{what}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ImagePullFailed(f"{what}: not a JSON object")
    if b"\\ud" in content.lower():  # half of a surrogate pair is valid JSON, but no text that can be written again
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ImagePullFailed(f"{what}: half a surrogate pair") from None
    return value


def convert(value: dict[str, Any], model: type[Document], what: str) -> Document:
    """*value* as a *model*; raises ImagePullFailed with the field that does not fit."""
    try:
        return msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        raise ImagePullFailed(f"{what}: {error}") from None


def _kind(value: dict[str, Any], named: str | None) -> str:
    """Which of the four media types the document is, all its signs agreeing."""
    inner = value.get("mediaType")
    if not isinstance(inner, str | None):
        raise _refused("mediaType is no text")
    looks_index, looks_manifest = "manifests" in value, "layers" in value or "config" in value
    if named in SCHEMA1_TYPES or inner in SCHEMA1_TYPES or "fsLayers" in value or value.get("schemaVersion") == 1:
        raise _refused("Docker schema 1 (2015), which cannot be verified; push the image again with a current tool")
    if looks_index and looks_manifest:
        raise _refused("both an index and an image manifest; refused as ambiguous (CVE-2021-41190)")
    known = INDEX_TYPES | MANIFEST_TYPES
    if named in known and inner is not None and inner != named:
        raise _refused(f"announced as {named}, but its mediaType says {inner}")
    kind = named if named in known else inner
    if kind is None:
        kind = OCI_INDEX if looks_index else OCI_MANIFEST
    if kind not in known:
        raise _refused(f"media type {kind!r} is neither an image manifest nor an index")
    if (kind in INDEX_TYPES and looks_manifest) or (kind in MANIFEST_TYPES and looks_index):
        raise _refused(f"called {kind}, but is the other kind")
    return kind


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refused(why: str) -> ImagePullFailed:
    return ImagePullFailed(f"manifest: {why}")
