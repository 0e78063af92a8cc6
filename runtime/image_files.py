"""What a container has of images: the layers of its root, and those of images that it mounts as volumes.

A volume is an entry of the spec's mounts with the type "image": its source is the image's id, and below that the
directory in it, ``sha256:.../etc/nginx``.  In a pod with users of its own all these files are theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kernel.fd import Fd, open_path
from runtime import snapshot
from runtime.container.config import ContainerConfig
from runtime.container.state import Container
from runtime.context import Context
from runtime.errors import ImageNotFound
from runtime.image.records import Image
from runtime.sandbox.state import Sandbox
from runtime.spec import schema

#: The type of a mount that shows an image.
TYPE = "image"


def of(context: Context, config: ContainerConfig) -> list[Image]:
    """The images that a container needs, its own first.  Raises ImageNotFound."""
    return [_find(context, config, image_id) for image_id in ids_of(config)]


def ids_of(config: ContainerConfig) -> list[str]:
    """The ids of the images that a container needs, its own first."""
    volumes = [mount.source.partition("/")[0] for mount in config.spec.mounts if mount.type == TYPE]
    return list(dict.fromkeys([config.image, *volumes]))


def mount_root(context: Context, sandbox: Sandbox, container: Container, lower: list[Path]) -> Fd:
    """The container's root: *lower* under its writable directory, as a detached mount."""
    with _users(context, sandbox) as users:
        return snapshot.mount(context.paths, container.id, lower, users=users, label=_label(container))


def mount_volumes(context: Context, sandbox: Sandbox, container: Container, mounts: list[schema.Mount]) -> dict[int, Fd]:
    """A detached mount for each of *mounts* that shows an image, by its index.  Raises InvalidArgument for what is not in it."""
    made: dict[int, Fd] = {}
    with _users(context, sandbox) as users, contextlib.ExitStack() as undo:
        for index, mount in enumerate(mounts):
            if mount.type != TYPE:
                continue
            image_id, _, path = mount.source.partition("/")
            lower = context.images.lower_directories(_find(context, container.config, image_id))
            made[index] = undo.enter_context(
                snapshot.mount_image(context.paths, container.id, lower, path, users=users, label=_label(container))
            )
        undo.pop_all()
    return made


def _label(container: Container) -> str:
    """SELinux's label of the container's files."""
    return container.config.spec.linux.mount_label


def _find(context: Context, config: ContainerConfig, image_id: str) -> Image:
    image = context.images.find(image_id)
    if image is None:
        raise ImageNotFound(f"create container {config.name}: image {image_id}: not on this node; pull it first")
    return image


@contextlib.contextmanager
def _users(context: Context, sandbox: Sandbox) -> Iterator[snapshot.Users | None]:
    """The pod's own users, if it has them."""
    config = sandbox.config
    if not config.uid_mappings:
        yield None
        return
    with open_path(context.paths.run_sandbox(sandbox.id) / "user") as namespace:
        yield snapshot.Users(namespace, config.uid_mappings, config.gid_mappings)
