"""A container and the command line that drives it: ours, crun's or runc's, which agree on what is used here."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.oci.bundle import Config, make_rootfs, ordinary
from tests.support import cgroup, wait

DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    output: str
    errors: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI runtime: the words that begin its command line."""

    name: str
    command: tuple[str, ...]

    def call(self, *words: str, directory: Path, root: Path | None = None, environment: dict[str, str] | None = None) -> Done:
        """Run a command of it in *directory*, its containers remembered in *root*.

        Its output goes to files: what a container inherits of them does not keep anybody waiting.
        """
        # Its input is not /dev/null: crun gives what it inherits to the container's user.
        with ExitStack() as files:
            nothing, output, errors = (files.enter_context(tempfile.TemporaryFile(dir=directory)) for _ in range(3))
            command = [*self.command, *(("--root", str(root)) if root else ()), *words]
            done = subprocess.run(
                command,
                cwd=directory,
                stdin=nothing,
                stdout=output,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                timeout=DEADLINE_SECONDS,
                check=False,
            )
            output.seek(0)
            errors.seek(0)
            return Done(done.returncode, output.read().decode(), errors.read().decode())


class Container:
    """A bundle, and the container that a runtime makes of it.  Tests change ``config`` before they create it."""

    def __init__(self, runtime: Runtime, directory: Path, busybox: Path) -> None:
        self.runtime, self.directory = runtime, directory
        self.bundle, self.root = directory / "bundle", directory / "state"
        self.rootfs = self.bundle / "rootfs"
        self.id = f"conformance-{directory.name}"
        make_rootfs(self.rootfs, busybox)
        self.config: Config = ordinary()
        self.config["linux"]["cgroupsPath"] = f"/{self.id}"
        self.pids: list[int] = []

    @property
    def process(self) -> Config:
        process: Config = self.config["process"]
        return process

    @property
    def linux(self) -> Config:
        linux: Config = self.config["linux"]
        return linux

    def save(self) -> None:
        """Write config.json."""
        (self.bundle / "config.json").write_text(json.dumps(self.config))

    def call(self, command: str, *words: str, expect: int | None = 0, **environment: str) -> Done:
        """``COMMAND WORDS... ID``; AssertionError unless it ends with *expect* (None: anything)."""
        done = self.runtime.call(command, *words, root=self.root, directory=self.directory, environment=environment)
        if expect is not None and done.code != expect:
            raise AssertionError(f"{command} ended with {done.code} instead of {expect}: {done.errors or done.output}")
        return done

    def shell(self, *words: str, redirect: str, **environment: str) -> Done:
        """Run a command of the runtime from a shell, which *redirect*s descriptors for it by their numbers."""
        command = shlex.join([*self.runtime.command, "--root", str(self.root), *words])
        script = f"LISTEN_PID=$$ exec {command} {redirect}"
        return Runtime(self.runtime.name, ("/bin/sh", "-c", script)).call(directory=self.directory, environment=environment)

    def run(self, script: str | Sequence[str] | None = None, *flags: str, expect: int | None = 0) -> Done:
        """``run`` it, with the shell's *script* or a program's arguments, to its end."""
        self.set_program(script)
        self.save()
        return self.call("run", "--bundle", str(self.bundle), *flags, self.id, expect=expect)

    def set_program(self, script: str | Sequence[str] | None) -> None:
        """What its process is to do."""
        if script is not None:
            self.process["args"] = ["sh", "-c", script] if isinstance(script, str) else list(script)

    def create(self, script: str | Sequence[str] | None = None, *flags: str, expect: int | None = 0, **more: Any) -> Done:
        """``create`` it."""
        self.set_program(script)
        self.save()
        done = self.call("create", "--bundle", str(self.bundle), *flags, self.id, expect=expect, **more)
        if done.code == 0:
            self.pids.append(self.state()["pid"])
        return done

    def start(self, expect: int | None = 0) -> Done:
        """``start`` it."""
        return self.call("start", self.id, expect=expect)

    def launch(self, script: str | Sequence[str] | None = None, *flags: str, **more: Any) -> None:
        """``create`` and ``start`` it."""
        self.create(script, *flags, **more)
        self.start()

    def state(self) -> Config:
        """What ``state`` says."""
        state: Config = json.loads(self.call("state", self.id).output)
        return state

    def status(self) -> str:
        status: str = self.state()["status"]
        return status

    def exists(self) -> bool:
        """Whether the runtime knows it."""
        return self.call("state", self.id, expect=None).code == 0

    def kill(self, name: str = "KILL", expect: int | None = 0) -> Done:
        """``kill`` it."""
        return self.call("kill", self.id, name, expect=expect)

    def delete(self, *flags: str, expect: int | None = 0) -> Done:
        """``delete`` it."""
        return self.call("delete", *flags, self.id, expect=expect)

    def exec(self, script: str | Sequence[str], *flags: str, expect: int | None = 0) -> Done:
        """``exec`` in it, to the end."""
        words = ["sh", "-c", script] if isinstance(script, str) else script
        return self.call("exec", *flags, self.id, *words, expect=expect)

    def wait(self) -> int:
        """The exit code of its first process, which is our child since the runtime has ended; 128+N for signal N."""
        pid = self.pids[-1]
        wait.until(
            lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG), DEADLINE_SECONDS, "the container's end"
        )
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code if code >= 0 else 128 - code

    def read(self, name: str) -> str:
        """The file *name* of its rootfs."""
        return (self.rootfs / name).read_text()

    def await_file(self, name: str) -> str:
        """The content of the file *name* of its rootfs, once it is there and not empty."""
        return wait.until(lambda: self.read(name) if (self.rootfs / name).exists() else "", 10, f"{name} in the container")

    def clean_up(self) -> None:
        """Remove it, in whatever state it is, and what else was made of the bundle.

        Every process that was exec'd is waited for, also one that the runtime gave up: the first process of a pid
        namespace does not end before.
        """
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait.until(lambda: _all_ended(self.pids), 5, f"the end of processes {self.pids}")
        for name in os.listdir(self.root) if self.root.exists() else ():
            self.call("delete", "--force", name, expect=None)
        if self.runtime.name != "kernelet-oci":  # a peer may leave the cgroup of a container that it has refused: not our matter
            with suppress(OSError):
                (cgroup.ROOT / self.id).rmdir()


def _all_ended(pids: Iterable[int]) -> bool:
    """Reap what has ended; whether none of *pids* is left, which others may have reaped before."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)
