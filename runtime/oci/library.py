"""The code that commands import, kept in one file: a hundred fewer to look for, open, read and check at each start.

It is to them all what a ``.pyc`` is to one, lies where those lie, and is as safe: who may write it may write the code,
and a module's counts only while its source has the time and the size that it was compiled at.  What is not in it, or not
as it was, is imported as ever, and is in it from the next start on.  Another interpreter, or a copy of the tree, has its
own.  The file is opened anew for each module: a descriptor that stayed open could be taken for one of the caller's
(--preserve-fds), and memory for all of it costs more (1.3 ms, 0.5).

    8 bytes     the index's length, little-endian
    index       what ``_key`` says, each module's ``Entry``, and the length of what follows (marshal)
    code        of one module after the other (marshal)

What this file itself imports comes from elsewhere, so it is next to nothing.
"""

import marshal
import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader

TYPE_CHECKING = False  # typing's own is true to who checks types as well
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

#: A module's file, its time (ns) and its size; where its code begins and ends, the same for an extension module.
Entry = tuple[str, int, int, int, int]
#: In sys.meta_path: behind the finders of what the interpreter has in itself.
PLACE = 2
LONGEST_INDEX = 1 << 20


class Library:
    """A finder of modules, for ``sys.meta_path``."""

    def __init__(self, directory: str) -> None:
        """That of the code in *directory*; empty when there is none, or none of this interpreter's."""
        self.file = f"{directory}/__pycache__/commands.{sys.implementation.cache_tag}.library"
        self._entries: dict[str, Entry] = {}
        self._base, self._identity = 0, (0, 0)
        self._known = set(sys.modules)  # what is imported before is not looked for
        try:
            self._read_index()
        except (OSError, EOFError, ValueError, TypeError):
            self._entries = {}  # there is none, or it is not whole

    def find_spec(
        self,
        name: str,
        path: "Sequence[str] | None" = None,  # noqa: ARG002
        target: "ModuleType | None" = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The module *name*; None when it is not here, or its source has changed."""
        entry = self._entries.get(name)
        if entry is None or not _is_current(entry):
            return None
        self._known.add(name)
        file, _, _, begin, end = entry
        if begin == end:
            return ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
        spec = ModuleSpec(name, _Loader(name, file, self, entry), origin=file)
        spec.has_location, spec.cached = True, self.file
        if file.endswith("/__init__.py"):
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec

    def code(self, entry: Entry) -> bytes | None:
        """The code of *entry*; None when the file is another by now."""
        try:
            fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.pread(fd, entry[4] - entry[3], self._base + entry[3]) if _identity(fd) == self._identity else None
        finally:
            os.close(fd)

    def keep(self) -> None:
        """Write it anew if modules were imported that it has not; when that cannot be, it stays as it is."""
        fresh = [spec for name in sys.modules.keys() - self._known if (spec := _spec_of(name)) is not None]
        if not fresh or sys.dont_write_bytecode:
            return
        try:
            self._write(fresh)
        except OSError:
            return  # as with a .pyc: the next start is slower

    def _read_index(self) -> None:
        fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = int.from_bytes(os.pread(fd, 8, 0), "little")
            key, entries, length = marshal.loads(os.pread(fd, min(size, LONGEST_INDEX), 8))
            if key == _key() and os.fstat(fd).st_size == 8 + size + length:
                self._entries, self._base, self._identity = entries, 8 + size, _identity(fd)
        finally:
            os.close(fd)

    def _write(self, fresh: list[ModuleSpec]) -> None:
        content = bytearray()
        entries: dict[str, Entry] = {}
        for name, entry in self._entries.items():
            code = self.code(entry) if _is_current(entry) else None
            if code is not None:
                entries[name] = (*entry[:3], len(content), len(content) + len(code))
                content += code
        for spec in fresh:
            file = str(spec.origin)
            looked_at = os.stat(file)  # before its code: a change meanwhile makes that outdated, not wrong
            compiled = spec.loader.get_code(spec.name)  # type: ignore[union-attr]  # _spec_of says which loaders
            code = b"" if compiled is None else marshal.dumps(compiled)
            entries[spec.name] = (file, looked_at.st_mtime_ns, looked_at.st_size, len(content), len(content) + len(code))
            content += code
        index = marshal.dumps((_key(), entries, len(content)))
        new = f"{self.file}.{os.getpid()}"
        with open(new, "xb") as written:
            try:
                written.write(len(index).to_bytes(8, "little") + index + content)
                written.flush()
                os.fsync(written.fileno())  # a name without its content would outlive a crash, and be imported
                os.rename(new, self.file)
            except BaseException:
                os.unlink(new)
                raise


class _Loader(SourceFileLoader):
    """A loader of kept code."""

    def __init__(self, name: str, file: str, library: Library, entry: Entry) -> None:
        super().__init__(name, file)
        self._library, self._entry = library, entry

    def get_code(self, fullname: str) -> "CodeType | None":
        kept = self._library.code(self._entry)
        if kept is None:
            return super().get_code(fullname)
        code: CodeType = marshal.loads(kept)
        return code


def _identity(fd: int) -> tuple[int, int]:
    """Which file it is: one is never written to, but replaced."""
    found = os.fstat(fd)
    return found.st_ino, found.st_mtime_ns


def _key() -> tuple[str | int, ...]:
    """Which interpreter's code it is, and where that finds modules."""
    return sys.version, sys.flags.optimize, *sys.path


def _is_current(entry: Entry) -> bool:
    try:
        found = os.stat(entry[0])
    except OSError:
        return False
    return found.st_mtime_ns == entry[1] and found.st_size == entry[2]


def _spec_of(name: str) -> ModuleSpec | None:
    """What the module *name* was made of, when that was a file of its own."""
    spec: ModuleSpec | None = getattr(sys.modules[name], "__spec__", None)
    kept = spec is not None and spec.name == name and type(spec.loader) in (SourceFileLoader, ExtensionFileLoader)
    return spec if kept else None
