"""The kept code is the sources' own, or is not used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[3]
KEPT = f"__pycache__/commands.{sys.implementation.cache_tag}.library"

#: Imports one module by way of a library in the same directory, then keeps it; says what the module is and whether it was there.
SCRIPT = """
import sys
sys.path.append({tree!r})
from runtime.oci.library import PLACE, Library
sys.path.append({directory!r})
library = Library({directory!r})
sys.meta_path.insert(PLACE, library)
import subject
print(subject.VALUE, "kept" if subject.__cached__ == library.file else "fresh", subject.__file__)
library.keep()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "subject.py").write_text("VALUE = 1\n")
    return tmp_path


def imported(directory: Path, *flags: str) -> str:
    """What a start says that imports the module: its value, and where its code came from."""
    script = SCRIPT.format(tree=str(TREE), directory=str(directory))
    done = subprocess.run([sys.executable, "-I", "-S", *flags, "-c", script], capture_output=True, text=True, check=True)
    *said, file = done.stdout.split()
    assert file == str(directory / "subject.py")
    assert not done.stderr
    return " ".join(said)


def test_kept_from_the_second_start_on(directory: Path) -> None:
    assert imported(directory) == "1 fresh"
    written = (directory / KEPT).stat()
    assert [imported(directory), imported(directory)] == ["1 kept"] * 2
    assert (directory / KEPT).stat().st_ino == written.st_ino, "nothing was new"
    assert [name.name for name in (directory / "__pycache__").glob("commands*")] == [Path(KEPT).name]


def test_changed_source_counts(directory: Path) -> None:
    imported(directory)
    subject = directory / "subject.py"
    before = subject.stat()
    subject.write_text("VALUE = 2\n")  # of the same size
    os.utime(subject, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert [imported(directory), imported(directory)] == ["2 fresh", "2 kept"]
    subject.write_text("VALUE = 300\n")  # of the same time
    os.utime(subject, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert [imported(directory), imported(directory)] == ["300 fresh", "300 kept"]


def test_module_that_became_a_package(directory: Path) -> None:
    imported(directory)
    (directory / "subject.py").unlink()
    (directory / "subject").mkdir()
    (directory / "subject" / "__init__.py").write_text("from subject.part import VALUE\n")
    (directory / "subject" / "part.py").write_text("VALUE = 7\n")
    script = SCRIPT.format(tree=str(TREE), directory=str(directory))
    said = [
        subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert [line.split()[:2] for line in said] == [["7", "fresh"], ["7", "kept"]]


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_file_that_is_not_whole(directory: Path, length: int) -> None:
    imported(directory)
    content = (directory / KEPT).read_bytes()
    (directory / KEPT).write_bytes(content[:length])
    assert [imported(directory), imported(directory)] == ["1 fresh", "1 kept"]


@pytest.mark.parametrize("garbage", [bytes(4096), b"\xff" * 4096, b"\x08" + bytes(7) + b"\xfb" * 100])
def test_file_of_something_else(directory: Path, garbage: bytes) -> None:
    (directory / KEPT).write_bytes(garbage)
    assert [imported(directory), imported(directory)] == ["1 fresh", "1 kept"]


def test_another_interpreter_has_its_own(directory: Path) -> None:
    imported(directory)
    assert imported(directory, "-O") == "1 fresh"


def test_copy_elsewhere_does_not_import_from_here(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    imported(directory)
    copy = tmp_path_factory.mktemp("copy") / "tree"
    shutil.copytree(directory, copy, copy_function=shutil.copy2)
    assert imported(copy) == "1 fresh"


def test_nothing_is_written_where_bytecode_is_not(directory: Path) -> None:
    assert imported(directory, "-B") == "1 fresh"
    assert not (directory / KEPT).exists()


def test_directory_that_cannot_be_written_to(directory: Path) -> None:
    shutil.rmtree(directory / "__pycache__")
    (directory / "__pycache__").write_text("in its place")
    assert imported(directory) == "1 fresh"


def test_commands_run_what_the_sources_say(tmp_path: Path) -> None:
    for package in ("kernel", "runtime"):
        shutil.copytree(TREE / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = tmp_path / "runtime" / "oci" / "command.py"

    def version() -> str:
        main = tmp_path / "runtime" / "oci" / "__main__.py"
        done = subprocess.run([sys.executable, "-I", "-S", main, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split("\n")[0].split()[-1]

    first = version()
    assert (tmp_path / "runtime" / "oci" / KEPT).exists()
    command.write_text(command.read_text().replace(f'VERSION = "{first}"', 'VERSION = "17.0"'))
    assert [first != "17.0", version(), version()] == [True, "17.0", "17.0"]


def test_no_descriptor_stays_open(directory: Path) -> None:
    """It would be taken for one of the caller's, and be handed to a container."""
    imported(directory)
    script = SCRIPT.format(tree=str(TREE), directory=str(directory)) + "import os; print(os.listdir('/proc/self/fd'))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['0', '1', '2', '3']", "3 is the listing itself"


def test_what_replaced_the_file_is_not_read_by_the_old_index(directory: Path) -> None:
    imported(directory)
    (directory / "other").write_bytes(bytes((directory / KEPT).stat().st_size))
    replace = f"import os; os.rename({str(directory / 'other')!r}, {str(directory / KEPT)!r})"
    script = SCRIPT.format(tree=str(TREE), directory=str(directory)).replace("import subject", f"{replace}\nimport subject")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 "), "from its .pyc"
