"""Write one layer: entries, or a directory of this machine, as a compressed tar.  Same input, same bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from backports.zstd import ZstdCompressor
from isal import isal_zlib

from kernel.fd import Fd
from runtime.image import tarwriter
from runtime.image.attributes import OPAQUE
from runtime.image.content import CHUNK
from runtime.image.tar import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, HARD_LINK, REGULAR, SYMLINK, Entry

Compression = Literal["gzip", "zstd", "none"]

#: Nine times faster than zlib's 6 and an eighth larger: measured on 160 MB of tars, 299 against 34 MB/s.
GZIP_LEVEL = 3
ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """A finished layer; its bytes can be read any number of times."""

    digest: str
    size: int
    diff_id: str
    compression: Compression
    file: Fd

    def chunks(self) -> Iterator[bytes]:
        """All bytes from the beginning; readers do not disturb each other."""
        at = 0
        while piece := os.pread(self.file.fileno(), CHUNK, at):
            at += len(piece)
            yield piece


class LayerWriter:
    """A layer under way: entries become a compressed tar, counted and hashed as it is written."""

    def __init__(self, compression: Compression = "gzip", *, mtime_ns: int = 0) -> None:
        self.compression = compression
        self._mtime_ns = mtime_ns
        self._file = _nameless_file()
        self._diff = hashlib.sha256()
        self._digest = hashlib.sha256()
        self._size = 0
        self._compressor = _compressor(compression)

    def directory(
        self, path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0, xattrs: Mapping[str, bytes] | None = None
    ) -> None:
        self._add(self._entry(path.rstrip("/") + "/", DIRECTORY, mode, uid, gid, xattrs))

    def file(
        self,
        path: str,
        content: bytes | Path = b"",
        mode: int = 0o644,
        *,
        uid: int = 0,
        gid: int = 0,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        """A regular file; its content is given, or read from a path of ours."""
        if isinstance(content, Path):
            with content.open("rb") as source:
                self._add(self._entry(path, REGULAR, mode, uid, gid, xattrs, size=content.stat().st_size), source)
        else:
            self._add(self._entry(path, REGULAR, mode, uid, gid, xattrs, size=len(content)))
            self._write(content + tarwriter.padding(len(content)))

    def symlink(self, path: str, target: str, *, uid: int = 0, gid: int = 0) -> None:
        self._add(self._entry(path, SYMLINK, 0o777, uid, gid, link=target))

    def hard_link(self, path: str, target: str, mode: int = 0o644, *, uid: int = 0, gid: int = 0) -> None:
        """A second name; owner and mode are the file's and are applied to it when the layer is unpacked."""
        self._add(self._entry(path, HARD_LINK, mode, uid, gid, link=target))

    def device(self, path: str, kind: Literal["c", "b"], major: int, minor: int, mode: int = 0o600) -> None:
        entry = self._entry(path, CHARACTER if kind == "c" else BLOCK_DEVICE, mode, 0, 0)
        entry.major, entry.minor = major, minor
        self._add(entry)

    def fifo(self, path: str, mode: int = 0o600) -> None:
        self._add(self._entry(path, FIFO, mode, 0, 0))

    def whiteout(self, path: str) -> None:
        """Hide *path* of the layers below."""
        head, slash, base = path.rpartition("/")
        self.file(f"{head}{slash}.wh.{base}")

    def opaque(self, path: str = "") -> None:
        """Hide all that the layers below have in the directory *path*."""
        self.file(f"{path.rstrip('/')}/.wh..wh..opq" if path else ".wh..wh..opq")

    def tree(self, directory: Path, prefix: str = "") -> None:
        """Everything below *directory*, sorted, with owners, modes, times, attributes and hard links; sockets left out.

        Whiteouts and opaque directories of an overlay's upper directory become the image's.
        """
        self._tree(os.fsencode(directory), prefix.strip("/"), {})

    def raw(self, tar: bytes) -> None:
        """Bytes of a tar stream as they are; the caller answers for them.  The end marker is added by ``finish``."""
        self._write(tar)

    def finish(self) -> Layer:
        """End the archive; nothing can be added any more."""
        self._write(tarwriter.END)
        self._store(self._compressor.flush() if self._compressor is not None else b"")
        digests = [f"sha256:{value.hexdigest()}" for value in (self._digest, self._diff)]
        return Layer(digests[0], self._size, digests[1], self.compression, self._file)

    def _entry(
        self,
        path: str,
        kind: bytes,
        mode: int,
        uid: int,
        gid: int,
        xattrs: Mapping[str, bytes] | None = None,
        *,
        size: int = 0,
        link: str = "",
    ) -> Entry:
        return Entry(
            name=os.fsencode(path),
            kind=kind,
            mode=mode,
            uid=uid,
            gid=gid,
            size=size,
            mtime_ns=self._mtime_ns,
            link=os.fsencode(link),
            major=0,
            minor=0,
            xattrs={os.fsencode(name): value for name, value in (xattrs or {}).items()},
        )

    def _add(self, entry: Entry, content: IO[bytes] | None = None) -> None:
        self._write(tarwriter.header(entry))
        if content is None:
            return
        left = entry.size
        while left:
            piece = content.read(min(CHUNK, left))
            if not piece:
                raise OSError(f"{os.fsdecode(entry.name)}: became shorter while it was packed")
            self._write(piece)
            left -= len(piece)
        self._write(tarwriter.padding(entry.size))

    def _write(self, data: bytes) -> None:
        self._diff.update(data)
        self._store(data if self._compressor is None else self._compressor.compress(data))

    def _store(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)
        while data:
            data = data[os.write(self._file.fileno(), data) :]

    def _tree(self, directory: bytes, prefix: str, seen: dict[tuple[int, int], str]) -> None:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            host = os.path.join(directory, name)
            path = f"{prefix}/{os.fsdecode(name)}" if prefix else os.fsdecode(name)
            status = os.lstat(host)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISSOCK(status.st_mode):
                continue
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                self.whiteout(path)
                continue
            first = seen.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                self._add(self._entry(path, HARD_LINK, mode, status.st_uid, status.st_gid, link=first))
                continue
            self._add_host(host, path, status)
            if stat.S_ISDIR(status.st_mode):
                if OPAQUE in os.listxattr(host):
                    self.opaque(path)
                self._tree(host, path, seen)

    def _add_host(self, host: bytes, path: str, status: os.stat_result) -> None:
        kinds = {
            stat.S_IFREG: REGULAR,
            stat.S_IFDIR: DIRECTORY,
            stat.S_IFLNK: SYMLINK,
            stat.S_IFCHR: CHARACTER,
            stat.S_IFBLK: BLOCK_DEVICE,
            stat.S_IFIFO: FIFO,
        }
        kind = kinds[stat.S_IFMT(status.st_mode)]
        names = [name for name in os.listxattr(host, follow_symlinks=False) if not name.startswith("trusted.overlay.")]
        entry = self._entry(path + "/" * (kind == DIRECTORY), kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        entry.mtime_ns = status.st_mtime_ns
        entry.xattrs = {os.fsencode(name): os.getxattr(host, name, follow_symlinks=False) for name in names}
        if kind == SYMLINK:
            entry.link = os.readlink(host)
        elif kind in (CHARACTER, BLOCK_DEVICE):
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        if kind != REGULAR:
            self._add(entry)
            return
        entry.size = status.st_size
        with Path(os.fsdecode(host)).open("rb") as content:
            self._add(entry, content)


def _nameless_file() -> Fd:
    """A file that lives as long as its descriptor."""
    number, name = tempfile.mkstemp(prefix="kernelet-layer-")
    os.unlink(name)
    return Fd(number)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _compressor(compression: Compression) -> _Compressor | None:
    if compression == "gzip":
        return isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, 31)
    return ZstdCompressor(ZSTD_LEVEL) if compression == "zstd" else None
