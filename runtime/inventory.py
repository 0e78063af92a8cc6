"""All sandboxes and containers, in memory for reading, on disk before anybody is told.

Lists and statuses are answered from here without a lock: a record is replaced, never changed in place.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from runtime import document
from runtime.container.state import Container
from runtime.errors import ContainerNotFound, InvalidArgument, NotFound, SandboxNotFound
from runtime.journal import Journal
from runtime.sandbox.state import Sandbox
from runtime.store import Store

Record = TypeVar("Record", Sandbox, Container)


class Inventory:
    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._changed = threading.Condition()
        self._last_ns = 0
        self.sandboxes: dict[str, Sandbox] = {}
        self.containers: dict[str, Container] = {}

    def load(self) -> None:
        """Read all records; those of an act that was not finished are not among them."""
        for (record,) in self._store.rows("SELECT record FROM sandboxes"):
            sandbox = document.decode(bytes(record), Sandbox)  # type: ignore[call-overload]
            self.sandboxes[sandbox.id] = sandbox
        for (record,) in self._store.rows("SELECT record FROM containers"):
            container = document.decode(bytes(record), Container)  # type: ignore[call-overload]
            self.containers[container.id] = container
        sandbox_times = (sandbox.created_at_ns for sandbox in self.sandboxes.values())
        container_times = (container.created_at_ns for container in self.containers.values())
        self._last_ns = max((*sandbox_times, *container_times), default=0)

    def new_id(self) -> str:
        """64 hexadecimal digits that nobody has."""
        return secrets.token_hex(32)

    def now(self) -> int:
        """The time in ns, later than any creation before: a kubelet orders attempts by it."""
        with self._changed:
            self._last_ns = max(time.time_ns(), self._last_ns + 1)
            return self._last_ns

    def find_sandbox(self, prefix: str) -> Sandbox:
        """The sandbox whose id is or begins with *prefix*.  Raises SandboxNotFound, or InvalidArgument when several do."""
        return _find(self.sandboxes, prefix, "sandbox", SandboxNotFound)

    def find_container(self, prefix: str) -> Container:
        """The container whose id is or begins with *prefix*.  Raises ContainerNotFound, or InvalidArgument when several do."""
        return _find(self.containers, prefix, "container", ContainerNotFound)

    def containers_of(self, sandbox_id: str) -> list[Container]:
        return [container for container in tuple(self.containers.values()) if container.sandbox_id == sandbox_id]

    def save_sandbox(self, sandbox: Sandbox, *, finishes: str | None = None) -> None:
        """Write the record, then show it; with *finishes*, the journal's row of that act goes in the same commit."""
        with self._store.transaction() as db:
            db.execute("INSERT OR REPLACE INTO sandboxes VALUES (?, ?)", (sandbox.id, document.encode(sandbox)))
            self._finish(db, sandbox.id, finishes)
        self._show(lambda: self.sandboxes.update({sandbox.id: sandbox}))

    def save_container(self, container: Container, *, finishes: str | None = None) -> None:
        """Write the record, then show it; with *finishes*, the journal's row of that act goes in the same commit."""
        with self._store.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO containers VALUES (?, ?, ?)",
                (container.id, container.sandbox_id, document.encode(container)),
            )
            self._finish(db, container.id, finishes)
        self._show(lambda: self.containers.update({container.id: container}))

    def change_container(self, container_id: str, **changes: object) -> Container:
        """Replace the record by one with *changes*; returns it.  Raises ContainerNotFound when it is gone."""
        with self._changed:
            container = msgspec.structs.replace(self.find_container(container_id), **changes)
            self.save_container(container)
            return container

    def drop_sandbox(self, sandbox_id: str, *, finishes: str) -> None:
        """Forget the record and finish the act that removed what it stood for."""
        with self._store.transaction() as db:
            db.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))
            self._finish(db, sandbox_id, finishes)
        self._show(lambda: self.sandboxes.pop(sandbox_id, None))

    def drop_container(self, container_id: str, *, finishes: str) -> None:
        """Forget the record and finish the act that removed what it stood for."""
        with self._store.transaction() as db:
            db.execute("DELETE FROM containers WHERE id = ?", (container_id,))
            self._finish(db, container_id, finishes)
        self._show(lambda: self.containers.pop(container_id, None))

    def wait_until(self, is_so: Callable[[], bool], timeout_seconds: float | None) -> bool:
        """Wait until *is_so*, looking again after every change; False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(is_so, timeout_seconds)

    def touch(self) -> None:
        """Make those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def _finish(self, db: sqlite3.Connection, owner: str, act: str | None) -> None:
        if act is not None:
            self._journal.finish(db, owner, act)

    def _show(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()


def _find(records: Mapping[str, Record], prefix: str, what: str, missing: type[NotFound]) -> Record:
    if not prefix:
        raise InvalidArgument(f"{what} id: must not be empty")
    exact = records.get(prefix)
    if exact is not None:
        return exact
    matching = [record for key, record in tuple(records.items()) if key.startswith(prefix)]
    if not matching:
        raise missing(f"{what} {prefix}: not found")
    if len(matching) > 1:
        raise InvalidArgument(f"{what} {prefix}: {len(matching)} ids begin like this; give more of it")
    return matching[0]
