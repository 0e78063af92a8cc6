"""Take one write away, and see which tests fail: ``python -m tests.vm.inside.weaken TABLE RESULTS``, in a guest.

TABLE is JSON: the file of a cgroup that nothing is written to any more ("devices" for their rules), and the tests that are
to notice.  What is installed is hidden behind a copy that leaves out the write; how each test ended goes to RESULTS.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import kernel.bpf
import kernel.cgroup
import tests.support.wait

#: A test that waits for what will never come is to fail sooner.
PATIENCE_SECONDS = 8
DEVICES = "devices"


def main() -> None:
    table, results = (Path(word) for word in sys.argv[1:])
    _be_impatient()
    found = {file: _outcomes(file, names) for file, names in json.loads(table.read_text()).items()}
    results.write_text(json.dumps(found, indent=2))


def _be_impatient() -> None:
    source = Path(tests.support.wait.__file__)
    text = source.read_text()
    assert "monotonic() + deadline_seconds" in text
    source.write_text(text.replace("monotonic() + deadline_seconds", f"monotonic() + min(deadline_seconds, {PATIENCE_SECONDS})"))


def _outcomes(file: str, names: list[str]) -> dict[str, str]:
    """How each of the tests ends without the write to *file*: "passed", or else."""
    original = Path(str((kernel.bpf if file == DEVICES else kernel.cgroup).__file__))
    weak = Path("/tmp/weak.py")
    weak.write_text(_weakened(original.read_text(), file))
    subprocess.run(["mount", "--bind", weak, original], check=True)
    report = Path("/tmp/weak.xml")
    words = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *(f"tests/vm/inside/{name}" for name in names)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    subprocess.run(["umount", original], check=True)
    print(f"== without {file}: exit code {done.returncode}\n{done.stdout[-3000:]}", flush=True)
    ended: dict[str, set[str]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # one that fails in its end, too, is there twice
        ended.setdefault(str(case.get("name")), set()).update(child.tag for child in case)
    return {name: _worst(ended.get(name.partition("::")[2], {"not run"})) for name in names}


def _worst(tags: set[str]) -> str:
    return "failure" if "failure" in tags else ", ".join(sorted(tags - {"properties"})) or "passed"


def _weakened(source: str, file: str) -> str:
    """The module with nothing written: the body of the function begins with a return."""
    start = "def set_device_program(" if file == DEVICES else "    def write(self, file: str, value: str) -> None:\n"
    place = source.index(start)
    if file == DEVICES:
        place = source.index(":\n", source.index(") ->", place)) + 2
        return f"{source[:place]}    return\n{source[place:]}"
    place += len(start)
    return f"{source[:place]}        if file == {file!r}:\n            return\n{source[place:]}"


if __name__ == "__main__":
    main()
