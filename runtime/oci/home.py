"""HOME, for a process whose environment has none: as login(1) would set it."""

from __future__ import annotations

import contextlib

import msgspec

from kernel.fd import Fd
from kernel.resolve import read_in_root
from runtime.container.user import MAX_FILE, parse_passwd
from runtime.spec import schema


def with_home(process: schema.Process, root: Fd) -> schema.Process:
    """*process* with HOME: what the root's /etc/passwd says of its user, or /."""
    if any(entry.startswith("HOME=") for entry in process.env):
        return process
    home = "/"
    with contextlib.suppress(OSError):  # no such file, or none that can be read: no entry
        entries = parse_passwd(read_in_root(root, "/etc/passwd", MAX_FILE))
        home = next((entry.home for entry in entries if entry.uid == process.user.uid), "") or "/"
    return msgspec.structs.replace(process, env=[*process.env, f"HOME={home}"])
