"""CNI plugins as programs: start one, hand it its configuration, read what it answers (CNI specification, section 2).

They are the one kind of program besides hooks that the daemon starts itself: by posix_spawn(3), in a process group
of its own.  Standard streams are files in memory, so that nobody waits for the end of an output that a process left
behind holds open.  A plugin that is not done in time is killed with all of its process group.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.fd import Fd, memory
from kernel.process import open_pidfd, send_signal
from runtime.errors import NetworkFailed

#: What is read of a plugin's answer, and kept of what it said on standard error for people.
ANSWER_LIMIT_BYTES, WORDS_LIMIT_BYTES = 4 << 20, 2048
#: Of our own environment these are between us and who started us.
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: Plugins use others' programs (iptables); a daemon's PATH may not have where administrators' ones are.
_TOOLS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")
#: Standard streams are put in place from above them.
ABOVE = 3

#: The specification's error codes, for people; from 100 on they are a plugin's own.
MEANINGS = {
    1: "incompatible CNI version",
    2: "unsupported field in the configuration",
    3: "unknown container",
    4: "invalid environment",
    5: "failed to read",
    6: "failed to decode",
    7: "invalid configuration",
    11: "try again later",
    50: "the plugin is not available",
    51: "the plugin is not available, and existing containers may have limited connectivity",
}


@dataclass(frozen=True, slots=True)
class Programs:
    """Where plugins are looked for."""

    directories: Sequence[Path]

    def find(self, kind: str) -> Path:
        """The program of a plugin.  Raises NetworkFailed, naming where it was looked for."""
        for directory in self.directories:
            path = directory / kind
            if os.access(path, os.X_OK) and path.is_file():
                return path
        places = ", ".join(map(str, self.directories))
        raise NetworkFailed(f"CNI plugin {kind}: there is no such program in {places}; install it there")

    def run(self, command: str, kind: str, variables: Mapping[str, str], document: bytes, deadline: float) -> Any:
        """What the plugin answers, as JSON says it; None when it says nothing.

        *deadline* is of time.monotonic().  Raises NetworkFailed with the plugin's own code, message and details.
        """
        path = self.find(kind)
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        environment["PATH"] = ":".join(filter(None, [environment.get("PATH"), *_TOOLS]))
        environment |= {"CNI_COMMAND": command, "CNI_PATH": ":".join(map(str, self.directories)), **variables}
        begun = time.monotonic()
        with memory("in", document) as told, memory("out", b"", seal=False) as said, memory("err", b"", seal=False) as words:
            os.lseek(told.fileno(), 0, os.SEEK_SET)
            status = _execute(path, environment, (told, said, words), deadline)
            answer = os.pread(said.fileno(), ANSWER_LIMIT_BYTES, 0)
            complaint = os.pread(words.fileno(), WORDS_LIMIT_BYTES, 0)
        what = f"CNI plugin {kind} ({command})"
        if status is None:
            raise NetworkFailed(f"{what}: not done after {time.monotonic() - begun:.0f} s, killed{_add(complaint)}")
        if status != 0:
            raise _failure(what, status, answer, complaint)
        return _answer(what, answer)


def _execute(path: Path, environment: Mapping[str, str], streams: Sequence[Fd], deadline: float) -> int | None:
    """Run the program to its end: its exit code, or minus the signal that ended it; None when its time was over."""
    lifted = [stream.duplicate(ABOVE) for stream in streams]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, stream.fileno(), number) for number, stream in enumerate(lifted)]
        everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        pid = os.posix_spawn(
            path, [os.fspath(path)], environment, file_actions=actions, setpgroup=0, setsigdef=everything, setsigmask=()
        )
    except OSError as error:
        raise NetworkFailed(f"CNI plugin {path}: cannot be executed: {(error.strerror or str(error)).lower()}") from error
    finally:
        for stream in lifted:
            stream.close()
    with open_pidfd(pid) as pidfd:
        try:
            is_done = _wait(pidfd, deadline)
        except BaseException:
            _kill(pid, pidfd)
            raise
        if not is_done:
            _kill(pid, pidfd)
            return None
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _wait(pidfd: Fd, deadline: float) -> bool:
    poll = select.poll()
    poll.register(pidfd.fileno(), select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _kill(pid: int, pidfd: Fd) -> None:
    """End the plugin and all of its process group (a plugin runs others, for addresses say), and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    send_signal(pidfd, signal.SIGKILL)
    os.waitpid(pid, 0)


def _failure(what: str, status: int, answer: bytes, complaint: bytes) -> NetworkFailed:
    how = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
    try:
        error = json.loads(answer)
        code, message, details = int(error["code"]), str(error.get("msg", "")), str(error.get("details", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return NetworkFailed(f"{what}: failed ({how}) and did not say why{_add(answer[:WORDS_LIMIT_BYTES])}{_add(complaint)}")
    meaning = MEANINGS.get(code)
    told = ": ".join(part.strip() for part in (message, details) if part.strip()) or "no message"
    return NetworkFailed(f"{what}: {told} (code {code}{f', {meaning}' if meaning else ''})", code)


def _answer(what: str, answer: bytes) -> Any:
    if not answer.strip():
        return None
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise NetworkFailed(f"{what}: its answer is not JSON: {error}{_add(answer[:WORDS_LIMIT_BYTES])}") from None


def _add(words: bytes) -> str:
    text = words.decode(errors="backslashreplace").strip()
    return f": {text}" if text else ""
