"""All sandboxes and containers, in memory for reading, in the database before anybody is told.

Lists and statuses are answered from here without a lock: a record is replaced, never changed in place.
Only a removal waits for the disk.  What else is told may be lost with the power in the next milliseconds, and then it is
what the power has ended itself: a pod or container that a kubelet does not find makes anew, or an exit code.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from runtime import document
from runtime.container.state import Container, ContainerState
from runtime.errors import ContainerNotFound, InvalidArgument, NotFound, SandboxNotFound
from runtime.events import Change, Kind, Listener
from runtime.journal import Journal
from runtime.sandbox.state import Sandbox
from runtime.store import Durable, Store

Record = TypeVar("Record", Sandbox, Container)


class Inventory:
    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._changed = threading.Condition()
        self._last_ns = 0
        self._listeners: list[Listener] = []
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
        with self._store.transaction(Durable.SOON) as db:
            db.execute("INSERT OR REPLACE INTO sandboxes VALUES (?, ?)", (sandbox.id, document.encode(sandbox)))
            self._finish(db, sandbox.id, finishes)
        with self._changed:
            before = self.sandboxes.get(sandbox.id)
            self.sandboxes[sandbox.id] = sandbox
            self._changed.notify_all()
            if before is None:
                self._tell(Kind.CREATED, sandbox.id, sandbox)
                self._tell(Kind.STARTED, sandbox.id, sandbox)
            elif before.state is not sandbox.state:
                self._tell(Kind.STOPPED, sandbox.id, sandbox)

    def save_container(self, container: Container, *, finishes: str | None = None) -> None:
        """Write the record, then show it; with *finishes*, the journal's row of that act goes in the same commit."""
        with self._store.transaction(Durable.SOON) as db:
            db.execute(
                "INSERT OR REPLACE INTO containers VALUES (?, ?, ?)",
                (container.id, container.sandbox_id, document.encode(container)),
            )
            self._finish(db, container.id, finishes)
        with self._changed:
            before = self.containers.get(container.id)
            self.containers[container.id] = container
            self._changed.notify_all()
            if before is None:
                self._tell(Kind.CREATED, container.id, self.sandboxes.get(container.sandbox_id))
            elif container.state is ContainerState.EXITED and before.state is not ContainerState.EXITED:
                self._tell(Kind.STOPPED, container.id, self.sandboxes.get(container.sandbox_id))

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
        with self._changed:
            sandbox = self.sandboxes.pop(sandbox_id, None)
            self._changed.notify_all()
            if sandbox is not None:
                self._tell(Kind.DELETED, sandbox_id, sandbox)

    def drop_container(self, container_id: str, *, finishes: str) -> None:
        """Forget the record and finish the act that removed what it stood for."""
        with self._store.transaction() as db:
            db.execute("DELETE FROM containers WHERE id = ?", (container_id,))
            self._finish(db, container_id, finishes)
        with self._changed:
            container = self.containers.pop(container_id, None)
            self._changed.notify_all()
            if container is not None:
                self._tell(Kind.DELETED, container_id, self.sandboxes.get(container.sandbox_id))

    def has_started(self, container_id: str) -> None:
        """Tell that the container runs: its record said so before, for an intent comes before the act."""
        with self._changed:
            container = self.containers.get(container_id)
            if container is not None:
                self._tell(Kind.STARTED, container_id, self.sandboxes.get(container.sandbox_id))

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have *listener* told of every change from now on; what is returned ends that."""
        with self._changed:
            self._listeners.append(listener)
        return lambda: self._forget(listener)

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

    def _tell(self, kind: Kind, owner: str, sandbox: Sandbox | None) -> None:
        """Tell the listeners, in the order of the changes: the lock is held."""
        if not self._listeners:
            return
        containers = () if sandbox is None else tuple(self.containers_of(sandbox.id))
        change = Change(kind, owner, time.time_ns(), sandbox, containers)
        for listener in self._listeners:
            listener(change)

    def _forget(self, listener: Listener) -> None:
        with self._changed, contextlib.suppress(ValueError):
            self._listeners.remove(listener)


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
