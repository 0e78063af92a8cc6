"""What both parts of an image need: commands, ext4 without mounting it, and a digest of what goes in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

#: What a build leaves in its source: no part of it.
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "_linux.c", "runner", "runner-aarch64")


def make_disk(tree: Path, disk: Path, size: str) -> None:
    """A sparse ext4 of *size* that holds *tree*; nothing is mounted for it."""
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d", tree, disk, size)


def digest(parts: Iterable[bytes]) -> str:
    """A name for exactly these *parts*."""
    whole = hashlib.sha256(Path(__file__).read_bytes())
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]


def contents(top: Path) -> list[bytes]:
    """Name and bytes of *top*, or of each source file below it."""
    if top.is_file():
        return [top.name.encode(), top.read_bytes()]
    found: list[bytes] = []
    for directory, below, names in os.walk(top):
        below.sort()
        kept = sorted(set(names) - BUILT(directory, names))
        below[:] = [name for name in below if name not in BUILT(directory, below)]
        for name in kept:
            path = Path(directory, name)
            found += [str(path.relative_to(top)).encode(), path.read_bytes()]
    return found


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """What a command says; its complaints go to ours.  CalledProcessError when it fails."""
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
