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
    "tests/runtime/container/test_seccomp_default.py tests/runtime/container/test_resources.py "
    "tests/runtime/image/test_platform.py"
).split()
#: What needs a call that the emulator does not know, and no test of another file may fail for that.
WITHOUT = {
    "tests/kernel/test_program.py": {
        "test_the_clone_has_its_own_namespaces_and_its_pid_is_known_before_it_runs": "clone3",
        "test_a_failure_in_the_clone_is_told_while_the_parent_half_goes_on": "clone3",
        "test_vectors_words_and_filters_reach_the_kernel_whole": "seccomp",
    },
}


def main(words: list[str]) -> int:
    """The exit status of pytest."""
    base = build.make_base()
    with tempfile.TemporaryDirectory(prefix="kernelet-arm64-") as work:
        site = build.make_site(base, Path(work))
        place = Path(work, "tree")  # without our packages: they are found installed, or not at all
        shutil.copytree(TREE / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__", "vm", "critest"))
        shutil.copy(TREE / "pyproject.toml", place)
        for file, names in WITHOUT.items():
            for name, call in names.items():
                print(f"left out: {file}::{name}: the emulator has no {call}")
        left_out = [f"--deselect={file}::{name}" for file, names in WITHOUT.items() for name in names]
        chosen = words or [*(file for file in FILES if (TREE / file).exists()), *left_out]
        emulator = base / "emulator" / build.EMULATOR
        python = [str(emulator), "-L", str(base / "root"), str(base / "root/usr/bin/python3.11")]
        pytest = ["-m", "pytest", "-q", "--noconftest", "-p", "tests.arm64.plugin", "--timeout=600", *chosen]
        own = ("unshare", "--user", "--map-root-user", "--mount", HERE / "private-emulator", emulator, base / "root")
        environment = os.environ | {"PYTHONHOME": f"{base}/root/usr", "PYTHONPATH": f"{site}:{place}"}
        done = subprocess.run((*own, *python, *pytest), cwd=place, env=environment, stdin=subprocess.DEVNULL, check=False)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
