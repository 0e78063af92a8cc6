"""Make images: layers, config, manifest, index; the same input gives the same digests.

A ``Package`` is a source like a registry (documents.Source): ``pull.load`` stores it without one,
``push.push`` sends it to one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from runtime.errors import ImageNotFound
from runtime.image.content import ContentStore, digest_of
from runtime.image.layerwriter import Compression, Layer, LayerWriter
from runtime.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    Platform,
    parse_manifest,
)
from runtime.image.platform import host_platform
from runtime.image.registry import Fetched
from runtime.image.store import ImageStore

#: Docker's and OCI's names for a compressed layer.
SUFFIXES: dict[bool, dict[Compression, str]] = {
    False: {"none": "", "gzip": "+gzip", "zstd": "+zstd"},
    True: {"none": "", "gzip": ".gzip", "zstd": ".zstd"},
}


class Blob(Protocol):
    """A layer of a package."""

    @property
    def digest(self) -> str: ...

    @property
    def size(self) -> int: ...

    def chunks(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A layer that is a blob of this node."""

    content: ContentStore
    digest: str
    size: int

    def chunks(self) -> Iterator[bytes]:
        return self.content.chunks(self.digest)


@dataclass(frozen=True, slots=True)
class Package:
    """Finished images by digest.  *root* describes the index, or the one manifest."""

    root: Descriptor
    documents: dict[str, Fetched]
    layers: Mapping[str, Blob]

    def manifest(self, target: str) -> Fetched:
        """The document with digest *target*; raises ImageNotFound."""
        if target not in self.documents:
            raise ImageNotFound(f"{target} is not in this package")
        return self.documents[target]

    def blob(self, descriptor: Descriptor) -> Generator[bytes]:
        """The bytes of a layer or config; raises ImageNotFound."""
        if descriptor.digest in self.documents:
            yield self.documents[descriptor.digest].content
        elif descriptor.digest in self.layers:
            yield from self.layers[descriptor.digest].chunks()
        else:
            raise ImageNotFound(f"{descriptor.digest} is not in this package")


class Packer:
    """One image under construction.  Fields are the config's; ``layer`` and ``add_layer`` stack layers, bottom first."""

    def __init__(
        self,
        *,
        architecture: str | None = None,
        os: str = "linux",
        variant: str | None = None,
        docker: bool = False,
        created: str = "1970-01-01T00:00:00Z",
    ) -> None:
        self.platform = Platform(os=os, architecture=architecture or host_platform().architecture, variant=variant)
        self.docker = docker
        self.created = created
        self.user = ""
        self.env: Sequence[str] = ()
        self.entrypoint: Sequence[str] = ()
        self.cmd: Sequence[str] = ()
        self.working_dir = ""
        self.stop_signal = ""
        self.labels: dict[str, str] = {}
        self.volumes: Sequence[str] = ()
        self.exposed_ports: Sequence[str] = ()
        self.annotations: dict[str, str] = {}
        self.layers: list[Layer] = []

    def add_layer(self, layer: LayerWriter | Layer) -> None:
        """Put *layer* on top; a writer is finished."""
        self.layers.append(layer.finish() if isinstance(layer, LayerWriter) else layer)

    def add_directory(self, directory: Path, *, compression: Compression = "gzip") -> None:
        """Put everything below *directory* on top as a layer."""
        writer = LayerWriter(compression)
        writer.tree(directory)
        self.add_layer(writer)

    def pack(self) -> Package:
        """The finished image."""
        suffixes = SUFFIXES[self.docker]
        base = DOCKER_LAYER if self.docker else OCI_LAYER
        config = _encode(self._config())
        config_type, manifest_type = (DOCKER_CONFIG, DOCKER_MANIFEST) if self.docker else (OCI_CONFIG, OCI_MANIFEST)
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": _descriptor(config_type, digest_of(config), len(config)),
            "layers": [_descriptor(base + suffixes[layer.compression], layer.digest, layer.size) for layer in self.layers],
        }
        if self.annotations and not self.docker:
            document["annotations"] = self.annotations
        content = _encode(document)
        root = Descriptor(media_type=manifest_type, digest=digest_of(content), size=len(content), platform=self.platform)
        documents = {
            root.digest: Fetched(content, manifest_type, root.digest),
            digest_of(config): Fetched(config, config_type, digest_of(config)),
        }
        return Package(root, documents, {layer.digest: layer for layer in self.layers})

    def _config(self) -> dict[str, Any]:
        run = {
            "User": self.user,
            "Env": list(self.env),
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "WorkingDir": self.working_dir,
            "StopSignal": self.stop_signal,
            "Labels": self.labels,
            "Volumes": {path: {} for path in self.volumes},
            "ExposedPorts": {port: {} for port in self.exposed_ports},
        }
        document: dict[str, Any] = {
            "created": self.created,
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "config": {key: value for key, value in run.items() if value},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
        }
        if self.platform.variant:
            document["variant"] = self.platform.variant
        return document


def pack_index(packages: Sequence[Package], *, docker: bool = False) -> Package:
    """One package of several, for different platforms, under an index (a manifest list for *docker*)."""
    kind = DOCKER_INDEX if docker else OCI_INDEX
    manifests = []
    for package in packages:
        root = package.root
        entry = _descriptor(root.media_type, root.digest, root.size)
        if root.platform is not None:
            platform = {"architecture": root.platform.architecture, "os": root.platform.os}
            entry["platform"] = platform | ({"variant": root.platform.variant} if root.platform.variant else {})
        manifests.append(entry)
    content = _encode({"schemaVersion": 2, "mediaType": kind, "manifests": manifests})
    root = Descriptor(media_type=kind, digest=digest_of(content), size=len(content))
    documents = {root.digest: Fetched(content, kind, root.digest)}
    layers: dict[str, Blob] = {}
    for package in packages:
        documents |= package.documents
        layers.update(package.layers)
    return Package(root, documents, layers)


def package_of(images: ImageStore, name: str) -> Package:
    """A stored image as a package; raises ImageNotFound, also when a layer's blob is not on this node.

    Its root is the manifest that was unpacked here, not the index it came from: of that only one entry is here.
    """
    image = images.find(name)
    if image is None:
        raise ImageNotFound(f"image {name} is not on this node")
    digest = images.record(image).manifests[-1]
    content = images.content.read(digest)
    manifest = parse_manifest(content, None)
    if not isinstance(manifest, Manifest):
        raise ImageNotFound(f"image {name}: {digest} is not a manifest")
    kind = manifest.media_type or OCI_MANIFEST
    documents = {digest: Fetched(content, kind, digest)}
    config = manifest.config
    documents[config.digest] = Fetched(images.content.read(config.digest), config.media_type, config.digest)
    layers = {
        layer.digest: StoredBlob(images.content, layer.digest, images.content.size(layer.digest)) for layer in manifest.layers
    }
    return Package(Descriptor(media_type=kind, digest=digest, size=len(content)), documents, layers)


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _encode(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document)
