"""The environment of a process as it will have it: each name once, and HOME as login(1) would set it."""

from __future__ import annotations

import contextlib

from kernel.fd import Fd
from kernel.resolve import read_in_root
from runtime.container.passwd import MAX_FILE, parse_passwd
from runtime.spec import schema


def environment_of(process: schema.Process, root: Fd) -> list[str]:
    """The environment of *process* with unique names, of which the last value counts.

    Without a HOME, or with an empty one, it is what *root*'s /etc/passwd says of the user, or /.
    """
    entries = {entry.partition("=")[0]: entry for entry in process.env}
    if entries.get("HOME", "HOME=") == "HOME=":
        entries["HOME"] = f"HOME={find_home(root, process.user.uid)}"
    return list(entries.values())


def find_home(root: Fd, uid: int) -> str:
    """The home directory that *root*'s /etc/passwd gives *uid*; / when it gives none."""
    with contextlib.suppress(OSError):  # no such file, or none that can be read: no entry
        entries = parse_passwd(read_in_root(root, "/etc/passwd", MAX_FILE))
        return next((entry.home for entry in entries if entry.uid == uid), "") or "/"
    return "/"
