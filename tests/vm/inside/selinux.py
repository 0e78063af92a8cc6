"""``python -m tests.vm.inside.selinux``: compile selinux.cil, load it, and have the kernel enforce it; there is no way back."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

SELINUX = Path("/sys/fs/selinux")
POLICY = Path(__file__).with_name("selinux.cil")
CATEGORIES = 1024


def main() -> None:
    if not (SELINUX / "load").exists():
        subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", SELINUX], check=True)
    names = [f"c{number}" for number in range(CATEGORIES)]
    listed = "".join(f"(category {name})" for name in names) + f"(categoryorder ({' '.join(names)}))"
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "policy.cil").write_text(POLICY.read_text().replace("@CATEGORIES@", listed))
        command = ["secilc", "-M", "1", "-c", "33", "-o", "policy", "-f", "/dev/null", "policy.cil"]
        subprocess.run(command, cwd=directory, check=True)
        with open(SELINUX / "load", "wb", buffering=0) as target:
            target.write(Path(directory, "policy").read_bytes())
    (SELINUX / "enforce").write_text("1")


if __name__ == "__main__":
    main()
