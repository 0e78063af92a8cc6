"""Start, serve, stop, in order: the recipe of the daemon.

The order matters at both ends: the lock before anything is looked at, recovery before the first
answer, and the socket gone before the node is let go of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable

from cri import lines
from cri.config import Config
from cri.containers import Containers
from cri.dispatch import Dispatch
from cri.events import Events
from cri.execution import Execution
from cri.exposition import Exposition
from cri.handlers import Handlers
from cri.images import ImageRpcs
from cri.metrics import Metrics
from cri.node import Node, Puller
from cri.puller import RegistryPuller
from cri.reload import Reloader
from cri.sandboxes import Sandboxes
from cri.server import IMAGE, RUNTIME, Server
from cri.services import image_service, runtime_service
from cri.stats import Stats
from cri.status import Status
from cri.streaming.server import StreamingServer
from cri.subject import NOBODY, Finder
from cri.systemd import ServiceManager, watch
from cri.telemetry import CONTENT_TYPE, Telemetry
from runtime import lock
from runtime.container.state import ContainerState
from runtime.network.selection import Choice
from runtime.node import Node as RuntimeNode
from runtime.sandbox.state import SandboxState

#: How long calls under way may take when the daemon stops; containers are not touched.
GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)


def run(config: Config, reread: Callable[[], Config], *, verbose: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; *reread* reads the configuration again, for SIGHUP.

    Raises WrongState when another daemon has the run directory.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing to reload yet
    lines.set_up(config.log, NOBODY, verbose=verbose)
    config.paths.prepare()
    with lock.take(config.paths.lock):
        node = make_node(config)
        try:
            finder = Finder(node)
            lines.set_up(config.log, finder, verbose=verbose)
            node.start()
            pull_image, handlers = RegistryPuller(config, node.images), Handlers(config)
            applied = {
                "log": lambda new: lines.set_up(new.log, finder, verbose=verbose),
                "registry": pull_image.configure,
                "cdi_dirs": handlers.configure,
                "handlers": handlers.configure,
            }
            asyncio.run(_serve_until_told(Reloader(config, reread, applied), node, pull_image, handlers))
        finally:
            node.close()


def make_node(config: Config) -> RuntimeNode:
    """This machine's node, not yet started; whoever starts it holds the lock of the run directory."""
    return RuntimeNode(
        config.paths,
        bridge=config.network.bridge,
        subnet=config.network.subnet,
        network=Choice(config.network.kind, config.network.cni_config_dir, config.network.cni_plugin_dirs),
        cgroup_parent=config.cgroup_parent,
        cgroup_driver=config.cgroup_driver,
    )


@contextlib.asynccontextmanager
async def serving(config: Config, node: Node, pull_image: Puller, handlers: Handlers | None = None) -> AsyncIterator[None]:
    """Answer the CRI on the configured socket while the block runs; stop gracefully after it."""
    dispatch, handlers = Dispatch(), handlers or Handlers(config)
    shown = {"rootDir": str(config.root_dir), "stateDir": str(config.run_dir), "socket": str(config.socket)}
    streaming = StreamingServer.of(config.streaming)
    sandboxes, containers, execution = Sandboxes(node, handlers), Containers(node, handlers), Execution(node, streaming)
    status = Status(shown, node, config.cgroup_driver, handler_names=handlers.names)
    telemetry = Telemetry(node)
    stats, metrics, events = Stats(node, str(config.root_dir)), Metrics(node), Events(node)
    server = Server(
        config.socket,
        {
            RUNTIME: runtime_service(dispatch, sandboxes, containers, execution, stats, metrics, events, status),
            IMAGE: image_service(dispatch, ImageRpcs(node.images, pull_image, config.root_dir, node.use_of_layers)),
        },
        Finder(node),
        telemetry.observe,
    )
    exposition = Exposition(*config.metrics.host_and_port, telemetry.render, CONTENT_TYPE) if config.metrics.address else None
    try:
        await streaming.start()
        await server.start()
        if exposition is not None:
            await exposition.start()
        yield
    finally:
        events.close()
        if exposition is not None:
            await exposition.stop()
        await server.stop(GRACE_SECONDS)
        await streaming.stop()
        dispatch.close()


async def _serve_until_told(reloader: Reloader, node: RuntimeNode, pull_image: Puller, handlers: Handlers) -> None:
    told, manager = asyncio.Event(), ServiceManager()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)

    def reload() -> None:
        manager.reloading()
        manager.ready(reloader.reload())

    def describe() -> str:
        ready = sum(sandbox.state is SandboxState.READY for sandbox in node.sandboxes())
        running = sum(container.state is ContainerState.RUNNING for container in node.containers())
        return f"serving {ready} pods, {running} containers run"

    config = reloader.running
    async with serving(config, node, pull_image, handlers), asyncio.TaskGroup() as tasks:
        loop.add_signal_handler(signal.SIGHUP, reload)
        watching = tasks.create_task(watch(manager, node.faults, describe))
        log.info("listening on %s", config.socket)
        manager.ready(describe())
        await told.wait()
        manager.stopping()
        log.info("stopping; containers run on")
        watching.cancel()
