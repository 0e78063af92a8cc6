"""The peers' side of a measurement: command lines, started in the cheapest way there is.

crun's device filter wants CAP_SYS_RESOURCE, so it runs with cgroups disabled, and ours then does as crun does: nobody
makes a cgroup but runc.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kernel.fd import Fd, open_path, pipe
from runtime.errors import KerneletError
from tests.bench.ours import stamp_ns

OPTIONS = {"crun": ("--cgroup-manager=disabled",)}
ABOVE = 100


class Sink:
    """A pipe for what a container writes."""

    def __init__(self) -> None:
        self._reader, writer = pipe()
        with writer:
            self.writer = writer.duplicate(ABOVE)

    def first_instruction_ns(self) -> int:
        """Waits for the stamp that the user process writes as its first act."""
        self.writer.close()  # so that a failure is the end of the pipe
        return stamp_ns(os.read(self._reader.fileno(), 16))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.close()
        self.writer.close()


class Peer:
    """A runtime's command line."""

    def __init__(self, name: str, state_dir: Path, program: Sequence[str] = ()) -> None:
        self.name = name
        self._command = [*(program or [shutil.which(name) or name]), "--root", os.fspath(state_dir), *OPTIONS.get(name, ())]
        with open_path("/dev/null", os.O_RDWR) as null:
            self._null = null.duplicate(ABOVE)

    def begin(self, *arguments: str, output: Fd | None = None) -> tuple[int, int]:
        """Start it: when (CLOCK_MONOTONIC), and its pid.  What it and its container write to stdout goes to *output*."""
        sink = self._null if output is None else output
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), number) for number, file in enumerate((self._null, sink))]
        begun_ns = time.monotonic_ns()
        return begun_ns, os.posix_spawn(self._command[0], [*self._command, *arguments], os.environ, file_actions=actions)

    def wait(self, pid: int, *arguments: str) -> None:
        _, status = os.waitpid(pid, 0)
        if status:
            raise KerneletError(f"{self.name} {' '.join(arguments)} failed with status {status}; its error is above")

    def do(self, *arguments: str, output: Fd | None = None) -> None:
        """One operation, whole."""
        self.wait(self.begin(*arguments, output=output)[1], *arguments)

    def first_instruction_ns(self, *arguments: str) -> int:
        """Nanoseconds from the start of the command to the first instruction of the process that it starts."""
        with Sink() as sink:
            begun_ns, pid = self.begin(*arguments, output=sink.writer)
            taken_ns = sink.first_instruction_ns() - begun_ns
            self.wait(pid, *arguments)
        return taken_ns


def available(state_dir: Path) -> list[Peer]:
    """Those that this machine has, crun first."""
    return [Peer(name, state_dir / name) for name in ("crun", "runc") if shutil.which(name)]
