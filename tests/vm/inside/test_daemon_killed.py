"""The daemon killed while pods run: by the node's own OOM killer, and by SIGKILL.  The next one finds all again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from tests.support import wait
from tests.support.daemon import Daemon
from tests.support.requires import requires
from tests.vm.inside.conftest import HOG, MIB, Node

pytestmark = requires("controllers memory")

TALK = "i=0; while :; do echo $((i += 1)); sleep 0.1; done"


def by_oom_killer(daemon: Daemon) -> None:
    """Have the kernel look for a process to kill, as when memory is used up (sysrq f); the daemon offers itself."""
    Path(f"/proc/{daemon.pid}/oom_score_adj").write_text("1000")
    before = oom_kills()
    Path("/proc/sysrq-trigger").write_text("f")
    wait.until(lambda: oom_kills() > before, 60, "the kernel to count a kill")


def oom_kills() -> int:
    """How many processes this kernel has killed for want of memory."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def by_signal(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [by_oom_killer, by_signal])
def test_the_next_daemon_finds_all_that_runs_and_what_ended_meanwhile(
    node: Node, daemon: Daemon, kill: Callable[[Daemon], None]
) -> None:
    pod = node.pod()
    talker = node.limited(pod, TALK, memory_limit_in_bytes=50 * MIB)
    killed = node.limited(pod, f"until test -e /tmp/go; do sleep 0.1; done; exec {HOG}", memory_limit_in_bytes=20 * MIB)
    ended = node.limited(pod, "until test -e /tmp/go; do sleep 0.1; done; exit 7", memory_limit_in_bytes=20 * MIB)
    for container in (talker, killed, ended):
        node.start(container)
    roots = {name: init_root(node, pod, name) for name in (killed, ended)}
    wait.until(lambda: len(node.lines(talker)) > 2, 30, "the first lines")
    before = node.status(talker)
    log = Path(before.log_path)

    kill(daemon)
    daemon.reap()
    for root in roots.values():
        (root / "tmp/go").touch()
    written = log.stat().st_size
    wait.until(lambda: log.stat().st_size > written, 30, "the log to go on without a daemon")
    for name in roots:
        wait.until(lambda name=name: not node.cgroup(pod, name).processes(), 60, "a container to end")  # type: ignore[misc]

    daemon.start()
    node.reconnect(daemon)
    assert node.status(talker) == before
    assert node.finish(ended, 30) == 7
    assert node.finish(killed, 30) == 137
    assert [node.status(name).reason for name in (ended, killed)] == ["Error", "OOMKilled"]
    lines = [int(line) for line in node.lines(talker)]
    assert lines == list(range(1, len(lines) + 1))
    assert node.execute(talker, "echo", "here").stdout == b"here\n"
    after = node.limited(pod, "exit 3", memory_limit_in_bytes=20 * MIB)
    node.start(after)
    assert node.finish(after, 30) == 3
    assert {each.id for each in node.call(api.ListContainersRequest()).containers} == {talker, killed, ended, after}


def init_root(node: Node, pod: str, container: str) -> Path:
    """The root of the container's init, seen from outside."""
    (pid,) = wait.until(lambda: [pid for pid in node.cgroup(pod, container).processes() if is_shell(pid)][:1], 30, "its init")
    return Path(f"/proc/{pid}/root")


def is_shell(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "sh\n"
    except OSError:
        return False
