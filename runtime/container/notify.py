"""The listener of a system call filter: taken from the new process, and sent to whoever answers the calls that wait.

```
    init: seccomp(NEW_LISTENER) = 8 ── in the report ──> us ── pidfd_getfd(8) ── SCM_RIGHTS, with the state ──> listenerPath
```

That happens while the process waits before its execve, so that no call of the program's meets a listener that nobody
has.  The descriptor in the process ends at execve.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

import msgspec

from kernel.fd import Fd, take_from
from kernel.process import open_pidfd
from kernel.program import Program
from kernel.report import read_report
from runtime.container.filter import LISTENER, needs_listener
from runtime.errors import StartFailed
from runtime.spec import schema

#: How long the agent may take to accept, and to read some hundred bytes.
AGENT_SECONDS = 10


class _ProcessState(schema.Model):
    """runtime-spec's container process state: what an agent reads with the descriptor."""

    oci_version: str
    fds: list[str]
    pid: int
    state: schema.State
    metadata: str = ""


def hand_over(program: Program, report: Fd, profile: schema.Seccomp | None, state: schema.State) -> None:
    """Send the listener that *program*'s new process has got, if it has, to *profile*'s listenerPath, with *state*.

    *report* is the program's, which has come to its last wait.  Raises StartFailed when nobody takes it.
    """
    index = next((index for index, step in enumerate(program.steps) if step.store == LISTENER), None)
    if index is None or profile is None:
        return
    outcome = read_report(report, len(program.all_steps))
    with open_pidfd(outcome.pid) as pidfd, take_from(pidfd, outcome.results[index]) as listener:
        try:
            send(listener, profile, state, outcome.pid)
        except StartFailed:
            if needs_listener(profile):
                raise


def send(listener: Fd, profile: schema.Seccomp, state: schema.State, pid: int) -> None:
    """One connection, one message, one descriptor, as runtime-spec has it.  Raises StartFailed naming the path."""
    message = msgspec.json.encode(
        _ProcessState(oci_version=state.oci_version, fds=["seccompFd"], pid=pid, metadata=profile.listener_metadata, state=state)
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        # Not settimeout(), which makes connect() not wait at all for an agent that is busy (EAGAIN).
        agent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@qq", AGENT_SECONDS, 0))
        try:
            agent.connect(os.fsencode(profile.listener_path))
            sent = socket.send_fds(agent, [message], [listener.fileno()])
            if sent < len(message):  # to send nothing to an agent that has read all, and closed, is an error
                agent.sendall(message[sent:])
        except OSError as error:
            is_late = error.errno == errno.EAGAIN
            reason = f"not heard in {AGENT_SECONDS} s" if is_late else (error.strerror or str(error)).lower()
            raise StartFailed(
                f"failed to connect with seccomp agent: {reason}; is it running at {profile.listener_path}, "
                "which linux.seccomp.listenerPath names?"
            ) from error
