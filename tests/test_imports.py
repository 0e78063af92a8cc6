"""kernel <- runtime <- cri, file by file; and no file or function grows beyond what a reader holds in mind."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.requires import TREE

GENERATED = {TREE / "cri/api/api_pb2.py"}
FILES = sorted(path for top in ("kernel", "runtime", "cri") for path in (TREE / top).rglob("*.py") if path not in GENERATED)
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

#: Who alone may import what; a name ending in "/" is a folder.
ALONE = {
    "cffi": ("kernel/",),
    "prctl": ("kernel/",),
    "kernel._linux": ("kernel/",),
    "pyroute2": ("kernel/netlink.py", "kernel/nftables.py"),
    "sqlite3": ("runtime/",),
    "grpc": ("cri/",),
    "google": ("cri/",),
    # No shelling out: what is started is the compiler, our own monitor, and what the contracts say (CNI, hooks, credentials;
    # newuidmap, which may write what a user may not).
    "subprocess": (
        "kernel/_build.py", "runtime/network/cni.py", "runtime/container/hooks.py",
        "runtime/image/auth.py", "runtime/container/userns.py",
    ),
}

#: What the monitor must not load: it is to be small, and to start in milliseconds.
HEAVY = ("msgspec", "grpc", "google", "urllib3", "pyroute2", "sqlite3", "asyncio", "isal", "backports")
MONITOR = sorted(path.stem for path in (TREE / "runtime/monitor").glob("*.py") if path.stem != "__init__")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that the source names in an import, "from a import b" as a and as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: say where from"
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_there_are_files_to_check() -> None:
    assert len(FILES) > 20
    assert TREE / "kernel/mount.py" in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TREE)))
def test_a_file(path: Path) -> None:
    """Imports only what its layer may, has a docstring, and stays short."""
    text = path.read_text()
    tree = ast.parse(text)
    here = str(path.relative_to(TREE))
    for module in imports(tree):
        for name, allowed in ALONE.items():
            if module == name or module.startswith(f"{name}."):
                assert here.startswith(allowed), f"only {', '.join(allowed)} may import {name}"
    assert not text.strip() or ast.get_docstring(tree), "no docstring says what this file is"
    assert text.count("\n") <= LONGEST_FILE
    for function in functions(tree):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= LONGEST_FUNCTION, f"{function.name} has {lines} lines"


@pytest.mark.parametrize("name", MONITOR)
def test_the_monitor_loads_only_the_standard_library_and_kernel(name: str) -> None:
    """Asked of a real interpreter, so that an import of an import counts."""
    script = (
        f"import sys; sys.path.insert(0, {str(TREE)!r}); before = set(sys.modules); import runtime.monitor.{name}\n"
        "print(*{module.partition('.')[0] for module in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & set(HEAVY)
    assert loaded <= sys.stdlib_module_names | {"kernel", "runtime", "_cffi_backend", "prctl", "_prctl"}
