"""The images of this node: names to images, images to layers, and what may go.

An image is its config's digest; names point at it, a tag at one image at a time.  Lists and usage are
answered from memory, which a transaction has always preceded on disk.  A layer directory or a blob
that no image, no container and no work under way refers to is nobody's and is removed.

Durability: layers are renamed into place, then one syncfs(2), then the transaction; so what the
database names is on the disk, whole, also after a power cut.
"""

from __future__ import annotations

import builtins
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from kernel import filesystem
from kernel.fd import open_path
from runtime.errors import ImageNotFound, InvalidArgument, InvalidReference
from runtime.image.content import ContentStore
from runtime.image.flights import Flights
from runtime.image.layer import root_is_opaque
from runtime.image.records import Image, ImageRecord, LayerRow, Usage
from runtime.image.reference import Reference, is_digest, parse_reference
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store

#: Fewer digits of an id are not taken for one.
PREFIX_DIGITS = 5


class ImageStore:
    """See the module.  *layer_in_use* tells whether a container still needs the layer of a chain id."""

    def __init__(
        self,
        paths: Paths,
        store: Store,
        journal: Journal,
        *,
        layer_in_use: Callable[[str], bool] | None = None,
        durable: bool = True,
    ) -> None:
        self.paths = paths
        self.journal = journal
        self.content = ContentStore(paths.blobs)
        self._store = store
        self._layer_in_use = layer_in_use
        self._durable = durable
        self._lock = threading.RLock()
        self.flights = Flights(self._lock)
        self._records: dict[str, ImageRecord] = {}
        self._names: dict[str, str] = {}
        self._layers: dict[str, LayerRow] = {}
        self._images: dict[str, Image] = {}  # as callers see them, made when asked for
        self._load()

    def find(self, name: str) -> Image | None:
        """The image that *name* means: an id, the beginning of one, or a reference; None if it is not here.

        Raises InvalidArgument when *name* is the beginning of several ids.
        """
        with self._lock:
            image_id = self._find_id(name)
            return None if image_id is None else self._image(image_id)

    def list(self) -> builtins.list[Image]:
        """All images, ordered by id."""
        with self._lock:
            return [self._image(image_id) for image_id in sorted(self._records)]

    def remove(self, name: str) -> None:
        """Forget the image that *name* means, under all its names; nothing happens if there is none.

        Its layers go too, unless another image or a container needs them.
        """
        with self._lock:
            image_id = self._find_id(name)
            if image_id is None:
                return
            with self._store.transaction() as db:
                self._delete(db, image_id)
            self._forget(image_id)
        self.collect()

    def usage(self) -> Usage:
        """What images take on disk: unpacked layers and blobs."""
        with self._lock:
            blobs: dict[str, int] = {}
            for record in self._records.values():
                blobs.update(record.blobs)
            layers = self._layers.values()
            return Usage(
                bytes=sum(blobs.values()) + sum(layer.size_bytes for layer in layers),
                inodes=len(blobs) + sum(layer.inodes for layer in layers),
            )

    def lower_directories(self, image: Image) -> builtins.list[Path]:
        """The directories to stack for *image*, topmost first, down to a layer that hides all below it."""
        return self.stack(image.chain_ids)

    def stack(self, chain_ids: tuple[str, ...]) -> builtins.list[Path]:
        stack: list[Path] = []
        for chain_id in reversed(chain_ids):
            stack.append(self.layer_path(chain_id))
            if root_is_opaque(stack[-1]):
                break
        return stack

    def layer_path(self, chain_id: str) -> Path:
        return self.paths.layers / chain_id.removeprefix("sha256:")

    @contextmanager
    def hold(self, image: Image) -> Iterator[None]:
        """Keep the layers of *image* while a container that needs them is being recorded; raises ImageNotFound."""
        with ExitStack() as held:
            for chain_id in image.chain_ids:
                held.enter_context(self.flights.join(f"layer:{chain_id}"))
            if any(self.layer(chain_id) is None for chain_id in image.chain_ids):
                raise ImageNotFound(f"image {image.id} was removed")
            yield

    def recover(self) -> None:
        """Make disk and database agree after a crash: sweep what was under way, drop what is incomplete."""
        with open_path(self.paths.staging, os.O_RDONLY | os.O_DIRECTORY) as staging:
            for name in os.listdir(staging.fileno()):
                filesystem.remove_tree(staging, name)
        with self._lock:
            broken = [image_id for image_id, record in self._records.items() if not self._is_whole(image_id, record)]
            with self._store.transaction() as db:
                for image_id in broken:
                    self._delete(db, image_id)
            for image_id in broken:
                self._forget(image_id)
        self.collect()
        for intent in self.journal.open_intents():
            if intent.owner.startswith("image:"):
                self.journal.undone(intent.owner, intent.act)

    def collect(self) -> None:
        """Remove layers and blobs that nothing refers to; call it after a container that kept some is gone."""
        with self._lock:
            layers = {chain_id for record in self._records.values() for chain_id in record.chain_ids}
            blobs = {digest for record in self._records.values() for digest in record.blobs}
            present = {f"sha256:{name}" for name in os.listdir(self.paths.layers)} | set(self._layers)
            idle = [chain_id for chain_id in present - layers if not self._is_needed(chain_id)]
            trash = [self._discard(chain_id) for chain_id in idle]
            if any(chain_id in self._layers for chain_id in idle):
                with self._store.transaction() as db:
                    db.executemany("DELETE FROM layers WHERE chain_id = ?", [(chain_id,) for chain_id in idle])
                for chain_id in idle:
                    self._layers.pop(chain_id, None)
            for digest in set(self.content.digests()) - blobs:
                if not self.flights.holds(f"blob:{digest}"):
                    self.content.remove(digest)
        with open_path(self.paths.staging, os.O_RDONLY | os.O_DIRECTORY) as staging:
            for name in filter(None, trash):
                filesystem.remove_tree(staging, name)

    # For pull and load.

    def layer(self, chain_id: str) -> LayerRow | None:
        """The layer, if it is here."""
        with self._lock:
            return self._layers.get(chain_id)

    def resolved(self, reference: Reference, root: str) -> Image | None:
        """The image that *root*, an index or manifest, is known to be, now also under *reference*'s names; else None."""
        with self._lock:
            found = (image_id for image_id, record in self._records.items() if root in record.roots)
            image_id = self._names.get(reference.at(root)) or next(found, None)
            if image_id is None:
                return None
            names = [name for name in _names(reference, root) if self._names.get(name) != image_id]
            if names:
                with self._store.transaction() as db:
                    db.executemany("INSERT OR REPLACE INTO image_names VALUES (?, ?)", [(name, image_id) for name in names])
                self._names.update(dict.fromkeys(names, image_id))
                self._images.clear()
            return self._image(image_id)

    def publish(self, staged: Path, chain_id: str) -> None:
        """Give an unpacked layer its name.  The caller leads its flight; no row names it yet."""
        with self._lock:
            trash = self._discard(chain_id)
            os.rename(staged, self.layer_path(chain_id))
        if trash:
            with open_path(self.paths.staging, os.O_RDONLY | os.O_DIRECTORY) as staging:
                filesystem.remove_tree(staging, trash)

    def commit(self, owner: str, reference: Reference, image_id: str, record: ImageRecord, layers: dict[str, LayerRow]) -> Image:
        """Record a complete image with its layers, and end the intent of *owner*: the one moment at which it is there."""
        if self._durable and any(self.layer(chain_id) is None for chain_id in layers):
            with open_path(self.paths.root_dir, os.O_RDONLY | os.O_DIRECTORY) as root:
                filesystem.sync(root)
        with self._lock:
            names = _names(reference, record.roots[-1])
            known = self._records.get(image_id)
            record = record if known is None else known.merged(record)
            rows = [(chain_id, row.diff_id, row.size_bytes, row.inodes) for chain_id, row in layers.items()]
            with self._store.transaction() as db:
                db.executemany("INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?)", rows)
                db.execute("INSERT OR REPLACE INTO images VALUES (?, ?)", (image_id, msgspec.json.encode(record)))
                db.executemany("INSERT OR REPLACE INTO image_names VALUES (?, ?)", [(name, image_id) for name in names])
                self.journal.finish(db, owner, "pull")
            self._layers.update(layers)
            self._records[image_id] = record
            self._names.update(dict.fromkeys(names, image_id))
            self._images.clear()
            return self._image(image_id)

    def record(self, image: Image) -> ImageRecord:
        """What is remembered of *image*; raises ImageNotFound once it was removed."""
        with self._lock:
            if image.id not in self._records:
                raise ImageNotFound(f"image {image.id} was removed")
            return self._records[image.id]

    def _load(self) -> None:
        for image_id, record in self._store.rows("SELECT id, record FROM images"):
            assert isinstance(record, bytes)
            self._records[str(image_id)] = msgspec.json.decode(record, type=ImageRecord)
        for name, image_id in self._store.rows("SELECT name, image_id FROM image_names"):
            self._names[str(name)] = str(image_id)
        for chain_id, diff_id, size, inodes in self._store.rows("SELECT chain_id, diff_id, size_bytes, inodes FROM layers"):
            self._layers[str(chain_id)] = LayerRow(str(diff_id), int(str(size)), int(str(inodes)))

    def _find_id(self, name: str) -> str | None:
        bare = name.removeprefix("sha256:")
        if is_digest(f"sha256:{bare}"):
            return f"sha256:{bare}" if f"sha256:{bare}" in self._records else None
        try:
            reference = parse_reference(name)
            wanted = f"{reference.name}:{reference.tag}" if reference.digest is None else reference.at(reference.digest)
            if wanted in self._names:
                return self._names[wanted]
        except InvalidReference:
            pass
        if not re.fullmatch(r"[0-9a-f]+", bare) or len(bare) < PREFIX_DIGITS:
            return None
        found = [image_id for image_id in self._records if image_id.startswith(f"sha256:{bare}")]
        if len(found) > 1:
            raise InvalidArgument(f"image id {name!r} is the beginning of {len(found)} ids; give more digits")
        return found[0] if found else None

    def _image(self, image_id: str) -> Image:
        if image_id not in self._images:
            self._images[image_id] = self._make_image(image_id)
        return self._images[image_id]

    def _make_image(self, image_id: str) -> Image:
        record = self._records[image_id]
        names = sorted(name for name, target in self._names.items() if target == image_id)
        layers = [self._layers[chain_id] for chain_id in dict.fromkeys(record.chain_ids)]
        return Image(
            id=image_id,
            repo_tags=tuple(name for name in names if "@" not in name),
            repo_digests=tuple(name for name in names if "@" in name),
            size_bytes=sum(record.blobs.values()) + sum(layer.size_bytes for layer in layers),
            config=record.config,
            chain_ids=record.chain_ids,
        )

    def _is_whole(self, image_id: str, record: ImageRecord) -> bool:
        layers = all(chain in self._layers and self.layer_path(chain).is_dir() for chain in record.chain_ids)
        return layers and self.content.has(image_id)

    def _is_needed(self, chain_id: str) -> bool:
        if self.flights.holds(f"layer:{chain_id}"):
            return True
        return self._layer_in_use is not None and self._layer_in_use(chain_id)

    def _discard(self, chain_id: str) -> str | None:
        """Move a layer's directory out of sight at once; returns its name in staging."""
        name = f"trash-{secrets.token_hex(8)}"
        try:
            os.rename(self.layer_path(chain_id), self.paths.staging / name)
        except FileNotFoundError:
            return None
        return name

    def _delete(self, db: sqlite3.Connection, image_id: str) -> None:
        db.execute("DELETE FROM images WHERE id = ?", (image_id,))
        db.execute("DELETE FROM image_names WHERE image_id = ?", (image_id,))

    def _forget(self, image_id: str) -> None:
        del self._records[image_id]
        self._images.clear()
        self._names = {name: target for name, target in self._names.items() if target != image_id}


def _names(reference: Reference, root: str) -> list[str]:
    """The names that a pull of *reference* gives: the tag it was asked by, and the exact digest.

    By digest no tag is given, not even one written beside it: nobody asked the registry what it means.
    """
    tags = [] if reference.tag is None or reference.digest is not None else [f"{reference.name}:{reference.tag}"]
    return [*tags, reference.at(root)]
