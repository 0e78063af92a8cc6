"""One daemon for one run dir: a lock that the kernel lets go of when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from kernel.fd import Fd, open_path
from runtime.errors import WrongState


def take(path: Path) -> Fd:
    """Hold the lock at *path* until the descriptor is closed.

    Raises WrongState, with the holder's process id, when somebody else has it.  The file stays: to
    unlink it would let a third process lock a new one.
    """
    with open_path(path, os.O_RDWR | os.O_CREAT, 0o600) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file.fileno(), 32, 0).decode(errors="replace").strip() or "unknown"
            raise WrongState(f"{path} is held by process {holder}: another daemon uses this run directory") from None
        with contextlib.suppress(OSError):  # no room: the lock holds all the same, and who has it will not be told
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), f"{os.getpid()}\n".encode(), 0)
        return Fd(file.detach())
