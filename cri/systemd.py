"""What a service tells systemd: sd_notify(3), in our own few lines, and the watchdog that it is answered with.

The watchdog is answered only while the daemon can do its work: its loop is on time, its monitor answers,
its database can be written.  systemd ends a daemon that is silent and starts another; containers run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

#: How often within systemd's patience it is told that all is well.
TURNS = 3
#: A loop that is late by less is merely busy.
LATE_SECONDS = 1.0

log = logging.getLogger(__name__)


class ServiceManager:
    """systemd, when it is the one that started us; otherwise nobody, who is told nothing."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        text = environment.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(text) / 1e6 if is_ours and text.isdigit() else 0.0
        """How long it waits for a sign of life; 0 when it wants none."""

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reading the configuration again")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=stopping; containers run on")

    def status(self, text: str) -> None:
        self._tell(f"STATUS={text}")

    def alive(self, status: str) -> None:
        self._tell("WATCHDOG=1", f"STATUS={status}")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # Whether it hears us is not ours to fail of: it will say so itself, by the watchdog.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as end:
            end.sendto("\n".join(lines).encode(), self._address)


async def watch(manager: ServiceManager, find_faults: Callable[[], list[str]], describe: Callable[[], str]) -> None:
    """Until cancelled, tell *manager* in time that all is well, unless it is not; *find_faults* may block."""
    if not manager.watchdog_seconds:
        return
    # One of its own: the loop's would be waited for at the end, by a daemon that is to stop although a disk hangs.
    thread = ThreadPoolExecutor(1, "health")
    try:
        await _watch(manager, lambda: asyncio.get_running_loop().run_in_executor(thread, find_faults), describe)
    finally:
        thread.shutdown(wait=False)


async def _watch(manager: ServiceManager, look: Callable[[], asyncio.Future[list[str]]], describe: Callable[[], str]) -> None:
    turn = manager.watchdog_seconds / TURNS
    loop = asyncio.get_running_loop()
    looking: asyncio.Future[list[str]] | None = None
    before: list[str] = []
    while True:
        due = loop.time() + turn
        if looking is None:
            looking = look()
            looking.add_done_callback(_retrieve)
        await asyncio.wait([looking], timeout=turn)
        if looking.done():
            faults, looking = _outcome(looking), None
        else:  # it is waited for: a hung disk must not take a thread each time
            faults = [f"looking for faults takes longer than {turn:.0f} s: a disk may hang"]
        await asyncio.sleep(max(0.0, due - loop.time()))
        late = loop.time() - due
        if late > max(turn, LATE_SECONDS):
            faults = [*faults, f"the event loop was {late:.1f} s late"]
        _tell_of(manager, faults, before, describe)
        before = faults


def _outcome(looking: asyncio.Future[list[str]]) -> list[str]:
    try:
        return looking.result()
    except Exception as error:
        log.exception("looking for faults")
        return [f"looking for faults: {error}"]


def _tell_of(manager: ServiceManager, faults: list[str], before: list[str], describe: Callable[[], str]) -> None:
    """Answer the watchdog, or say what is wrong: to the log once, to systemd each time."""
    if faults:
        if faults != before:
            log.error("the watchdog is not answered: %s", "; ".join(faults))
        manager.status(f"not well: {'; '.join(faults)}")
        return
    if before:
        log.info("all is well again")
    manager.alive(describe())


def _retrieve(looking: asyncio.Future[list[str]]) -> None:
    """Look at the outcome, which asyncio would complain about when we end before it."""
    if not looking.cancelled():
        looking.exception()
