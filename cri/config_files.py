"""Where the configuration is, and its text as tables; what it says is ``cri.config``'s, which brings the runtime along."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from cri.toml import merge
from runtime.errors import InvalidArgument
from runtime.paths import Paths

DEFAULT_PATH = Path("/etc/kernelet/kernelet.toml")


def files(path: Path, *, required: bool = False) -> list[Path]:
    """The configuration file *path*, if it is there, and its drop-ins, the one that counts least first.

    Raises InvalidArgument when it is *required* and not there, or when its drop-ins cannot be listed.
    """
    if required and not path.exists():
        raise InvalidArgument(f"{path}: no such file")
    directory = path.with_name(f"{path.name}.d")
    try:
        dropins = sorted(each for each in directory.iterdir() if each.suffix == ".toml")
    except FileNotFoundError:
        dropins = []
    except OSError as error:
        raise InvalidArgument(f"{directory}: {(error.strerror or str(error)).lower()}") from None
    return [each for each in (path, *dropins) if each in dropins or each.exists()]


def read(file: Path) -> dict[str, Any]:
    """The tables in *file*.  Raises InvalidArgument, without the file's name."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"not text: {error}") from None
    except OSError as error:
        raise InvalidArgument((error.strerror or str(error)).lower()) from None
    return parsed(text)


def parsed(text: str) -> dict[str, Any]:
    """The tables in *text*.  Raises InvalidArgument for what is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"not TOML: {error}") from None


def find_socket() -> Path:
    """Where the daemon of this machine listens, for who asks it; its configuration may not be ours to read, nor right."""
    merged: dict[str, Any] = {}
    try:
        for file in files(DEFAULT_PATH):
            merged = merge(merged, read(file))
    except InvalidArgument:
        return Paths().socket
    socket, run_dir = merged.get("socket"), merged.get("run_dir")
    if isinstance(socket, str):
        return Path(socket)
    return Path(run_dir) / Paths().socket.name if isinstance(run_dir, str) else Paths().socket
