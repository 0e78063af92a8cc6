"""What a program needs beside itself: the interpreter that a script, or an ELF file, names."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from kernel.fd import Fd
from kernel.resolve import open_in_root

#: As much of a file as the kernel looks at (BINPRM_BUF_SIZE), and room for an ELF file's program headers.
HEAD = 4096
_LINE = 256
_PT_INTERP = 3


def interpreter_of(head: bytes) -> str | None:
    """The path of the interpreter that a file beginning with *head* names; None when it needs none, or is no program."""
    if head.startswith(b"#!"):
        words = head[2:_LINE].partition(b"\n")[0].split()
        return os.fsdecode(words[0]) if words else None
    if head.startswith(b"\x7fELF") and len(head) >= 64:
        return _elf_interpreter(head)
    return None


def missing_interpreter(root: Fd, paths: Iterable[str]) -> tuple[str, str] | None:
    """Of *paths* in *root* the first that is there while its interpreter is not, and that interpreter."""
    for path in paths:
        head = _head(root, path)
        interpreter = None if head is None else interpreter_of(head)
        if interpreter and _head(root, interpreter) is None:
            return path, interpreter
    return None


def _head(root: Fd, path: str) -> bytes | None:
    """The beginning of a regular file; None when there is none at *path*."""
    try:
        with open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK) as file:
            return os.pread(file.fileno(), HEAD, 0)
    except OSError:
        return None


def _elf_interpreter(head: bytes) -> str | None:
    """The PT_INTERP of an ELF file (elf(5)), if its headers are in *head*."""
    order = "<" if head[5] == 1 else ">"
    is_64 = head[4] == 2
    table, size, count = (
        (*struct.unpack_from(f"{order}Q", head, 32), *struct.unpack_from(f"{order}HH", head, 54))
        if is_64
        else (*struct.unpack_from(f"{order}I", head, 28), *struct.unpack_from(f"{order}HH", head, 42))
    )
    for index in range(count):
        at = table + index * size
        if at + size > len(head) or size < 32:
            return None
        kind = struct.unpack_from(f"{order}I", head, at)[0]
        if kind == _PT_INTERP:
            offset, length = (
                (struct.unpack_from(f"{order}Q", head, at + 8)[0], struct.unpack_from(f"{order}Q", head, at + 32)[0])
                if is_64
                else (struct.unpack_from(f"{order}I", head, at + 4)[0], struct.unpack_from(f"{order}I", head, at + 16)[0])
            )
            return os.fsdecode(head[offset : offset + length].split(b"\0")[0]) or None
    return None
