"""What differs between the machines that we are built for: arm64 has no system call that another one replaced."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kernel import _build
from runtime.container.syscalls import AARCH64, X86_64, numbers
from tests.support.requires import TREE, program, requires

GOLDEN = sorted((TREE / "tests/runtime/container/golden").glob("*.txt"))
#: Calls of x86-64 that are arm64's by another name, or not at all: openat, dup3, mkdirat ... do their work.
LEGACY = "access chmod chown creat dup2 epoll_create fork getdents inotify_init lchown link lstat mkdir mknod open pause pipe "
LEGACY += "poll readlink rename rmdir select signalfd stat symlink unlink utime vfork"


def test_the_table_knows_what_arm64_lacks() -> None:
    assert set(LEGACY.split()) <= numbers(X86_64).keys()
    assert not set(LEGACY.split()) & numbers(AARCH64).keys()


def test_programs_may_only_be_made_of_calls_that_every_machine_has() -> None:
    assert set(_build.CALLS) <= numbers(X86_64).keys() & numbers(AARCH64).keys()


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_programs_are(file: Path) -> None:
    """Each step of each golden program, as text: ``12  fd = openat(...)``."""
    calls = set(re.findall(r"^ +\d+  (?:\w+ = )?(\w+)\(", file.read_text(), re.MULTILINE))
    assert {"execve", "waitid"} & calls, "the text of programs looks otherwise than this test reads it"
    assert calls <= numbers(AARCH64).keys()


@requires("aarch64-linux-gnu-gcc")
def test_arm64s_headers_have_every_declared_name(tmp_path: Path) -> None:
    """And a number of each call: what the table says."""
    known = numbers(AARCH64)
    lines = [f"long long constant_{name} = (long long) {name};" for name in _build.CONSTANTS]
    lines += [f'_Static_assert(SYS_{call} == {known[call]}, "{call}");' for call in _build.CALLS]
    source = tmp_path / "names.c"
    source.write_text("\n".join([_build.SOURCE, *lines]))
    words = [program("aarch64-linux-gnu-gcc"), "-fsyntax-only", "-Wno-unused-function", source]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
