"""Run a function in a forked child with namespaces of its own, and bring back its result or its exception.

A test that changes what only a process can change (namespaces, credentials, limits, filters) does it
there.  The child ends in ``os._exit``: nothing of pytest runs in it but the function.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn, TypeVar

from kernel import mount
from kernel._linux import lib
from kernel.errors import check
from kernel.fd import Fd
from tests.support.isolation import bring_loopback_up

T = TypeVar("T")

NAMESPACES = {
    "mount": lib.CLONE_NEWNS,
    "network": lib.CLONE_NEWNET,
    "pid": lib.CLONE_NEWPID,
    "ipc": lib.CLONE_NEWIPC,
    "uts": lib.CLONE_NEWUTS,
    "user": lib.CLONE_NEWUSER,
    "cgroup": lib.CLONE_NEWCGROUP,
    "time": lib.CLONE_NEWTIME,
}


def run(function: Callable[[], T], *, namespaces: Collection[str] = (), deadline_seconds: float = 20.0) -> T:
    """What *function* returns in a child with new *namespaces* (keys of ``NAMESPACES``).

    Its exception is raised here, with the child's traceback in a note; both travel by pickle.  Mounts
    are private, loopback is up, a new user namespace maps every id to itself, and with "pid" the function
    is process 1.  AssertionError when the child ends without an answer, or is killed because the deadline
    has passed: its stack is then on stderr.
    """
    flags = [NAMESPACES[name] for name in namespaces]
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = socket.socketpair()
    with ours:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _be_the_child(theirs, function, sum(flags), deadline_seconds)
        theirs.close()
        with Fd(os.pidfd_open(pid)) as pidfd:
            try:
                succeeded, value = pickle.loads(_answer(ours, pidfd, pid, time.monotonic() + deadline_seconds))
            finally:
                signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
                os.waitpid(pid, 0)
    if succeeded:
        return value  # type: ignore[no-any-return]
    raise value


def _answer(channel: socket.socket, pidfd: Fd, pid: int, end: float) -> bytes:
    """The child's pickle, after its user namespace was mapped if it asked for that."""
    talks, ended = channel.fileno(), pidfd.fileno()
    received = b""
    while True:
        ready, _, _ = select.select([talks, ended], [], [], max(0.0, end - time.monotonic()))
        if talks in ready and (piece := channel.recv(1 << 20)):
            received += piece
            if received[:1] == b"U":
                _map_every_id(pid)
                channel.send(b"U")
                received = received[1:]
            if len(received) >= 9 and len(received) == 9 + int.from_bytes(received[1:9], "big"):
                return received[9:]
        elif ready:
            status = os.waitid(os.P_PIDFD, ended, os.WEXITED | os.WNOWAIT)
            raise AssertionError(f"the child ended without an answer: {status}")
        else:
            where = Path(f"/proc/{pid}/wchan").read_text() or "user space"
            raise AssertionError(f"the child did not answer in time (kernel function: {where}; its stack is on stderr)")


def _map_every_id(pid: int) -> None:
    for kind in ("uid", "gid"):
        Path(f"/proc/{pid}/{kind}_map").write_text("0 0 4294967295")


def _be_the_child(channel: socket.socket, function: Callable[[], object], flags: int, deadline_seconds: float) -> NoReturn:
    try:
        check(lib.prctl(lib.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        _enter(channel, flags)
        # Not a thread, which would forbid unshare(CLONE_NEWUSER): a timer whose C handler prints the stack.
        faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=False)
        signal.setitimer(signal.ITIMER_REAL, deadline_seconds * 0.8)
        answer = (True, function())
        payload = pickle.dumps(answer)
    except BaseException as error:
        payload = _pickled_failure(error)
    channel.sendall(b"A" + len(payload).to_bytes(8, "big") + payload)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _enter(channel: socket.socket, flags: int) -> None:
    if not flags:
        return
    check(lib.unshare(flags), "unshare")
    if flags & lib.CLONE_NEWUSER:
        channel.sendall(b"U")
        channel.recv(1)
    if flags & (lib.CLONE_NEWPID | lib.CLONE_NEWTIME):  # these two are for children only
        _continue_in_a_grandchild()
    if flags & lib.CLONE_NEWNS:
        mount.set_propagation("/", "private", recursive=True)
        if flags & lib.CLONE_NEWPID:
            with mount.new_filesystem("proc") as proc:
                mount.attach(proc, "/proc")
    if flags & lib.CLONE_NEWNET:
        bring_loopback_up()


def _continue_in_a_grandchild() -> None:
    pid = os.fork()
    if pid == 0:
        check(lib.prctl(lib.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        return
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _pickled_failure(error: BaseException) -> bytes:
    error.add_note("in the child:\n" + "".join(traceback.format_exception(error)))
    try:
        payload = pickle.dumps((False, error))
        pickle.loads(payload)
    except Exception as reason:
        plain = RuntimeError(f"{type(error).__name__}: {error} (cannot be pickled: {reason})")
        plain.__notes__ = error.__notes__
        payload = pickle.dumps((False, plain))
    return payload
