"""kernelet logs: what a container wrote, read from its log file as a kubelet does."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from cri.api import api_pb2 as api
from cri.client import Client, container_status
from cri.command import connection
from runtime.errors import NotFound
from runtime.monitor.log import timestamp

#: Between two looks at a log that is followed; nothing tells of an append but inotify, which log files on
#: network and overlay file systems do not have.
LOOK_SECONDS = 0.1


class Entry(NamedTuple):
    """One line of a log file."""

    time: str
    stream: str
    is_whole: bool
    content: bytes


def add_logs(parser: argparse.ArgumentParser) -> None:
    connection.add_options(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the container ends")
    parser.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    parser.add_argument("--since", type=moment, metavar="TIME", help="only what is younger: 90s, 10m, 2h, 1d, or RFC 3339")
    parser.add_argument("--tail", type=int, default=-1, metavar="LINES", help="only the last lines")
    parser.add_argument("container", help="the beginning of its id, or its name")


def run_logs(options: argparse.Namespace) -> int:
    with connection.connect(options) as client:
        status = container_status(client, connection.find_container(client, options.container).id)
        if not status.log_path:
            raise NotFound(f"container {status.metadata.name} has no log: its pod has no log directory")
        write = _printer(timestamps=options.timestamps, as_json=options.json)
        with LogFile(Path(status.log_path)) as log:
            old = (entry for entry in log.entries() if options.since is None or entry.time >= options.since)
            for entry in old if options.tail < 0 else deque(old, maxlen=options.tail):
                write(entry)
            if options.follow:
                _follow(client, status.id, log, write)
    return 0


def moment(text: str) -> str:
    """A time as log entries have it: so long ago, or the one that *text* says.  Raises ArgumentTypeError for neither."""
    ago = re.fullmatch(r"([0-9]+)([smhd])", text)
    if ago is not None:
        seconds = time.time() - int(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[ago[2]]
    else:
        try:
            seconds = datetime.datetime.fromisoformat(text).timestamp()  # without a zone it is this machine's time
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is neither so long ago (10m) nor a time (2026-11-24T20:00:00Z)") from None
    return timestamp(int(seconds * 1e9)).decode()


class LogFile:
    """A container's log, read from where the last reading ended; it may be rotated meanwhile."""

    def __init__(self, path: Path) -> None:
        """Raises NotFound when it cannot be read."""
        self._path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise NotFound(f"log {path}: {(error.strerror or str(error)).lower()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def entries(self) -> Iterator[Entry]:
        """The entries from here to the last whole line; one that is half written is left for the next time."""
        while True:
            # Looked for before the last reading: when there is a new file, this one gets no more.
            replacement = self._find_replacement()
            yield from self._rest()
            if replacement is None:
                return
            self._file.close()
            self._file = replacement

    def _rest(self) -> Iterator[Entry]:
        while True:
            line = self._file.readline()
            if not line.endswith(b"\n"):
                self._file.seek(-len(line), os.SEEK_CUR)
                return
            entry = parse_entry(line)
            if entry is not None:
                yield entry

    def _find_replacement(self) -> BinaryIO | None:
        """The file that has taken this one's place at the path, if one has."""
        try:
            if os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                return None
            return self._path.open("rb")
        except FileNotFoundError:
            return None


def parse_entry(line: bytes) -> Entry | None:
    """One line of a log file, ``<time> <stream> <tags> <content>``; None for what is no such line."""
    parts = line.removesuffix(b"\n").split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    tags = parts[2].split(b":")
    return Entry(parts[0].decode("ascii", "replace"), parts[1].decode(), tags[0] == b"F", parts[3])


def _follow(client: Client, container_id: str, log: LogFile, write: Callable[[Entry], None]) -> None:
    """Print what comes until the container has ended."""
    while True:
        # Asked before reading: all output is in the log when a container is said to have exited.
        state = container_status(client, container_id).state
        for entry in log.entries():
            write(entry)
        if state not in (api.CONTAINER_RUNNING, api.CONTAINER_CREATED):
            return
        time.sleep(LOOK_SECONDS)


def _printer(*, timestamps: bool, as_json: bool) -> Callable[[Entry], None]:
    """A function that prints an entry to the stream it was written to; pieces of a line are put together again."""
    continued: set[str] = set()

    def write(entry: Entry) -> None:
        if as_json:
            text = entry.content.decode(errors="replace")
            print(json.dumps({"time": entry.time, "stream": entry.stream, "whole": entry.is_whole, "content": text}))
            return
        out = sys.stdout if entry.stream == "stdout" else sys.stderr
        prefix = f"{entry.time} ".encode() if timestamps and entry.stream not in continued else b""
        out.buffer.write(prefix + entry.content + (b"\n" if entry.is_whole else b""))
        out.flush()
        (continued.discard if entry.is_whole else continued.add)(entry.stream)

    return write
