"""What a command is asked: the global flags, its own, its arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import InvalidArgument
from runtime.oci.flags import Parsed
from runtime.oci.log import Log

if TYPE_CHECKING:
    from runtime.oci.directory import Container


class Request:
    """One call of the command line."""

    __slots__ = ("command", "flags", "log", "root", "rootless", "systemd")

    def __init__(
        self, command: str, root: Path, log: Log, flags: Parsed, *, systemd: bool = False, rootless: bool = False
    ) -> None:
        self.command, self.root, self.log, self.flags = command, root, log, flags
        self.systemd, self.rootless = systemd, rootless

    @property
    def arguments(self) -> list[str]:
        return self.flags.arguments

    def check_count(self, least: int, most: int | None = None) -> None:
        """Raises InvalidArgument unless there are that many arguments: exactly *least*, if *most* is not given."""
        most = least if most is None else most
        if len(self.arguments) < least:
            raise InvalidArgument(f'"{self.command}" requires {"at least" if most > least else "exactly"} {least} argument(s)')
        if len(self.arguments) > most:
            raise InvalidArgument(f'"{self.command}" takes at most {most} argument(s), not {len(self.arguments)}')

    def container(self, *, lock: bool = True) -> Container:
        """The container that the first argument names, for a with statement; locked, unless *lock* is false.

        Raises ContainerNotFound.
        """
        from runtime.oci.directory import open_container

        if not self.arguments:
            raise InvalidArgument(f'"{self.command}" requires a container ID')
        container = open_container(self.root, self.arguments[0], lock=lock)
        if os.geteuid() and container.is_alive():
            _follow(container)
        return container


def _follow(container: Container) -> None:
    """Be root of the container's user namespace, as a user who is not root otherwise."""
    from runtime.container.rootless import follow

    try:
        follow(container.record.pid)
    except BaseException:
        container.close()
        raise
