"""The one door through which a failed C call becomes an ``OSError``.

An errno alone never says which of three mount calls refused, so the call's name travels in a note
and the path in ``filename``.
"""

from __future__ import annotations

import os

from kernel._linux import ffi


def check(result: int, call: str, path: os.PathLike[str] | str | bytes | None = None) -> int:
    """Return *result* unless it is negative; then raise OSError for the C library's errno."""
    if result >= 0:
        return result
    raise failure(ffi.errno, call, path)


def failure(errno: int, call: str, path: os.PathLike[str] | str | bytes | None = None) -> OSError:
    """The OSError for *errno*, with the call in a note and *path* as its file name."""
    name = None if path is None else os.fsdecode(path)
    error = OSError(errno, os.strerror(errno), name) if name is not None else OSError(errno, os.strerror(errno))
    error.add_note(f"in {call}(2)")
    return error


def call_of(error: BaseException) -> str | None:
    """The system call that *error* came from, if ``check`` raised it."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith("in ") and note.endswith("(2)"):
            return str(note[3:-3])
    return None
