"""What the writable layers of containers take on disk: measured in the background, answered from memory.

Nothing but a walk over all files can tell (overlayfs keeps no account), and a layer may have millions of them.  So
there is one walker, a layer is walked at most every ten seconds and for a twentieth of the time at most, and who asks
gets the last figure with its time.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from kernel import tree_size
from kernel.fd import open_path
from runtime import snapshot
from runtime.paths import Paths

#: A figure that is younger is not measured again.
FRESH_SECONDS = 10.0
#: Of a layer's walk, how much longer than it took the figure is good for.
REST_FACTOR = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayerUse:
    """*at_ns*: when it was measured, by the clock of the node."""

    bytes: int
    inodes: int
    at_ns: int


@dataclass(slots=True)
class _Known:
    use: LayerUse | None = None
    due: float = 0.0
    is_queued: bool = False


class WritableLayers:
    """Safe to call from any thread; ``close`` it to end its own, which begins with the first question."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._known: dict[str, _Known] = {}
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._walker: threading.Thread | None = None
        self._is_closing = False

    def use(self, container_ids: Collection[str], wait_seconds: float = 0.0) -> dict[str, LayerUse]:
        """The last figures of these containers, after *wait_seconds* at most for those that were never measured."""
        with self._changed:
            for container_id in container_ids:
                self._ask(container_id)
            if wait_seconds > 0:
                self._changed.wait_for(lambda: all(self._is_settled(each) for each in container_ids), wait_seconds)
            return {key: known.use for key in container_ids if (known := self._known.get(key)) and known.use is not None}

    def keep_only(self, container_ids: Collection[str]) -> None:
        """Forget all others: they are gone."""
        with self._changed:
            for container_id in [each for each in self._known if each not in container_ids]:
                del self._known[container_id]

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            walker = self._walker
        if walker is not None:
            self._queue.put(None)
            walker.join(10)

    def _is_settled(self, container_id: str) -> bool:
        known = self._known.get(container_id)
        return self._is_closing or known is None or known.use is not None or not known.is_queued

    def _ask(self, container_id: str) -> None:
        """Have the layer measured if it is time; the lock is held."""
        known = self._known.setdefault(container_id, _Known())
        if known.is_queued or time.monotonic() < known.due or self._is_closing:
            return
        known.is_queued = True
        self._queue.put(container_id)
        if self._walker is None:
            self._walker = threading.Thread(target=self._walk_all, name="writable layers", daemon=True)
            self._walker.start()

    def _walk_all(self) -> None:
        while (container_id := self._queue.get()) is not None:
            begun = time.monotonic()
            use = self._walk(container_id)
            took = time.monotonic() - begun
            with self._changed:
                if (known := self._known.get(container_id)) is not None:
                    known.use = use or known.use
                    known.due = begun + took + max(FRESH_SECONDS, took * REST_FACTOR)
                    known.is_queued = False
                self._changed.notify_all()

    def _walk(self, container_id: str) -> LayerUse | None:
        """None when there is no such layer any more, or it cannot be read."""
        try:
            with open_path(self._paths.container(container_id) / snapshot.UPPER, os.O_RDONLY | os.O_DIRECTORY) as upper:
                size = tree_size.measure(upper, lambda: self._is_closing)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("writable layer of container %s: cannot be measured: %s", container_id[:13], error)
            return None
        return None if size is None else LayerUse(size.bytes, size.inodes, time.time_ns())
