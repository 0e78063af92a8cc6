"""systemd's units, as far as cgroups are made by them: scopes for processes, slices for what is above."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runtime.cgroups.bus import Bus, Lost, Refused
from runtime.cgroups.message import Variant
from runtime.cgroups.properties import Properties, Property
from runtime.errors import InvalidArgument, TimedOut, UnitFailed, Unsupported

_OBJECT, _MANAGER = "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_GONE = ("NoSuchUnit", "UnitNotLoaded")
_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(slice|scope)", re.ASCII)
LONGEST_NAME = 255
_Result = TypeVar("_Result")


def slice_path(name: str) -> str:
    """Where the slice *name* is below the manager's top: "a-b.slice" is "/a.slice/a-b.slice", "-.slice" the top itself.

    Raises InvalidArgument for what is no slice's name.
    """
    stem = name.removesuffix(".slice")
    if name == "-.slice":
        return ""
    if stem == name or not _NAME.fullmatch(name) or len(name) > LONGEST_NAME or "" in stem.split("-"):
        raise InvalidArgument(f"{name!r} is not the name of a slice, such as kubepods-burstable.slice")
    parts = stem.split("-")
    return "".join(f"/{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))


def check_unit_name(name: str) -> str:
    """*name*, which may be a unit's; raises InvalidArgument for what may not."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise InvalidArgument(f"{name!r} cannot be a unit's name: letters, digits and : _ . \\ @ -, {LONGEST_NAME} at most")
    return name


class Manager:
    """The manager that listens at *socket*.  Every act has a connection of its own: any thread may, and none is ever stale.

    Raises Unsupported where there is none, UnitFailed for what it refuses, TimedOut when it does not answer.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def top(self) -> str:
        """The cgroup that everything of the manager is in: empty for the node's own."""
        (found,) = self._do(
            lambda bus: bus.call(_OBJECT, "org.freedesktop.DBus.Properties", "Get", "ss", _MANAGER, "ControlGroup")
        )
        return str(found.value).removesuffix("/init.scope").rstrip("/")

    def start(self, name: str, properties: Properties) -> None:
        """Make the unit *name* with *properties*, and wait until it is there."""

        def act(bus: Bus) -> None:
            job = bus.call(_OBJECT, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", properties, [])
            _await(bus, job, f"start {name}")

        self._do(act, f"start {name}")

    def set_properties(self, name: str, properties: Properties) -> None:
        """Change *properties* of the unit *name*, until it ends."""
        if properties:
            self._do(
                lambda bus: bus.call(_OBJECT, _MANAGER, "SetUnitProperties", "sba(sv)", name, True, properties),
                f"set {', '.join(each for each, _ in properties)} of {name}",
            )

    def stop(self, name: str) -> None:
        """End the unit *name*, with what is in it; one that is not there is no error."""

        def act(bus: Bus) -> None:
            try:
                _await(bus, bus.call(_OBJECT, _MANAGER, "StopUnit", "ss", name, "replace"), f"stop {name}")
                bus.call(_OBJECT, _MANAGER, "ResetFailedUnit", "s", name)
            except Refused as error:
                if error.name not in _GONE:
                    raise

        self._do(act, f"stop {name}")

    def is_active(self, name: str) -> bool:
        """Whether the unit *name* is there, and not ending."""

        def act(bus: Bus) -> str:
            (path,) = bus.call(_OBJECT, _MANAGER, "GetUnit", "s", name)
            unit = "org.freedesktop.systemd1.Unit"
            (found,) = bus.call(path, "org.freedesktop.DBus.Properties", "Get", "ss", unit, "ActiveState")
            return str(found.value)

        with contextlib.suppress(UnitFailed):
            return self._do(act) == "active"
        return False

    def _do(self, act: Callable[[Bus], _Result], what: str = "ask systemd") -> _Result:
        """*act*, once more when the manager executed itself anew meanwhile."""
        try:
            try:
                return self._connected(act)
            except Lost:
                return self._connected(act)
        except Refused as error:
            raise UnitFailed(f"{what}: systemd refuses: {error or error.name}") from None
        except OSError as error:
            raise Unsupported(
                f"{what}: {error.filename or self._socket}: {(error.strerror or str(error)).lower()}: "
                "no systemd manages cgroups here that we could ask; use the driver cgroupfs"
            ) from None

    def _connected(self, act: Callable[[Bus], _Result]) -> _Result:
        with Bus(self._socket) as bus:
            return act(bus)


def _await(bus: Bus, job: Sequence[Any], what: str) -> None:
    """Wait for the end of a *job*, which is all that a method answers."""
    (path,) = job
    *_, result = bus.wait_for("JobRemoved", lambda body: len(body) == 4 and body[1] == path)
    if result == "timeout":
        raise TimedOut(f"{what}: systemd's job took too long")
    if result not in ("done", "skipped"):
        raise UnitFailed(f"{what}: systemd's job was {result}: systemctl status says why")


def scope_properties(description: str, slice_name: str, pid: int, limits: Sequence[Property] = ()) -> Properties:
    """Of a scope for *pid* whose cgroup is ours to divide (Delegate)."""
    return [
        ("Description", Variant("s", description)),
        ("Slice", Variant("s", slice_name)),
        ("Delegate", Variant("b", True)),
        *_common(),
        ("PIDs", Variant("au", [pid])),
        *limits,
    ]


def slice_properties(description: str) -> Properties:
    """Of a slice."""
    return [("Description", Variant("s", description)), *_common()]


def _common() -> Properties:
    return [
        ("DefaultDependencies", Variant("b", False)),
        ("CollectMode", Variant("s", "inactive-or-failed")),  # one that failed is forgotten, too: its name is free
        *((f"{name}Accounting", Variant("b", True)) for name in ("CPU", "Memory", "IO", "Tasks")),
    ]
