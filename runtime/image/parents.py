"""Names inside an archive, and the directories they stand in, as descriptors below the layer's root."""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Self

from kernel.fd import Fd
from kernel.resolve import open_in_root
from runtime.errors import LayerRefused
from runtime.image.attributes import is_whiteout, look, set_opaque_at, shown

#: Directories kept open at a time; archives list a directory's entries one after the other.
OPEN_DIRECTORIES = 32
#: As many symlinks as the kernel follows on one path.
SYMLINKS = 40
COMPONENT_LIMIT = 255


def clean(name: bytes) -> list[bytes]:
    """The components of an entry's *name*, relative to the root even when it begins with a slash.

    Raises LayerRefused for "..": no tool writes it, and whoever does means to leave the root.
    """
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise LayerRefused(f"entry {shown(name)}: the name contains '..' and could leave the root")
    if any(len(part) > COMPONENT_LIMIT for part in parts):
        raise LayerRefused(f"entry {shown(name)}: a component longer than {COMPONENT_LIMIT} bytes")
    return parts


def join(parts: list[bytes]) -> bytes:
    return b"/".join(parts)


def leaves_root(target: bytes) -> bool:
    """Whether ".." in *target* climbs above where it starts."""
    depth = 0
    for part in target.split(b"/"):
        depth += -1 if part == b".." else part not in (b"", b".")
        if depth < 0:
            return True
    return False


class Parents:
    """The directories of a layer by path, opened or made.

    ``implicit`` holds, in order, those that were made because an entry stands in them and no entry
    of their own has come yet: their attributes belong to the layers below.
    """

    def __init__(self, root: Fd) -> None:
        self._root = root
        self._open: dict[bytes, Fd] = {}
        self.implicit: dict[bytes, None] = {}

    def open(self, path: bytes) -> Fd:
        """The directory at *path*, borrowed: valid until the next call."""
        known = self._open.get(path)
        if known is not None:
            return known
        if len(self._open) >= OPEN_DIRECTORIES:
            self.close()
        try:
            found = open_in_root(self._root, path or b"/", os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            found = self._make(path)
        self._open[path] = found
        return found

    def forget(self, path: bytes, in_use: Fd) -> int:
        """The directory at *path*, in the borrowed *in_use*, is about to go; returns how many implicit ones go with it.

        Symlinks give directories several names here, so all are opened anew.
        """
        for known, directory in list(self._open.items()):
            if directory is not in_use:
                directory.close()
                del self._open[known]
        going = [known for known in self.implicit if known == path or known.startswith(path + b"/")]
        for known in going:
            del self.implicit[known]
        return len(going)

    def close(self) -> None:
        for directory in self._open.values():
            directory.close()
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _make(self, path: bytes) -> Fd:
        """Walk *path* with the root as "/", making what is missing, also behind symlinks of this layer.

        *done* holds real directories only, so ".." in a link's target may be taken from it by name.
        """
        pending, links = path.split(b"/")[::-1], 0
        done: list[bytes] = []
        here = self._root.duplicate()
        while pending:
            part = pending.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                done = done[:-1]
                here = self._reopen(here, done)
                continue
            found = look(here, part)
            if found is not None and stat.S_ISLNK(found.st_mode):
                links += 1
                if links > SYMLINKS:
                    here.close()
                    raise LayerRefused(f"entry below {shown(path)}: more than {SYMLINKS} symlinks on the way")
                target = os.readlink(part, dir_fd=here.fileno())
                if target.startswith(b"/"):
                    done = []
                    here = self._reopen(here, done)
                pending.extend(target.split(b"/")[::-1])
                continue
            done.append(part)
            here = self._enter(here, part, found, done)
        return here

    def _enter(self, here: Fd, part: bytes, found: os.stat_result | None, done: list[bytes]) -> Fd:
        with here:
            if found is not None and is_whiteout(found):
                os.unlink(part, dir_fd=here.fileno())
            elif found is not None and not stat.S_ISDIR(found.st_mode):
                raise LayerRefused(f"entry below {shown(join(done))}: that is a file in the same layer")
            if found is None or is_whiteout(found):
                os.mkdir(part, 0o755, dir_fd=here.fileno())
                os.chmod(part, 0o755, dir_fd=here.fileno())
                self.implicit[join(done)] = None
            if found is not None and is_whiteout(found):
                set_opaque_at(here, part)
            return open_in_root(here, part, os.O_PATH | os.O_DIRECTORY, follow=False)

    def _reopen(self, here: Fd, done: list[bytes]) -> Fd:
        here.close()
        return open_in_root(self._root, join(done) or b"/", os.O_PATH | os.O_DIRECTORY)
