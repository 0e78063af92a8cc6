"""``python -m tests.arm64 [WORD...]``: run the tests that the emulator can run; WORDs go to pytest in their place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.arm64 import build
from tests.support.requires import TREE

HERE = Path(__file__).parent
#: The programs as text, packed and walked; what of the layers above is bytes and rules.
FILES = (
    "tests/kernel/test_program.py tests/kernel/test_decode.py tests/kernel/test_mountinfo.py "
    "tests/runtime/container/test_init.py tests/runtime/container/test_seccomp.py "
    "tests/runtime/container/test_seccomp_default.py tests/runtime/image/test_platform.py"
).split()
#: Tests of these files that cannot pass in the emulator, and what it lacks.
WITHOUT = {
    "tests/kernel/test_program.py::test_the_clone_has_its_own_namespaces_and_its_pid_is_known_before_it_runs": "clone3",
    "tests/kernel/test_program.py::test_a_failure_in_the_clone_is_told_while_the_parent_half_goes_on": "clone3",
    "tests/kernel/test_program.py::test_vectors_words_and_filters_reach_the_kernel_whole": "seccomp",
    "tests/runtime/container/test_seccomp.py::test_kernel_takes_a_filter_with_long_jumps": "seccomp",
    "tests/runtime/container/test_seccomp_default.py::test_kernel_obeys_the_default_profile": "seccomp",
    "tests/runtime/container/test_seccomp_default.py::test_default_profile_is_short_and_quick_to_compile": "a machine's speed",
}


def main(words: list[str]) -> int:
    """The exit status of pytest."""
    base = build.make_base()
    with tempfile.TemporaryDirectory(prefix="kernelet-arm64-") as work:
        os.chmod(work, 0o755)
        nobodys = Path(work, "tmp")
        nobodys.mkdir()
        os.chmod(nobodys, 0o1777)
        site = build.make_site(base, Path(work))
        place = Path(work, "tree")  # without our packages: they are found installed, or not at all
        shutil.copytree(TREE / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__", "vm", "critest"))
        shutil.copy(TREE / "pyproject.toml", place)
        for name, lack in WITHOUT.items():
            print(f"left out: {name}: the emulator lacks {lack}", flush=True)
        chosen = words or [*FILES, *(f"--deselect={name}" for name in WITHOUT)]
        python = (f"/mnt/emulator/{build.EMULATOR}", "-L", "/mnt/root", "/mnt/root/usr/bin/python3.11")
        options = ("-q", "--noconftest", "-p", "tests.arm64.plugin", "--timeout=600", f"--basetemp={nobodys}/tests")
        pytest = ("-m", "pytest", *options, *chosen)
        environment = os.environ | {"PYTHONHOME": "/mnt/root/usr", "PYTHONPATH": f"{site}:{place}", "TMPDIR": str(nobodys)}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        command: list[str | Path] = ["unshare", "--mount", "--", HERE / "private-emulator", base, *python, *pytest]
        done = subprocess.run(command, cwd=place, env=environment, stdin=subprocess.DEVNULL, check=False)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
