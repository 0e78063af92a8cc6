"""ruff, mypy, the import layers and the other architecture, as tests: one command checks everything."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from kernel import _build
from kernel._linux import lib
from tests.support.requires import TREE, program, requires

EM_AARCH64, PT_INTERP, PT_DYNAMIC = 183, 3, 2


def check(*command: str) -> None:
    """Run a checker that is installed beside this Python; its findings are the failure, without a traceback."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}", pytrace=False)


def test_ruff_finds_nothing() -> None:
    check("ruff", "check", "--quiet", ".")


@pytest.mark.timeout(600)
def test_mypy_finds_nothing() -> None:
    packages = ["kernel", "runtime", "cri", "tests.support", "tests.vm"]
    check("mypy", "--strict", *(word for package in packages for word in ("-p", package)), "-m", "tests.conftest")


def test_imports_go_down_only() -> None:
    check("lint-imports")


@requires("aarch64-linux-gnu-gcc")
def test_the_runner_compiles_for_aarch64(tmp_path: Path) -> None:
    runner = compiled(program("aarch64-linux-gnu-gcc"), tmp_path)
    assert struct.unpack_from("<H", runner, 18) == (EM_AARCH64,)
    assert not segments(runner) & {PT_INTERP, PT_DYNAMIC}


@requires("machine x86_64")
def test_the_built_runner_is_static_and_up_to_date(tmp_path: Path) -> None:
    """The runner is what containers start with: a stale one would run yesterday's program."""
    built = (TREE / "kernel/runner").read_bytes()
    assert not segments(built) & {PT_INTERP, PT_DYNAMIC}
    assert built == compiled("gcc", tmp_path), "kernel/runner is older than runner.c: run make test"


def test_the_built_module_knows_every_declared_name() -> None:
    declared = [*_build.CONSTANTS, *(f"SYS_{call}" for call in _build.CALLS)]
    missing = [name for name in declared if not hasattr(lib, name)]
    assert not missing, "kernel._linux is older than _build.py: run make test"


def compiled(compiler: str, directory: Path) -> bytes:
    """The runner as *compiler* makes it."""
    try:
        _build.compile_runner(compiler, directory / "runner")
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{compiler} refused kernel/runner.c (its reasons are on stderr): {error}", pytrace=False)
    return (directory / "runner").read_bytes()


def segments(elf: bytes) -> set[int]:
    """The types of a 64-bit executable's program headers (elf(5))."""
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    return {struct.unpack_from("<I", elf, offset + number * size)[0] for number in range(count)}


def test_scripts_are_shell() -> None:
    """Some run only in guests, or on a machine that has everything: what is misspelt there would be seen late."""
    places = [TREE / name for name in (".ci", "scripts", "tests", "vagrant")]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    scripts = {path: path.read_bytes().partition(b"\n")[0] for path in files}
    found = {path: "bash" if b"bash" in line else "sh" for path, line in scripts.items() if re.match(rb"#!.*\b(ba)?sh$", line)}
    assert {"provision.sh", "smoke.sh", "run", "postinst"} <= {path.name for path in found}
    for path, shell in found.items():
        done = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
