"""The part of an image that changes with our source: a virtual environment out of wheels, ours and those it needs.

The others' wheels are kept apart, in a directory named for a digest of the lock file: they change rarely and take longest.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.support.requires import TREE
from tests.vm.disk import BUILT, contents, digest, make_disk, run

#: What the wheel is built from, and what the tests in a guest need besides.
SOURCES = ("kernel", "runtime", "cri", "scripts", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
TEST_PACKAGES = ("pytest", "pytest-timeout", "hypothesis", "pyseccomp", "coverage")
PREFIX = "/opt/kernelet"


def identify() -> str:
    """A digest of everything the wheel is built from, and of the lock file that names the others."""
    return digest([Path(__file__).read_bytes(), *(part for name in SOURCES for part in contents(TREE / name))])


def identify_wheels() -> str:
    """A digest of what the others' wheels are made of."""
    return digest([Path(__file__).read_bytes(), (TREE / "requirements.lock").read_bytes()])


def build(made: Path, work: Path, wheels: Path) -> None:
    """code.ext4: a virtual environment for /opt/kernelet, out of our wheel and of *wheels*."""
    ours, venv = work / "wheels", work / "venv"
    _make_our_wheel(ours, work)
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    sources = ("--find-links", ours, "--find-links", wheels)
    _pip("--python", venv / "bin/python", "install", "--no-index", *sources, "kernelet", *TEST_PACKAGES)
    for script in (venv / "bin").iterdir():  # pip wrote down where the interpreter is now
        if not script.is_symlink():
            script.write_bytes(script.read_bytes().replace(os.fsencode(venv), os.fsencode(PREFIX)))
    make_disk(venv, made / "code.ext4", "256M")


def build_wheels(made: Path, work: Path) -> None:
    """The wheels that requirements.lock names, by its hashes."""
    for section in ("build", "run", "test"):
        lock = work / f"{section}.lock"
        lock.write_text(_locked(section))
        _pip("wheel", "--no-deps", "--no-build-isolation", "--use-pep517", "--require-hashes", "--wheel-dir", made, "-r", lock)


def _make_our_wheel(target: Path, work: Path) -> None:
    source = work / "source"
    source.mkdir()
    for name in SOURCES:  # a copy: a build writes into its source, which is in use
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, source / name, ignore=BUILT)
        else:
            shutil.copy(TREE / name, source / name)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)


def _locked(section: str) -> str:
    """One section of the lock file."""
    lines = (TREE / "requirements.lock").read_text().splitlines(keepends=True)
    start = lines.index(f"# {section}\n") + 1
    end = next((number for number in range(start, len(lines)) if lines[number].startswith("# ")), len(lines))
    return "".join(lines[start:end])


def _pip(*words: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *words)


