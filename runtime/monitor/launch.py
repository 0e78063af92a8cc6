"""Start a program: arrange its descriptors and spawn the runner."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import Any

from kernel import mount, namespace, process
from kernel.fd import Fd, eventfd, memory, open_path, pipe
from kernel.program import Flags, runner_image
from runtime.container.descriptors import Descriptor
from runtime.monitor import ready_dev
from runtime.monitor.spare import SOCKET, Spare
from runtime.monitor.watch import Kind, Watch

#: What a launch needs of ours lies above all numbers that an ordinary program uses, so that no dup2 of the spawn
#: overwrites another; and not far above, for a table of descriptors is copied up to its highest (0.05 ms for 1,000).
ABOVE = 96
RUNNER_NAME = "kernelet-runner"
READ_ONLY = Flags(("MOUNT_ATTR_RDONLY",)).value()


class Launcher:
    """Holds what every launch shares: the runner, sealed in memory, the null device, and a mount namespace that is empty.

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
        with namespace.new_empty_mounts() as void:
            self._void = void.duplicate(ABOVE)
        self._spare: tuple[_Ends, Spare] | None = None
        self._dev: ready_dev.ReadyDev | None = None

    @property
    def is_prepared(self) -> bool:
        return self._spare is not None and self._dev is not None

    def prepare(self) -> None:
        """Have a runner and a /dev ready for the next launch, if the machine has room for them now."""
        with contextlib.suppress(OSError):
            if self._spare is None:
                ends = _Ends(self._null, given=False, input_pipe=False)
                self._spare = ends, Spare(self._runner, {**ends.theirs, Descriptor.VOID: self._void}, self._null)
                ends.close_theirs()
            if self._dev is None:
                self._dev = ready_dev.make()

    def close(self) -> None:
        """End the runner that waits, and let go of what launches share."""
        if self._spare is not None:
            self._spare[1].end()
        ready_dev.close(self._dev or {})
        self._runner.close()
        self._null.close()
        self._void.close()

    def launch(self, request: dict[str, Any], files: list[Fd]) -> tuple[Watch, dict[int, Fd]]:
        """Run the program of *request*; return the watch and the monitor's ends of its streams, by Descriptor.

        *files* are the program, the report, and then those that the request numbers.
        """
        program, report, *opened = files
        here = dict(zip(request["descriptors"], opened, strict=True))
        kind = Kind(request["kind"])
        with open_path(request["run_dir"], os.O_DIRECTORY) as run:
            of_all: dict[int, Fd] = {Descriptor.PROGRAM: program, Descriptor.REPORT: report, Descriptor.RUN_DIR: run}
            dev = self._take_dev() if kind is Kind.CONTAINER else {}
            try:
                ends, pid, reaper = self._run(request, {Descriptor.CGROUP: self._null, **here, **dev, **of_all})
            finally:
                ready_dev.close(dev)
        watch = Watch(request["id"], kind, Path(request["run_dir"]), pid, reaper, ends.ready, ends.start, ends.done, report)
        ours = ends.ours
        if Descriptor.OUTPUT in here:
            ours[Descriptor.OUTPUT] = here[Descriptor.OUTPUT].duplicate()
        for file in (program, *here.values()):
            file.close()
        return watch, ours

    def _take_dev(self) -> ready_dev.ReadyDev:
        """A /dev for one container: the one that is ready, or in a burst one that is made now."""
        dev, self._dev = self._dev, None
        return dev or ready_dev.make()

    def _run(self, request: dict[str, Any], theirs: dict[int, Fd]) -> tuple[_Ends, int, Fd]:
        """Give *theirs* to the spare runner or, when there is none or it is not made for this, to a new one."""
        given = Descriptor.OUTPUT in theirs or request["output"] == "given"  # a terminal, or pipes of the daemon's
        input_pipe = bool(request["input"])
        if self._spare is not None and not given and not input_pipe and max(theirs) < SOCKET:
            (ends, spare), self._spare = self._spare, None
            if spare.hand_over(theirs):
                return ends, spare.pid, spare.pidfd
            spare.end()
        ends = _Ends(self._null, given=given, input_pipe=input_pipe)
        every = {**ends.theirs, Descriptor.VOID: self._void, **theirs}
        pid = process.spawn_above(self._runner, request["name"], every)
        ends.close_theirs()
        return ends, pid, process.open_pidfd(pid)


def open_null() -> Fd:
    """The null device, on a read-only mount of its own, which a device that is written to does not mind.

    It becomes a container's stdin, whose owner and mode are then the container's to change ("chmod 0 /dev/stdin",
    our own fchown for a user who is not root): not those of the host's /dev/null.
    """
    with mount.clone_tree("/dev/null") as clone:
        mount.set_attributes(clone, add=READ_ONLY)
        return open_path(f"/proc/self/fd/{clone.fileno()}", os.O_RDWR)


class _Ends:
    """What a process is given that no request brings: streams unless they are *given*, the ready pipe, the events.

    *theirs* by number; *ours* by the Descriptor under which the reaper keeps a copy.
    """

    def __init__(self, null: Fd, *, given: bool, input_pipe: bool) -> None:
        self.ready, ready_writer = pipe()
        self.start, self.done = eventfd(), eventfd()
        self.theirs: dict[int, Fd] = {
            **dict.fromkeys((Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR), null),
            **dict.fromkeys((Descriptor.OUTPUT, Descriptor.ERRORS, Descriptor.INPUT), null),
            Descriptor.READY_READ: self.ready,
            Descriptor.READY: ready_writer,
            Descriptor.START: self.start,
            Descriptor.DONE: self.done,
        }
        self.ours: dict[int, Fd] = {}
        self._owned = [ready_writer]
        if given:
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
