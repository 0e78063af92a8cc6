"""Pulls into the node's store, from the registries as they are configured now."""

from __future__ import annotations

import threading

from cri.config import Config
from runtime.image.auth import Credentials
from runtime.image.pull import pull
from runtime.image.records import Image
from runtime.image.registry import Registry
from runtime.image.store import ImageStore


class RegistryPuller:
    """The Puller of the daemon (``cri.node``)."""

    def __init__(self, config: Config, images: ImageStore) -> None:
        self._images = images
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Use *config* for pulls that begin from now on."""
        self._registry = Registry(mirrors=config.registry.mirrors, plain_hosts=config.registry.insecure)

    def __call__(self, reference: str, credentials: Credentials | None, cancelled: threading.Event) -> Image:
        return pull(self._images, self._registry, reference, credentials=credentials, cancelled=cancelled)
