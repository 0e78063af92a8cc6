"""``python -m tests.bench.monitor RUN_DIR``: the node's monitor, which also says when a request reached it.

Nothing else of it differs: what is measured is the code that runs in production, in a process and a mount
namespace like its own.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from kernel.fd import Fd
from runtime.monitor.__main__ import ignore_the_terminal, leave_the_hosts_mounts, listen
from runtime.monitor.server import Monitor, Reply


class Timed(Monitor):
    """Adds ``received_ns`` to an answer: when the monitor woke up for the request (CLOCK_MONOTONIC)."""

    def __init__(self, run_dir: Path, listener: socket.socket) -> None:
        super().__init__(run_dir, listener)
        self._received_ns = 0
        self._by_request: dict[int, int] = {}

    def _wait(self) -> list[tuple[int, int]]:
        happened = super()._wait()
        self._received_ns = time.monotonic_ns()
        return happened

    def _launch(self, request: dict[str, Any], files: list[Any], reply: Reply) -> None:
        self._by_request[reply[1]] = self._received_ns
        super()._launch(request, files, reply)

    def _start(self, request: dict[str, Any], files: list[Any], reply: Reply) -> None:
        self._by_request[reply[1]] = self._received_ns
        super()._start(request, files, reply)

    def _answer(self, reply: Reply | None, file: Fd | None = None, **content: Any) -> None:
        if reply is not None:
            content["received_ns"] = self._by_request.pop(reply[1], 0)
        super()._answer(reply, file, **content)


def main() -> None:
    run_dir = Path(sys.argv[1])
    os.chdir("/")
    ignore_the_terminal()
    monitor = Timed(run_dir, listen(run_dir / "monitor.sock"))
    leave_the_hosts_mounts(run_dir)
    monitor.run()


if __name__ == "__main__":
    main()
