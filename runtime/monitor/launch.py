"""Start a program: arrange its descriptors and spawn the runner."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel import mount, process
from kernel.fd import Fd, eventfd, memory, open_path, pipe
from kernel.program import Flags, runner_image
from runtime.container.descriptors import Descriptor
from runtime.monitor.watch import Kind, Watch

#: What a launch needs of ours lies above all numbers that an ordinary program uses, so that no dup2 of the spawn
#: overwrites another; and not far above, for a table of descriptors is copied up to its highest (0.05 ms for 1,000).
ABOVE = 96
RUNNER_NAME = "kernelet-runner"
READ_ONLY = Flags(("MOUNT_ATTR_RDONLY",)).value()


class Launcher:
    """Holds what every launch shares: the runner, sealed in memory, and the null device.

    The monitor takes as many descriptors as it may have: with eight for a container, the usual limit of 1,024
    would end at a hundred of them.  Not lowered for a spawn, which then takes no number above it: that a container
    begins with an ordinary limit is in its program (``complete``).
    """

    def __init__(self) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        with memory(RUNNER_NAME, runner_image()) as image:
            self._runner = image.duplicate(ABOVE)
        with open_null() as null:
            self._null = null.duplicate(ABOVE)

    def launch(self, request: dict[str, Any], files: list[Fd]) -> tuple[Watch, dict[int, Fd]]:
        """Spawn the program of *request*; return the watch and the monitor's ends of its streams, by Descriptor.

        *files* are the program, the report, and then those that the request numbers.
        """
        program, report, *opened = files
        run_dir = Path(request["run_dir"])
        ends = _Ends(self._null, terminal=Descriptor.OUTPUT in request["descriptors"], input_pipe=request["input"])
        here = dict(zip(request["descriptors"], opened, strict=True))
        ready_reader, ready_writer = pipe()
        start, done = eventfd(), eventfd()
        with ready_writer, open_path(run_dir, os.O_DIRECTORY) as run:
            theirs: dict[int, Fd] = {
                **ends.theirs,
                **here,
                Descriptor.PROGRAM: program,
                Descriptor.REPORT: report,
                Descriptor.READY_READ: ready_reader,
                Descriptor.READY: ready_writer,
                Descriptor.START: start,
                Descriptor.DONE: done,
                Descriptor.RUN_DIR: run,
            }
            theirs.setdefault(Descriptor.CGROUP, self._null)
            pid = self._spawn(request["name"], theirs)
        watch = Watch(
            request["id"], Kind(request["kind"]), run_dir, pid, process.open_pidfd(pid), ready_reader, start, done, report
        )
        ours = ends.ours
        if Descriptor.OUTPUT in here:
            ours[Descriptor.OUTPUT] = here[Descriptor.OUTPUT].duplicate()
        ends.close_theirs()
        for file in (program, *here.values()):
            file.close()
        return watch, ours

    def _spawn(self, name: str, theirs: dict[int, Fd]) -> int:
        above = max(ABOVE, max(theirs) + 1)
        lifted: list[Fd] = []

        def number_of(file: Fd) -> int:
            """A number of *file* that no dup2 of the spawn overwrites."""
            if file.fileno() < above:
                file = file.duplicate(above)
                lifted.append(file)
            return file.fileno()

        try:
            return process.spawn(number_of(self._runner), name, {number: number_of(file) for number, file in theirs.items()})
        finally:
            for file in lifted:
                file.close()


def open_null() -> Fd:
    """The null device, on a read-only mount of its own, which a device that is written to does not mind.

    It becomes a container's stdin, whose owner and mode are then the container's to change ("chmod 0 /dev/stdin",
    our own fchown for a user who is not root): not those of the host's /dev/null.
    """
    with mount.clone_tree("/dev/null") as clone:
        mount.set_attributes(clone, add=READ_ONLY)
        return open_path(f"/proc/self/fd/{clone.fileno()}", os.O_RDWR)


@dataclass(slots=True)
class _Ends:
    """The ends of a process's streams: *theirs* by number, *ours* by the Descriptor under which the reaper keeps a copy."""

    theirs: dict[int, Fd]
    ours: dict[int, Fd]
    _owned: list[Fd]

    def __init__(self, null: Fd, *, terminal: bool, input_pipe: bool) -> None:
        self.theirs = dict.fromkeys(
            (Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR, Descriptor.OUTPUT, Descriptor.ERRORS, Descriptor.INPUT), null
        )
        self.ours = {}
        self._owned = []
        if terminal:
            return
        if input_pipe:
            self._add(Descriptor.STDIN, Descriptor.INPUT, *pipe())
        for inner, outer in ((Descriptor.STDOUT, Descriptor.OUTPUT), (Descriptor.STDERR, Descriptor.ERRORS)):
            reader, writer = pipe()
            self._add(inner, outer, writer, reader)

    def _add(self, inner: int, outer: int, their_end: Fd, our_end: Fd) -> None:
        self.theirs[inner], self.theirs[outer] = their_end, our_end
        self.ours[outer] = our_end
        self._owned.append(their_end)

    def close_theirs(self) -> None:
        for file in self._owned:
            file.close()
