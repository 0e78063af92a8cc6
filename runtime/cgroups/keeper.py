"""A process that keeps a cgroup alive: systemd makes no scope without a first process, and takes it away after the last."""

from __future__ import annotations

from kernel import process
from kernel.fd import Fd, pipe
from kernel.program import Buffer, Program
from kernel.spawn import spawn

_WAITS = 5


class Keeper:
    """One that ends with a with statement, and also when we die: until another process is there."""

    def __init__(self) -> None:
        waits, self._hold = pipe()
        with waits:
            self.pid = _spawn("kernelet:keeper", waits)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let it end, and wait for that."""
        self._hold.close()
        process.reap(self.pid)


def start_lasting() -> int:
    """The pid of one that stays until it is killed, also when we have ended: 24 KB, and none of our files."""
    return _spawn("kernelet:pod", None)


def _spawn(name: str, waits: Fd | None) -> int:
    steps = Program("keeper of a cgroup")
    if waits is not None:
        steps.call("read", _WAITS, Buffer("end", 8), 8, why="stay until another process is there")
    else:
        steps.call("setsid", why="no signal of our terminal's is for it")
        steps.call("close_range", 0, 0xFFFFFFFF, 0, why="keep no file")
        steps.call("ppoll", 0, 0, 0, 0, 0, why="stay until it is killed")
    pid, report = spawn(steps, name, {} if waits is None else {_WAITS: waits})
    report.memory.close()
    return pid
