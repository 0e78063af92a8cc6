"""``kernelet-oci`` driven from outside, with a bundle of busybox: every command is a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runtime.oci
from runtime.oci.spec import example
from tests.support.image import BUSYBOX, GROUP, PASSWD, applets

Config = dict[str, Any]

#: As scripts/kernelet-oci starts it: without site, and so with what stands in for slow modules.
MAIN = Path(runtime.oci.__file__).with_name("__main__.py")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Containers remembered in *root*, made from *bundle*."""

    root: Path
    bundle: Path

    def words(self, *words: str) -> list[str]:
        """The command that ``call`` runs."""
        return [sys.executable, "-I", "-S", str(MAIN), "--root", str(self.root), *words]

    def call(self, *words: str, given: str = "", may_fail: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, in the bundle, with *given* on stdin; AssertionError with what it said if it fails."""
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
            # Files, not pipes: a container that goes on holds its streams, and nobody waits for the end of a file.
            code = subprocess.run(
                self.words(*words),
                check=False,
                **({"input": given} if given else {"stdin": subprocess.DEVNULL}),
                stdout=said,
                stderr=complained,
                text=True,
                cwd=self.bundle,
                env=environment(),
                timeout=60,
            ).returncode
            said.seek(0)
            complained.seek(0)
            done = subprocess.CompletedProcess(words, code, said.read(), complained.read())
        assert may_fail or done.returncode == 0, f"{words}: exit code {done.returncode}: {done.stderr}"
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command that lasts."""
        return subprocess.Popen(self.words(*words), stdout=subprocess.PIPE, text=True, cwd=self.bundle, env=environment())

    def refusal(self, *words: str, given: str = "") -> str:
        """What a command says that must fail."""
        done = self.call(*words, given=given, may_fail=True)
        assert done.returncode == 1, f"{words}: exit code {done.returncode}: {done.stderr}"
        return done.stderr

    def configure(self, *arguments: str, change: Callable[[Config], object] = lambda config: None) -> None:
        """Write config.json anew: *arguments* to run, without a terminal, and then what *change* does to it."""
        config = example()
        config["process"].update(terminal=False, args=list(arguments))
        config["root"]["readonly"] = False
        change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))

    def state(self, container_id: str) -> dict[str, Any]:
        """What ``state`` answers."""
        answer: dict[str, Any] = json.loads(self.call("state", container_id).stdout)
        return answer

    def delete_all(self) -> None:
        """End and forget every container."""
        for name in os.listdir(self.root) if self.root.is_dir() else ():
            self.call("delete", "--force", name, may_fail=True)


def environment() -> dict[str, str]:
    """What a caller of the command line has: this tree to import from, and PATH."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "LANG": "C.UTF-8"}


def make_bundle(directory: Path) -> None:
    """A root file system of busybox in the new *directory*."""
    rootfs = directory / "rootfs"
    for name in ("bin", "sbin", "usr/bin", "usr/sbin", "dev", "etc", "proc", "root", "run", "sys", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, rootfs / "bin/busybox")
    for name in applets():
        os.link(rootfs / "bin/busybox", rootfs / name)
    (rootfs / "etc/passwd").write_text(PASSWD)
    (rootfs / "etc/group").write_text(GROUP)
