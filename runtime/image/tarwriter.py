"""Write tar headers: ustar, with PAX records only for what ustar cannot say.  Same input, same bytes."""

from __future__ import annotations

from runtime.image.tar import BLOCK, BLOCK_DEVICE, CHARACTER, REGULAR, Entry

#: The largest numbers that fit: seven octal digits for ids, eleven for sizes and times.
SMALL, LARGE = 8**7 - 1, 8**11 - 1
END = bytes(2 * BLOCK)


def header(entry: Entry) -> bytes:
    """The header blocks of *entry*; its content, padded to 512 bytes, is to follow."""
    records = _records(entry)
    prefix = b""
    if records:
        body = b"".join(_record(key, value) for key, value in sorted(records.items()))
        prefix = _block(b"PaxHeaders/" + entry.name[-80:].lstrip(b"/"), b"x", size=len(body)) + body + padding(len(body))
    return prefix + _block(
        entry.name[-100:] if b"path" in records else entry.name,
        entry.kind,
        mode=entry.mode,
        uid=min(entry.uid, SMALL),
        gid=min(entry.gid, SMALL),
        size=entry.size if entry.kind == REGULAR and entry.size <= LARGE else 0,
        mtime=min(max(entry.mtime_ns // 1_000_000_000, 0), LARGE),
        link=entry.link[:100],
        device=(entry.major, entry.minor) if entry.kind in (CHARACTER, BLOCK_DEVICE) else (0, 0),
    )


def padding(size: int) -> bytes:
    """Zeros from *size* bytes of content to the next block."""
    return bytes(-size % BLOCK)


def _records(entry: Entry) -> dict[bytes, bytes]:
    records = {b"SCHILY.xattr." + name: value for name, value in entry.xattrs.items()}
    for key, text in ((b"path", entry.name), (b"linkpath", entry.link)):
        if len(text) > 100 or not text.isascii():
            records[key] = text
    for key, number in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if number > SMALL:
            records[key] = b"%d" % number
    if entry.kind == REGULAR and entry.size > LARGE:
        records[b"size"] = b"%d" % entry.size
    seconds, fraction = divmod(abs(entry.mtime_ns), 1_000_000_000)
    if fraction or entry.mtime_ns < 0 or seconds > LARGE:
        sign = b"-" if entry.mtime_ns < 0 else b""
        records[b"mtime"] = sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")
    return records


def _record(key: bytes, value: bytes) -> bytes:
    """One PAX record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    block = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime),
            b" " * 8,
            kind,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % device,
            bytes(167),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
