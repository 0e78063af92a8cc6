"""What goes wrong, told twice: to the person at stderr, and to the program that started us in the file of --log.

containerd reads that file for lines of JSON and shows the last one's "msg" to its user.
"""

from __future__ import annotations

import os
import sys
import time


class Log:
    """Where errors and warnings go.  *path* may be empty; *form* is "json" or "text"."""

    def __init__(self, path: str = "", form: str = "text", *, debug: bool = False) -> None:
        self._path, self._form, self.shows_debug = path, form, debug

    def error(self, message: str) -> None:
        """Say why a command failed."""
        self._write("error", message)
        sys.stderr.write(f"{message}\n")

    def warning(self, message: str) -> None:
        """Say what was not as it should be."""
        self._write("warning", message)
        if not self._path:
            sys.stderr.write(f"warning: {message}\n")

    def debug(self, message: str) -> None:
        """Say what is done, for who asked with --debug."""
        if self.shows_debug:
            self._write("debug", message)
            if not self._path:
                sys.stderr.write(f'level=debug msg="{message}"\n')

    def _write(self, level: str, message: str) -> None:
        if not self._path:
            return
        line = self._line(level, message).encode("utf-8", "backslashreplace")
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
        except OSError as error:
            sys.stderr.write(f"kernelet-oci: --log {self._path}: {(error.strerror or '').lower()}\n")
            return
        try:
            os.write(file, line)
        finally:
            os.close(file)

    def _line(self, level: str, message: str) -> str:
        now = timestamp()
        if self._form == "json":
            return f'{{"level":{quote(level)},"msg":{quote(message)},"time":{quote(now)}}}\n'
        return f"time={quote(now)} level={level} msg={quote(message)}\n"


def quote(text: str) -> str:
    """*text* as a JSON string."""
    marks = []
    for mark in text:
        if mark in '"\\':
            marks.append("\\" + mark)
        elif mark < " " or mark == "\x7f":
            marks.append(f"\\u{ord(mark):04x}")
        else:
            marks.append(mark)
    return '"' + "".join(marks) + '"'


def timestamp(nanoseconds: int = 0) -> str:
    """A point in time as RFC 3339 writes it, in UTC; now, if none is given."""
    seconds, rest = divmod(nanoseconds or time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09}Z"
