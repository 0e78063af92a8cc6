"""The same for ``kernelet-oci``: its command line, in a forked process, whose streams become the container's.

Forked rather than started, because an interpreter takes longer to start than a container; what its start itself
must withstand is in ``test_environment``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Self

from kernel.fd import Fd, memory, open_path
from runtime.oci.command import main
from tests.safety.bundle import Bundle
from tests.safety.engine import OUTPUT_LIMIT, Refused, Result

CRASHED = 99

_numbers = itertools.count(1)


class Oci:
    """Runs bundles by ``kernelet-oci``, remembering containers below *directory*."""

    name = "kernelet-oci"

    def __init__(self, directory: Path) -> None:
        self.root = directory / "state"

    def call(self, *words: str, streams: Fd | None = None, seconds: float = 60) -> Result:
        """What one command line says and exits with.  AssertionError if it crashed."""
        code, said = self.end(self.begin(*words, streams=streams), seconds)
        assert code != CRASHED, f"kernelet-oci {' '.join(words)}: {said}"
        assert "a fault of kernelet-oci itself" not in said, said
        return Result("", code, said)

    def begin(self, *words: str, streams: Fd | None = None) -> tuple[int, Fd]:
        """A process that is one command line, and what it writes to; for ``end``."""
        output = memory("output", b"", seal=False) if streams is None else streams.duplicate()
        pid = os.fork()
        if pid == 0:
            _be_the_command(["--root", str(self.root), *words], output)
        return pid, output

    def end(self, process: tuple[int, Fd], seconds: float = 60) -> tuple[int, str]:
        """Its exit code and what it said."""
        pid, output = process
        with output:
            code = os.waitstatus_to_exitcode(_wait(pid, seconds))
            return code, os.pread(output.fileno(), OUTPUT_LIMIT, 0).decode(errors="replace")

    def names(self) -> list[str]:
        """The containers that are remembered."""
        return sorted(os.listdir(self.root)) if self.root.is_dir() else []

    def create(self, bundle: Bundle) -> OciContainer:
        """The container of *bundle*, created.  Raises Refused."""
        bundle.write()
        return self.create_written(bundle)

    def create_written(self, bundle: Bundle) -> OciContainer:
        """As ``create``, with the config.json that is there."""
        name = f"safety-{next(_numbers)}"
        with memory("streams", b"", seal=False) as streams:
            result = self.call("create", "--bundle", str(bundle.directory), name, streams=streams)
            if result.code:
                raise Refused(result.output.removeprefix("kernelet-oci: ").strip())
            return OciContainer(self, bundle, name, streams.duplicate())

    def run(self, bundle: Bundle) -> Result:
        """Create, start, and wait for the end."""
        try:
            with self.create(bundle) as container:
                container.start()
                return container.finish()
        except Refused as refusal:
            return Result(str(refusal), None, "")


class OciContainer:
    """A created container; leaving it as a context deletes it."""

    def __init__(self, engine: Oci, bundle: Bundle, name: str, streams: Fd) -> None:
        self.engine, self.bundle, self.name, self._streams = engine, bundle, name, streams
        self.pid = int(self.state()["pid"])

    def state(self) -> dict[str, str]:
        import json

        answer = self.engine.call("state", self.name)
        assert answer.code == 0, answer
        found: dict[str, str] = json.loads(answer.output)
        return found

    def start(self) -> None:
        result = self.engine.call("start", self.name)
        if result.code:
            raise Refused(result.output.strip())

    def finish(self, seconds: float = 20) -> Result:
        """How it ended: its process has become ours by now, for its parent is gone and we adopt orphans."""
        code = os.waitstatus_to_exitcode(_wait(self.pid, seconds))
        said = os.pread(self._streams.fileno(), OUTPUT_LIMIT, 0).decode(errors="replace")
        return Result("", code if code >= 0 else 128 - code, said)

    def said(self) -> str:
        """What it has written so far."""
        return os.pread(self._streams.fileno(), OUTPUT_LIMIT, 0).decode(errors="replace")

    def execute(self, *arguments: str, flags: tuple[str, ...] = ()) -> Result:
        """Run *arguments* in it."""
        result = self.engine.call("exec", *flags, self.name, *arguments)
        if result.code and result.output.startswith("kernelet-oci: "):
            return Result(result.output.strip(), None, "")
        return result

    def close(self) -> None:
        self._streams.close()
        answer = self.engine.call("delete", "--force", self.name)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        assert answer.code == 0, answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _wait(pid: int, seconds: float) -> int:
    """The wait status of our child *pid*; killed, and AssertionError, when it takes too long."""
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"process {pid} has not ended in {seconds} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.01)


def _be_the_command(words: list[str], streams: Fd) -> None:
    code = CRASHED
    try:
        with open_path(os.devnull) as null:
            os.dup2(null.fileno(), 0)
        os.dup2(streams.fileno(), 1)
        os.dup2(streams.fileno(), 2)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        code = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
