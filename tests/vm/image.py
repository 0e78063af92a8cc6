"""What a guest is booted from, built once: kernels and a Debian root (``debian.py``), and our wheel (``code_disk.py``).

Each is in a directory named for a digest of all that goes into it.  Building needs the network, which a test run does not
have: ``python -m tests.vm`` builds, tests only look.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.requires import TREE
from tests.vm import apt, code_disk, debian

CACHE = TREE / "build/vm"


@dataclass(frozen=True, slots=True)
class Image:
    """The two directories that a guest is booted from."""

    debian: Path
    code: Path

    @property
    def root_disk(self) -> Path:
        return self.debian / "root.ext4"

    @property
    def code_disk(self) -> Path:
        return self.code / "code.ext4"

    def kernel(self, name: str) -> Path:
        return self.debian / name / "vmlinuz"

    def initramfs(self, name: str) -> Path:
        return self.debian / name / "initramfs"


def find() -> Image:
    """The image of this very source, and of the Debian packages that were the newest when it was built.

    LookupError when it is not built.
    """
    for name in (f"debian-{debian.identify_recipe()}-*", f"code-{code_disk.identify()}"):
        if not list(CACHE.glob(name)):
            raise LookupError(f"open the guests' image: {CACHE / name} is not built: run make test-vm, or python -m tests.vm")
    (root,) = CACHE.glob(f"debian-{debian.identify_recipe()}-*")
    return Image(root, CACHE / f"code-{code_disk.identify()}")


def build() -> Image:
    """The same, built if need be, of packages that apt was asked for lately; older ones are removed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for suite in sorted({kernel.suite for kernel in debian.KERNELS.values()} - {""}):
        apt.update(suite)
    image = Image(
        CACHE / f"debian-{debian.identify_recipe()}-{debian.identify_packages()}", CACHE / f"code-{code_disk.identify()}"
    )
    wheels = CACHE / f"wheels-{code_disk.identify_wheels()}"
    _build_once(image.debian, debian.build)
    _build_once(wheels, code_disk.build_wheels)
    _build_once(image.code, lambda made, work: code_disk.build(made, work, wheels))
    return image


def _build_once(wanted: Path, make: Callable[[Path, Path], None]) -> None:
    """Have *make* fill *wanted*, in one step: a build that was broken off leaves nothing that looks whole."""
    if wanted.is_dir():
        return
    print(f"set-up: build {wanted.relative_to(TREE)}", flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-") as work:
        os.chmod(work, 0o755)
        made = Path(work, "made")
        made.mkdir()
        make(made, Path(work))
        made.rename(wanted)
    kind = wanted.name.split("-")[0]
    for old in CACHE.glob(f"{kind}-*"):
        if old != wanted:
            shutil.rmtree(old)
