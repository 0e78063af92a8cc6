"""Who kills whom in ``test_chaos``: the daemon and the monitor, alone or together, in the middle of their work or of a start."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from tests.support import wait
from tests.support.daemon import Daemon

#: What a start of the daemon takes on a machine that does nothing else; one that is to be met in the middle is met here.
START_SECONDS = 0.5


def storm(daemon: Daemon, chance: random.Random, seconds: float) -> list[str]:
    """Kill one or the other for that long; in the end both are there.  What was done, in order."""
    done: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.uniform(0, 0.5))
        act = chance.choice(ACTS)
        done.append(act.__name__)
        act(daemon, chance)
    return done


def kill_daemon(daemon: Daemon, _chance: random.Random) -> None:
    daemon.kill()
    daemon.start()


def kill_monitor(daemon: Daemon, _chance: random.Random) -> None:
    with suppress(AssertionError, ProcessLookupError):
        os.kill(daemon.monitor_pid(), signal.SIGKILL)


def kill_both(daemon: Daemon, chance: random.Random) -> None:
    daemon.kill()
    kill_monitor(daemon, chance)
    time.sleep(chance.uniform(0, 0.1))
    daemon.start()


def stop_daemon(daemon: Daemon, _chance: random.Random) -> None:
    assert daemon.stop() == 0, daemon.log.read_text()[-3000:]
    daemon.start()


def kill_while_it_starts(daemon: Daemon, chance: random.Random) -> None:
    """Some times over, with the monitor or without."""
    daemon.kill()
    for _ in range(chance.randint(1, 3)):
        daemon.begin()
        time.sleep(chance.uniform(0, START_SECONDS))
        daemon.kill()
        if chance.random() < 0.5:
            kill_monitor(daemon, chance)
    daemon.start()


def kill_the_monitor_of_one_that_starts(daemon: Daemon, chance: random.Random) -> None:
    """It comes up all the same."""
    daemon.kill()
    daemon.begin()
    time.sleep(chance.uniform(0, START_SECONDS))
    kill_monitor(daemon, chance)
    daemon.arrive()


def start_two(daemon: Daemon, chance: random.Random) -> None:
    """One of them serves; the other says why it does not."""
    daemon.kill()
    daemon.begin()
    time.sleep(chance.choice([0, chance.uniform(0, START_SECONDS)]))
    other = daemon.another()
    wait.until(lambda: other.poll() is not None or daemon.has_ended(), 60, "one of two daemons to give way")
    if daemon.has_ended():
        daemon.replace(other)
    daemon.arrive()
    assert other.poll() in (None, 1)


ACTS: tuple[Callable[[Daemon, random.Random], None], ...] = (
    *(kill_daemon, kill_monitor, kill_both, stop_daemon),
    *(kill_while_it_starts, kill_the_monitor_of_one_that_starts, start_two),
)
