"""Log records as lines: ``name=value`` for people, JSON for programs; both say which pod a line is about.

Under systemd each line begins with its priority (sd-daemon(3)), and the journal has the time of it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from cri import subject
from cri.config import LogConfig
from cri.subject import Finder, Subject

#: syslog's, by the level from which they count.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


class Lines(logging.Formatter):
    """One line a record; what a traceback has more goes below it, in JSON into it.

    A record's own fields are its attribute ``fields``, then its message is their text already.
    """

    def __init__(self, style: str, finder: Finder, *, is_journal: bool) -> None:
        super().__init__()
        self._is_json, self._finder, self._is_journal = style == "json", finder, is_journal

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        values: dict[str, object] = {"level": record.levelname.lower(), "logger": record.name}
        if self._is_json or not self._is_journal:
            values = {"time": _time(record.created), **values}
        values |= getattr(record, "fields", None) or {"msg": message}
        if "pod" not in values and "container" not in values:
            about = subject.current.get()
            values |= (about if about != Subject() else self._finder.text(message)).fields()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        prefix = next((f"<{number}>" for level, number in _PRIORITIES if record.levelno >= level), "") if self._is_journal else ""
        if self._is_json:
            return prefix + json.dumps(values | ({"trace": trace} if trace else {}), ensure_ascii=False)
        return prefix + pairs(values) + "".join(f"\n{prefix}{line}" for line in trace.splitlines())


def pairs(values: Mapping[str, object]) -> str:
    """*values* as name=value throughout; what is empty is left out."""
    return " ".join(f"{name}={_quoted(value)}" for name, value in values.items() if value != "")


def set_up(config: LogConfig, finder: Finder, *, stream: TextIO | None = None, verbose: bool = False) -> None:
    """Have all records written to *stream* (stderr) from now on as *config* says; *verbose* is more than any level."""
    chosen = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(chosen)
    handler.setFormatter(Lines(config.format, finder, is_journal=is_journal(chosen)))
    level = logging.DEBUG if verbose else logging.getLevelNamesMapping()[config.level.upper()]
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # Their debug lines are about themselves.
    for name in ("asyncio", "grpc", "urllib3"):
        logging.getLogger(name).setLevel(max(level, logging.INFO))


def is_journal(stream: TextIO) -> bool:
    """Whether *stream* ends at systemd's journal, which says so by device and inode in JOURNAL_STREAM."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _time(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}Z"


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text.isprintable() or {" ", '"', "="} & set(text) else text
