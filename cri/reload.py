"""Told to reload: what of a changed configuration applies at once, and what waits for a restart, and why."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from cri.config import Config
from runtime.errors import KerneletError

#: Why a running daemon cannot change these.
FIXED = {
    "root_dir": "the database in it is open",
    "run_dir": "what runs is kept in it",
    "socket": "it is being listened on",
    "cgroup_driver": "pods' cgroups were made by it",
    "cgroup_parent": "pods run in it",
    "network.kind": "pods are on the network there is",
    "network.bridge": "pods are on the bridge there is",
    "network.subnet": "pods have addresses of it",
    "streaming.address": "it is being listened on",
    "streaming.port": "it is being listened on",
    "metrics.address": "it is being listened on",
}
_ELSE = "it is read when the daemon starts"

log = logging.getLogger(__name__)


class Change(NamedTuple):
    """One key that says something else than before."""

    key: str
    before: Any
    after: Any


class Reloader:
    """Holds the configuration that the daemon works by.

    *reread* reads it again; *apply* has, by the beginning of a key ("log", "registry.mirrors"), what makes a
    change of it count.
    """

    def __init__(self, running: Config, reread: Callable[[], Config], apply: Mapping[str, Callable[[Config], None]]) -> None:
        self.running = running
        self._reread = reread
        self._apply = apply

    def reload(self) -> str:
        """Read the configuration again; apply what can be, log each change, and return the summary.  Raises nothing of ours."""
        try:
            wanted = self._reread()
        except KerneletError as error:
            log.error("reload: nothing was changed: %s", error)
            return f"reload failed: {error}"
        found = list(changes(self.running, wanted))
        live = {change.key: owner for change in found if (owner := self._owner(change.key)) is not None}
        for change in found:
            if change.key in live:
                self.running = _with(self.running, change.key.split("."), change.after)
        for owner in dict.fromkeys(live.values()):
            self._apply[owner](self.running)
        for change in found:
            text = f"{change.key}: {change.before} -> {change.after}"
            if change.key in live:
                log.info("reload: %s: applied", text)
            else:
                log.warning("reload: %s: not applied, needs a restart: %s", text, FIXED.get(change.key, _ELSE))
        waiting = [change.key for change in found if change.key not in live]
        summary = f"{len(live)} applied" + (f", waiting for a restart: {', '.join(waiting)}" if waiting else "")
        log.info("reload: %s", summary if found else "nothing has changed")
        return f"reloaded: {summary}" if found else "reloaded: nothing has changed"

    def _owner(self, key: str) -> str | None:
        return next((begin for begin in self._apply if key == begin or key.startswith(f"{begin}.")), None)


def changes(before: Any, after: Any, where: str = "") -> Iterator[Change]:
    """The keys in which two configurations differ, in the order of the document."""
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if dataclasses.is_dataclass(old):
            yield from changes(old, new, f"{where}{field.name}.")
        elif old != new:
            yield Change(f"{where}{field.name}", old, new)


def _with(config: Any, key: list[str], value: Any) -> Any:
    """*config* with *value* at *key*."""
    first, *rest = key
    return dataclasses.replace(config, **{first: _with(getattr(config, first), rest, value) if rest else value})
