"""Our reader against Python's tarfile, which is another reading of the same formats."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import LayerRefused
from runtime.image import tarwriter
from runtime.image.tar import BLOCK, Entry, TarReader, parse_pax

FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def read(data: bytes, size: int = 1000) -> list[tuple[Entry, bytes]]:
    reader = TarReader(data[at : at + size] for at in range(0, len(data), size))
    return [(entry, b"".join(map(bytes, reader.content()))) for entry in reader.entries()]


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    for key, value in more.items():
        setattr(made, key, value)
    return made


def archive(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], form: str = "pax") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=FORMATS[form]) as tar:
        for one in members:
            info, content = one if isinstance(one, tuple) else (one, b"")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


_name = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40).filter(
    lambda n: n not in (".", "..")
)
_path = st.lists(_name, min_size=1, max_size=6).map("/".join)
_kinds = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@st.composite
def _members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(st.sampled_from(_kinds))
    content = draw(st.binary(max_size=1500)) if kind == tarfile.REGTYPE else b""
    made = member(
        draw(_path),
        kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**32 - 2)),
        gid=draw(st.integers(0, 2**32 - 2)),
        mtime=draw(st.integers(-(2**33), 2**33)),
        linkname=draw(_path) if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "",
        devmajor=draw(st.integers(0, 4095)),
        devminor=draw(st.integers(0, 2**20 - 1)),
    )
    return made, content


@given(st.lists(_members(), max_size=4), st.sampled_from(["pax", "gnu"]), st.integers(1, 3000))
def test_what_tarfile_writes_is_read(members: list[tuple[tarfile.TarInfo, bytes]], form: str, size: int) -> None:
    found = read(archive(*members, form=form), size)
    assert len(found) == len(members)
    for (entry, data), (info, content) in zip(found, members, strict=True):
        device = info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE)
        assert data == content
        assert entry.name.decode().rstrip("/") == info.name.rstrip("/")
        assert (entry.kind, entry.mode, entry.uid, entry.gid) == (info.type, info.mode, info.uid, info.gid)
        assert (entry.link.decode(), entry.mtime_ns) == (info.linkname, info.mtime * 1_000_000_000)
        assert (entry.major, entry.minor) == ((info.devmajor, info.devminor) if device else (0, 0))


@given(st.lists(_members(), max_size=4))
def test_what_we_write_tarfile_reads(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    ours = b""
    for entry, content in read(archive(*members)):
        ours += tarwriter.header(entry) + content + tarwriter.padding(len(content))
    with tarfile.open(fileobj=io.BytesIO(ours + tarwriter.END), errorlevel=2) as tar:
        for info, (wanted, content) in zip(tar.getmembers(), members, strict=True):
            assert (info.name.rstrip("/"), info.type, info.mode) == (wanted.name.rstrip("/"), wanted.type, wanted.mode)
            assert (info.uid, info.gid, info.mtime, info.linkname) == (wanted.uid, wanted.gid, wanted.mtime, wanted.linkname)
            if info.isreg():
                source = tar.extractfile(info)
                assert source is not None
                assert source.read() == content


def test_names_too_long_for_a_header() -> None:
    name, link = "d/" * 90 + "x" * 90, "l" * 300
    for form in ("pax", "gnu"):
        ((entry, _),) = read(archive(member(name, tarfile.SYMTYPE, linkname=link), form=form))
        assert (entry.name.decode(), entry.link.decode()) == (name, link)
    ((entry, _),) = read(archive(member("d/" * 60 + "x" * 90), form="ustar"))
    assert entry.name.decode() == "d/" * 60 + "x" * 90


def test_times_are_exact_to_the_nanosecond() -> None:
    made = member("f")
    for text, nanoseconds in [
        ("1.000000001", 1_000_000_001),
        ("-1.5", -1_500_000_000),
        ("1700000000.1234567891", 1_700_000_000_123_456_789),
    ]:
        made.pax_headers = {"mtime": text}
        ((entry, _),) = read(archive(made))
        assert entry.mtime_ns == nanoseconds


def test_extended_attributes_of_both_spellings() -> None:
    made = member("f")
    made.pax_headers = {"SCHILY.xattr.user.a": "one", "LIBARCHIVE.xattr.user%2Eb": "dHdv"}
    ((entry, _),) = read(archive(made))
    assert entry.xattrs == {b"user.a": b"one", b"user.b": b"two"}


def test_global_headers_hold_until_overridden() -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "77", "comment": "x"}) as tar:
        tar.addfile(member("a"))
        second = member("b")
        second.pax_headers = {"uid": "88"}
        tar.addfile(second)
        tar.addfile(member("c"))
    assert [entry.uid for entry, _ in read(target.getvalue())] == [77, 88, 77]


def test_the_old_ways_of_marking_files_and_directories() -> None:
    data = archive(
        member("dir/", tarfile.AREGTYPE), member("file", tarfile.AREGTYPE), member("cont", tarfile.CONTTYPE), form="ustar"
    )
    assert [entry.kind for entry, _ in read(data)] == [b"5", b"0", b"0"]


def test_bytes_behind_the_end_are_consumed() -> None:
    taken: list[int] = []

    def chunks() -> object:
        data = archive((member("f"), b"x")) + b"trailing" * 1000
        for at in range(0, len(data), 512):
            taken.append(at)
            yield data[at : at + 512]

    list(TarReader(chunks()).entries())  # type: ignore[arg-type]
    assert taken[-1] + 512 >= 10240 + 8000


def test_an_archive_without_end_marker_is_whole() -> None:
    data = archive((member("f"), b"content"))[: 2 * BLOCK]
    assert [entry.name for entry, _ in read(data)] == [b"f"]
    assert read(b"") == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (archive((member("f"), b"x" * 600))[: 2 * BLOCK], "ends in the middle of content"),
        (archive((member("f"), b"x"))[:300], "ends in the middle of a header"),
        (b"x" * 1024, "checksum"),
        (archive(member("f", b"S")), "sparse"),
        (archive(member("f", b"Z")), "unknown tar entry type"),
        (archive(member("f", b"M")), "unknown tar entry type"),
    ],
)
def test_what_cannot_be_read_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(LayerRefused, match=why):
        read(data)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"GNU.sparse.major": "1"}, "sparse"),
        ({"size": "x"}, "PAX size"),
        ({"uid": "4294967295"}, "out of range"),
        ({"uid": "-1"}, "PAX uid"),
        ({"mtime": "nan"}, "PAX mtime"),
        ({"path": "a\0b"}, "NUL byte"),
        ({"path": "p" * 5000}, "5000 bytes"),
        ({"LIBARCHIVE.xattr.user.a": "*"}, "base64"),
        ({"comment": "x" * (1 << 20)}, "more than 1048576"),
    ],
)
def test_a_pax_record_that_lies_is_refused(headers: dict[str, str], why: str) -> None:
    made = member("f")
    made.pax_headers = headers
    with pytest.raises(LayerRefused, match=why):
        read(archive(made))


@given(st.binary(max_size=60))
def test_any_pax_header_is_understood_or_refused(data: bytes) -> None:
    try:
        records = parse_pax(data)
    except LayerRefused:
        return
    assert sum(len(key) + len(value) + 3 for key, value in records.items()) <= len(data)


@given(st.data())
def test_any_damage_is_refused_or_read(data: st.DataObject) -> None:
    damaged = bytearray(archive((member("d/f" * 40), b"content" * 100), member("l", tarfile.SYMTYPE, linkname="t" * 150)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            _repair(damaged, at // BLOCK * BLOCK)
    with contextlib.suppress(LayerRefused):
        read(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def _repair(data: bytearray, at: int) -> None:
    """Make the checksum of the block at *at* right again, so that damage reaches what is behind it."""
    block = bytearray(data[at : at + BLOCK])
    block[148:156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(block)
