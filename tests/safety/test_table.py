"""Every attack that is known has a test: the list of CVEs and of the hazards of Python, held against the tests' docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent

#: Of runc and crun, and of engines that passed the same mistake on; by number, what happened.
CVES = {
    "2016-9962": "a process that enters a container could be traced by it, and its descriptors used",
    "2019-5736": "the container wrote to the runtime's executable through /proc/PID/exe",
    "2019-14271": "a library of the container's was loaded into the process that copies files out of it",
    "2019-16884": "an image's volume over /proc took the label that was written for it",
    "2019-18837": "a link in the image as a mount's target led to the host",
    "2019-19921": "the same as 2019-16884, through a link or a race",
    "2020-1702": "a document without a limit to its size",
    "2021-30465": "a mount's target was swapped for a link after it had been checked",
    "2021-41103": "directories of the runtime's state were everybody's to enter",
    "2021-43784": "a length of 16 bits overflowed, and what followed was read as something else",
    "2022-0811": "a setting's value with a separator in it became another setting",
    "2022-24769": "an inheritable set that was not empty (moby)",
    "2022-27649": "an inheritable set that was not empty (podman)",
    "2022-27650": "an inheritable set that was not empty (crun)",
    "2022-27651": "an inheritable set that was not empty (buildah)",
    "2022-27652": "an inheritable set that was not empty (CRI-O)",
    "2022-29162": "an inheritable set that was not empty (runc)",
    "2023-25809": "/sys/fs/cgroup was writable without a cgroup namespace",
    "2023-27561": "/proc was a link, and what was to be masked lay elsewhere",
    "2023-28642": "/proc was a link, once more",
    "2024-21626": "a directory of the host's was open, and the working directory was in it",
    "2024-25621": "directories of the runtime's state were everybody's to enter, once more",
    "2024-40635": "a user id of more than 31 bits became root",
    "2024-45310": "directories and files were made on the host while parents were made",
    "2025-24965": "a file was written through a link of the image's",
    "2025-31133": "the image's /dev/null covered a masked file, writable",
    "2025-52565": "/dev/console was bound from a path that could be swapped",
    "2025-52881": "writes to /proc were redirected to other files of it",
    "2026-30892": "exec -u 1 was root",
    "2026-41579": "/dev was a link, and devices were made where it led (runc)",
    "2026-46680": "a number that is too large was taken for a name",
    "2026-47766": "/dev was a link, and devices were made where it led (crun)",
}
#: What is special about a runtime in Python.
HAZARDS = {
    "P1": "modules, codecs and libraries are imported late, from wherever the root is by then",
    "P2": "so that the last stage had better be a list of system calls",
    "P3": "/proc/self/exe is the interpreter",
    "P4": "libraries and modules stay mapped until execve",
    "P5": "a process with threads cannot change its namespaces",
    "P6": "a fork in a process with threads meets locks that nobody holds any more",
    "P7": "a raw clone leaves the interpreter's own lock where it is",
    "P8": "descriptors are closed by execve, and open until then",
    "P9": "ignored signals are inherited",
    "P10": "variables of the environment change the interpreter",
    "P11": "strings are not bytes: surrogates, NULs",
    "P12": "whoever waits for any child takes those of others",
    "P13": "exceptions between fork and execve run the parent's clean-up again",
    "P14": "the collector closes in the child what is the parent's",
    "P15": "an interpreter for each container takes megabytes",
    "P16": "depth, size and numbers of documents have limits, which are exceptions",
}


def described() -> dict[str, str]:
    """The docstring of every test here, by its name."""
    found = {}
    for file in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{file.name}::{node.name}"] = ast.get_docstring(node) or ""
    return found


@pytest.mark.parametrize("number", sorted(CVES))
def test_each_cve_has_a_test(number: str) -> None:
    """Every one of the list."""
    assert [name for name, text in described().items() if f"CVE-{number}" in text]


@pytest.mark.parametrize("number", sorted(HAZARDS))
def test_each_hazard_has_a_test(number: str) -> None:
    """Every one of the list."""
    assert [name for name, text in described().items() if re.search(rf"\b{number}\b", text)]


def test_the_list_is_whole() -> None:
    """What a test names is in the list, with a word on what it was."""
    named = {number for text in described().values() for number in re.findall(r"CVE-(\d{4}-\d+)", text)}
    assert named - set(CVES) - {"2022-23648", "2022-23471", "2023-25153", "2025-64329", "2026-55686"} == set()


def test_every_attack_says_what_it_is() -> None:
    """Each test has a docstring that begins with what it is about."""
    assert [name for name, text in described().items() if not text] == []
