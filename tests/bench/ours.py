"""Our side of a measurement: what the daemon does for a container, before a monitor of its own.

A shot has two beginnings.  *Seen from the monitor*: from when it begins to read the request, whose program is
composed by then; that is what stands where a peer's own process stands.  *From config.json*: from before the document
is read; reading, preparing the ground, composing and packing the program, and the way to the monitor are in it.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel import mount
from kernel.capability import last_capability
from kernel.fd import Fd, memory, open_path
from kernel.process import open_pidfd
from kernel.program import Program
from kernel.report import Report
from runtime.container import ground, init, join, seccomp
from runtime.container.descriptors import EXIT_FILE
from runtime.errors import KerneletError
from runtime.monitor import protocol
from runtime.paths import Paths
from runtime.spec import defaults, load, schema
from tests.support.wait import until

KINDS = ("CLONE_NEWPID", "CLONE_NEWNS", "CLONE_NEWNET", "CLONE_NEWIPC", "CLONE_NEWUTS", "CLONE_NEWCGROUP")
_TIME = struct.Struct("<qq")


def stamp_ns(content: bytes) -> int:
    """The time that the user process wrote as its first act."""
    seconds, nanoseconds = _TIME.unpack(content)
    return int(seconds * 1_000_000_000 + nanoseconds)


@dataclass(slots=True)
class Shot:
    """One launch: when it was begun, when the monitor had it, and where the stamp will stand."""

    name: str
    begun_ns: int
    sequence: int
    output: Fd
    received_ns: int = 0
    pid: int = 0

    def first_instruction_ns(self) -> int:
        """Waits for the stamp, which the monitor copies some time after it was taken."""
        until(lambda: os.fstat(self.output.fileno()).st_size >= _TIME.size, what=f"the stamp of {self.name}")
        return stamp_ns(os.pread(self.output.fileno(), _TIME.size, 0))


class Ours:
    """A daemon's part, in this process, and a monitor."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._monitor = subprocess.Popen([sys.executable, "-m", "tests.bench.monitor", os.fspath(paths.run_dir)])
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        until(lambda: self._connection.connect_ex(os.fspath(paths.monitor_socket)) == 0, what="the monitor's socket")
        self._sequence = 0
        self._ended: set[str] = set()

    @property
    def monitor_pid(self) -> int:
        return self._monitor.pid

    def close(self) -> None:
        self._connection.close()
        self._monitor.kill()
        self._monitor.wait()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        return self._answer(self._send(message, []))

    def _send(self, message: dict[str, Any], files: list[Fd]) -> int:
        self._sequence += 1
        protocol.send(self._connection, {**message, "seq": self._sequence}, [file.fileno() for file in files])
        return self._sequence

    def _answer(self, sequence: int) -> dict[str, Any]:
        while (answer := self._receive()).get("seq") != sequence:
            pass
        return answer

    def _receive(self) -> dict[str, Any]:
        received = protocol.receive(self._connection)
        if received is None:
            raise KerneletError("the monitor ended; its error is above")
        message = received[0]
        if message.get("error") or message.get("failed") is not None or message.get("code", 0) not in (0, 137):
            raise KerneletError(f"a container failed: {message}")
        if message.get("event") == "exited":
            self._ended.add(message["id"])
        return message

    def compose(self, bundle: Path, name: str, *, waits: bool) -> tuple[ground.Ground, Program]:
        """From config.json to a program and the descriptors that it names."""
        with open_path(bundle / "config.json") as file:
            spec = load.load(os.read(file.fileno(), load.SIZE_LIMIT_BYTES))
        spec.linux.devices = defaults.devices()  # the peers make them unasked
        code = seccomp.compile_filter(spec.linux.seccomp) if spec.linux.seccomp else None
        root = mount.clone_tree(f"{bundle}/rootfs")
        prepared = ground.prepare(spec, root, attach_point=self._paths.attach_point, in_cgroup=False, by_monitor=True)
        return prepared, init.program(name, spec, prepared.facts, code, waits=waits)

    def launch(self, bundle: Path, name: str, *, waits: bool = False) -> Shot:
        """Start a container; returns when it runs, or with *waits* when it is created."""
        shot = self.begin(bundle, name, waits=waits)
        self._complete(shot)
        return shot

    def begin(self, bundle: Path, name: str, *, waits: bool = False) -> Shot:
        """Send the launch of a container, and do not wait for its answer."""
        begun_ns = time.monotonic_ns()
        self._paths.run_container(name).mkdir()
        prepared, program = self.compose(bundle, name, waits=waits)
        shot = self._begin("container", name, program, prepared.descriptors, begun_ns)
        prepared.close()
        return shot

    def execute(self, container: Shot, process: schema.Process, name: str) -> Shot:
        """Start a further process in a container that runs."""
        begun_ns = time.monotonic_ns()
        self._paths.run_container(name).mkdir()
        with open_pidfd(container.pid) as pidfd:
            program = join.program(name, process, join.Entrance(KINDS, last_capability(), in_cgroup=False))
            shot = self._begin("exec", name, program, {join.CONTAINER: pidfd}, begun_ns)
        self._complete(shot)
        return shot

    def _begin(self, kind: str, name: str, program: Program, descriptors: dict[int, Fd], begun_ns: int) -> Shot:
        report = Report(len(program.all_steps))
        output = memory("stdout", b"", seal=False)
        with memory("kernelet-program", program.pack()) as code, report.memory:
            request = self._request(kind, name, descriptors)
            sequence = self._send(request, [code, report.memory, *descriptors.values(), output])
        return Shot(name, begun_ns, sequence, output)

    def _complete(self, shot: Shot) -> None:
        answer = self._answer(shot.sequence)
        shot.received_ns, shot.pid = answer["received_ns"], answer["pid"]

    def _request(self, kind: str, name: str, descriptors: dict[int, Fd]) -> dict[str, Any]:
        return {
            "op": "launch",
            "id": name,
            "kind": kind,
            "run_dir": os.fspath(self._paths.run_container(name)),
            "name": "bench",
            "descriptors": list(map(int, descriptors)),
            "sinks": 1,
            "output": "capture",
            "terminal": False,
            "input": False,
            "limit": 4096,
        }

    def start(self, name: str) -> int:
        """Let a created container run; returns when the monitor had the request."""
        return int(self._ask({"op": "start", "id": name})["received_ns"])

    def wait(self, name: str) -> None:
        """Wait until it has ended by itself."""
        while name not in self._ended:
            self._receive()

    def remove(self, shot: Shot) -> None:
        """End it, if it has not, and forget it."""
        run_dir = self._paths.run_container(shot.name)
        self._ask({"op": "forget", "id": shot.name, "run_dir": os.fspath(run_dir)})
        shot.output.close()
        (run_dir / EXIT_FILE).unlink(missing_ok=True)
        run_dir.rmdir()
        self._ended.discard(shot.name)
