"""Start, serve, stop, in order: the recipe of the daemon.

The order matters at both ends: the lock before anything is looked at, recovery before the first
answer, and the socket gone before the node is let go of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator

from cri.config import Config
from cri.containers import Containers
from cri.dispatch import Dispatch
from cri.execution import Execution
from cri.images import ImageRpcs
from cri.node import Node, Puller
from cri.sandboxes import Sandboxes
from cri.server import IMAGE, RUNTIME, Server
from cri.services import image_service, runtime_service
from cri.status import Status
from runtime import lock
from runtime.image.auth import Credentials
from runtime.image.pull import pull
from runtime.image.records import Image
from runtime.image.registry import Registry
from runtime.image.store import ImageStore
from runtime.node import Node as RuntimeNode

#: How long calls under way may take when the daemon stops; containers are not touched.
GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.  Raises WrongState when another daemon has the run directory."""
    config.paths.prepare()
    with lock.take(config.paths.lock):
        node = RuntimeNode(
            config.paths,
            bridge=config.network.bridge,
            subnet=config.network.subnet,
            cgroup_parent=config.cgroup_parent,
        )
        try:
            node.start()
            asyncio.run(_serve_until_told(config, node, puller(config, node.images)))
        finally:
            node.close()


def puller(config: Config, images: ImageStore) -> Puller:
    """Pulls into *images* from the registries as they are configured."""
    registry = Registry(mirrors=config.registry.mirrors, plain_hosts=config.registry.insecure)

    def pull_image(reference: str, credentials: Credentials | None, cancelled: threading.Event) -> Image:
        return pull(images, registry, reference, credentials=credentials, cancelled=cancelled)

    return pull_image


@contextlib.asynccontextmanager
async def serving(config: Config, node: Node, pull_image: Puller) -> AsyncIterator[None]:
    """Answer the CRI on the configured socket while the block runs; stop gracefully after it."""
    dispatch = Dispatch()
    shown = {"rootDir": str(config.root_dir), "stateDir": str(config.run_dir), "socket": str(config.socket)}
    status = Status(shown, node.controllers())
    server = Server(
        config.socket,
        {
            RUNTIME: runtime_service(dispatch, Sandboxes(node), Containers(node), Execution(node), status),
            IMAGE: image_service(dispatch, ImageRpcs(node.images, pull_image, config.root_dir)),
        },
    )
    try:
        await server.start()
        yield
    finally:
        await server.stop(GRACE_SECONDS)
        dispatch.close()


async def _serve_until_told(config: Config, node: Node, pull_image: Puller) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with serving(config, node, pull_image):
        log.info("listening on %s", config.socket)
        await told.wait()
        log.info("stopping; containers run on")


def set_up_logging(level: int) -> None:
    """One line per event on stderr, where a service manager adds the time and keeps it."""
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s %(message)s")
