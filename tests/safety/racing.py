"""A process that swaps two names for as long as a test tries: what was checked is not what is used."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import wait

#: How long an attack is tried.  On two busy cores dozens of containers are begun meanwhile.
SECONDS = 1.5
LEAST = 12
AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[Callable[[], int]]:
    """Exchange the names *one* and *other* without pause; the value tells how often that was done.

    A process, as an attacker's is: a thread would wait for this interpreter's lock most of the time.
    """
    with mmap.mmap(-1, 8) as shared:
        pid = os.fork()
        if pid == 0:
            _swap(shared, os.fsencode(one), os.fsencode(other))

        def count() -> int:
            return int.from_bytes(shared[:8], "little")

        try:
            wait.until(count, 5, "the first swap")
            yield count
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _swap(shared: mmap.mmap, one: bytes, other: bytes) -> None:
    exchange = ctypes.CDLL(None).renameat2
    done = 0
    while exchange(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) == 0:
        done += 1
        shared[:8] = done.to_bytes(8, "little")
    os._exit(1)


def attempts(seconds: float = SECONDS) -> Iterator[int]:
    """Numbers, for *seconds*, and some at least on a machine that is busy otherwise."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end or number < LEAST:
        yield number
        number += 1
