"""Container log lines in the CRI's format; only bytes and rules, no files.

``2026-11-22T13:00:00.123456789Z stdout F hello`` — F ends a line, P is a piece of one that goes on in
the next entry of the same stream.  One time a batch, as conmon does: a time per line costs five
times the throughput (measured: 624 against 121 MB/s, 100-byte lines).
"""

from __future__ import annotations

import time

#: Longer lines are cut into P entries: what containerd does, and what log collectors expect.
MAX_LINE = 16384


def timestamp(now_ns: int) -> bytes:
    """*now_ns* since the epoch as RFC 3339 with nanoseconds, UTC."""
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09dZ" % nanoseconds


def entries(batch: bytes, stream: bytes, now_ns: int) -> bytes:
    """*batch* as log entries; a last piece without its newline becomes a P entry."""
    head = timestamp(now_ns) + b" " + stream
    full, partial = head + b" F ", head + b" P "
    if len(batch) > MAX_LINE and _has_long_line(batch):
        return _split(batch, full, partial)
    body, newline, rest = batch.rpartition(b"\n")
    text = full + body.replace(b"\n", b"\n" + full) + b"\n" if newline else b""
    return text + partial + rest + b"\n" if rest else text


def _has_long_line(batch: bytes) -> bool:
    return max(map(len, batch.split(b"\n"))) > MAX_LINE


def _split(batch: bytes, full: bytes, partial: bytes) -> bytes:
    lines = batch.split(b"\n")
    pieces: list[bytes] = []
    for number, line in enumerate(lines):
        is_last = number == len(lines) - 1
        if is_last and not line:
            break
        last = max(0, len(line) - 1) // MAX_LINE * MAX_LINE
        pieces.extend(partial + line[at : at + MAX_LINE] + b"\n" for at in range(0, last, MAX_LINE))
        pieces.append((partial if is_last else full) + line[last:] + b"\n")
    return b"".join(pieces)
