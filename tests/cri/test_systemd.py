"""What systemd is told, as it would hear it, and when it is not told that all is well."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cri import systemd
from cri.systemd import ServiceManager

FINE = "WATCHDOG=1\nSTATUS=fine"


@pytest.fixture
def heard() -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """An address as NOTIFY_SOCKET has it, and what has been said there since the last look."""
    with tempfile.TemporaryDirectory(prefix="kl-") as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        path = str(Path(directory) / "notify")
        end.bind(path)
        end.setblocking(False)

        def listen() -> list[str]:
            said = []
            while True:
                try:
                    said.append(end.recv(4096).decode())
                except BlockingIOError:
                    return said

        yield path, listen


def test_each_message_is_what_sd_notify_says(heard: tuple[str, Callable[[], list[str]]]) -> None:
    address, listen = heard
    manager = ServiceManager({"NOTIFY_SOCKET": address})
    before = time.monotonic_ns() // 1000
    manager.ready("serving")
    manager.reloading()
    manager.stopping()
    manager.status("odd")
    manager.alive("even")
    ready, reloading, stopping, odd, even = listen()
    assert ready == "READY=1\nSTATUS=serving"
    assert reloading.splitlines()[0] == "RELOADING=1"
    assert before <= int(reloading.splitlines()[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert stopping == "STOPPING=1\nSTATUS=stopping; containers run on"
    assert (odd, even) == ("STATUS=odd", "WATCHDOG=1\nSTATUS=even")


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0kernelet-test-{os.getpid()}")
        ServiceManager({"NOTIFY_SOCKET": f"@kernelet-test-{os.getpid()}"}).ready("x")
        assert end.recv(100) == b"READY=1\nSTATUS=x"


def test_who_was_not_started_by_systemd_tells_nobody() -> None:
    manager = ServiceManager({})
    manager.ready("serving")
    assert manager.watchdog_seconds == 0
    ServiceManager({"NOTIFY_SOCKET": "/nonexistent/socket"}).ready("serving")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_how_patient_it_is(environment: dict[str, str], seconds: float) -> None:
    assert ServiceManager(environment).watchdog_seconds == seconds


def watched(address: str, find_faults: Callable[[], list[str]], until: Callable[[], bool], *, block: float = 0.0) -> None:
    """Run the watch with a patience of 150 ms until *until*, blocking the loop for *block* seconds once."""
    manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "150000"})

    async def main() -> None:
        task = asyncio.create_task(systemd.watch(manager, find_faults, lambda: "fine"))
        await asyncio.sleep(0)
        time.sleep(block)
        async with asyncio.timeout(10):
            while not until():
                await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(main())


def test_the_watchdog_is_answered_while_all_is_well(heard: tuple[str, Callable[[], list[str]]]) -> None:
    address, listen = heard
    said: list[str] = []
    watched(address, list, lambda: bool(said.extend(listen())) or said.count(FINE) >= 3)
    # A machine that is busy may take longer than 50 ms to look; that is said, and nothing else is.
    assert all(line == FINE or line.startswith("STATUS=not well: looking for faults takes") for line in said)


def test_a_fault_is_said_and_the_watchdog_waits(
    heard: tuple[str, Callable[[], list[str]]], caplog: pytest.LogCaptureFixture
) -> None:
    address, listen = heard
    caplog.set_level(logging.INFO)
    answers = iter([["monitor: gone"], ["monitor: gone"], []])
    said: list[str] = []
    watched(address, lambda: next(answers, []), lambda: bool(said.extend(listen())) or FINE in said)
    assert said.count("STATUS=not well: monitor: gone") == 2 and said[-1] == FINE
    told = [record.getMessage() for record in caplog.records if record.name == "cri.systemd"]
    assert told.count("the watchdog is not answered: monitor: gone") == 1 and told[-1] == "all is well again"


def test_a_look_that_hangs_is_a_fault_and_not_begun_again(heard: tuple[str, Callable[[], list[str]]]) -> None:
    address, listen = heard
    looks, released = [], threading.Event()

    def hang() -> list[str]:
        looks.append(1)
        released.wait(10)
        return []

    said: list[str] = []

    def enough() -> bool:
        said.extend(listen())
        if len(said) == 3:
            assert len(looks) == 1
            released.set()
        return any("WATCHDOG=1" in line for line in said)

    watched(address, hang, enough)
    assert said[0].startswith("STATUS=not well: looking for faults takes longer")


def test_a_look_that_fails_is_a_fault(heard: tuple[str, Callable[[], list[str]]]) -> None:
    address, listen = heard
    said: list[str] = []

    def fail() -> list[str]:
        raise RuntimeError("oops")

    watched(address, fail, lambda: bool(said.extend(listen())) or bool(said))
    assert said[0] == "STATUS=not well: looking for faults: oops"


def test_a_loop_that_was_held_up_is_a_fault(heard: tuple[str, Callable[[], list[str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "LATE_SECONDS", 0.1)
    address, listen = heard
    said: list[str] = []
    watched(address, list, lambda: bool(said.extend(listen())) or FINE in said, block=0.3)
    assert "the event loop was 0." in said[0]
