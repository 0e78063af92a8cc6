"""AppArmor (apparmor(7)): which profiles the kernel has, and give it one.  It is all files of securityfs, mounted or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kernel import mount
from kernel.fd import Fd, open_path

_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_MOUNTED = Path("/sys/kernel/security")


def is_enabled() -> bool:
    """Whether the kernel confines processes by it."""
    try:
        return _ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


def profiles() -> frozenset[str]:
    """The names of the profiles that are loaded.  Raises OSError where that may not be looked at."""
    with _opened("apparmor/profiles", os.O_RDONLY) as file, open(file.fileno(), encoding="utf-8", closefd=False) as lines:
        return frozenset(line.rpartition(" (")[0] for line in lines)


def load(policy: bytes) -> None:
    """Load the profiles in *policy*, as apparmor_parser compiles them, in place of any of the same name.

    Raises OSError: EACCES or EPERM without CAP_MAC_ADMIN, EPROTO or EPROTONOSUPPORT for what this kernel does not understand.
    """
    with _opened("apparmor/.replace", os.O_WRONLY) as file:
        os.write(file.fileno(), policy)  # in one piece: a write is a whole policy


@contextlib.contextmanager
def _opened(name: str, flags: int) -> Iterator[Fd]:
    if (_MOUNTED / "apparmor").is_dir():
        with open_path(_MOUNTED / name, flags) as file:
            yield file
        return
    with mount.new_filesystem("securityfs") as detached, open_path(name, flags, directory=detached) as file:
        yield file
