"""A bundle: a directory with config.json, and the root file system that it names."""

from __future__ import annotations

import os
from pathlib import Path

from kernel.fd import Fd, open_path
from runtime.container.ground_binds import open_root
from runtime.errors import InvalidSpec
from runtime.oci.directory import ATTACH_POINT
from runtime.spec import schema
from runtime.spec.load import SIZE_LIMIT_BYTES, load

CONFIG = "config.json"


class Bundle:
    """What was read: the directory, the document as it is, the spec, and the root's path."""

    def __init__(self, path: Path, document: bytes, spec: schema.Spec, rootfs: Path) -> None:
        self.path, self.document, self.spec, self.rootfs = path, document, spec, rootfs

    def open_root(self) -> Fd:
        """A detached mount of it, with all that is mounted below."""
        return open_root(self.rootfs, self.spec.linux.rootfs_propagation)


def load_bundle(directory: str, config: str = "") -> Bundle:
    """The bundle in *directory*, its config.json being *config* if that is given.  Raises InvalidSpec, or OSError."""
    path = Path(os.path.realpath(directory))
    with open_path(path / (config or CONFIG)) as file:
        document = os.read(file.fileno(), SIZE_LIMIT_BYTES + 1)
    spec = load(document)
    if spec.root is None:
        raise InvalidSpec("root: a container needs a root file system")
    rootfs = Path(os.path.realpath(path / spec.root.path))
    if not rootfs.is_dir():
        raise InvalidSpec(f"root.path: {rootfs}: there is no such directory")
    return Bundle(path, document, spec, rootfs)


def make_attach_point(bundle: Bundle, directory: Path) -> Path:
    """Where the init is to attach the root, in its own mount namespace: a new directory in *directory*.

    With hooks that run before the pivot, upon the root itself: there they look for the container's mounts, and put more.
    """
    hooks = bundle.spec.hooks
    if (hooks.prestart or hooks.create_runtime or hooks.create_container) and bundle.rootfs != Path("/"):
        return bundle.rootfs
    made = directory / ATTACH_POINT
    made.mkdir(mode=0o700)
    return made
