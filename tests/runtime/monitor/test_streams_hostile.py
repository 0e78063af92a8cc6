"""A container that does strange things to its pipe: it spoils its own log at most, never another's, never the monitor."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.fd import Fd, open_path, pipe
from runtime.monitor import streams
from runtime.monitor.ledger import SLOT_COUNT, Ledger, Slot
from runtime.monitor.log_file import LogFile


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], tuple[streams.PipeToLog, Fd, Path]]]:
    """Pumps that share one scratch pipe, as all of a monitor's do: the pump, the container's end, the log."""
    reader, writer = pipe()
    ledger = Ledger(tmp_path / "ledger")
    opened: list[Fd | LogFile] = [reader, writer]

    def start(name: str) -> tuple[streams.PipeToLog, Fd, Path]:
        source, theirs = pipe()
        log = tmp_path / name
        file = LogFile(open_path(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        opened.extend((source, theirs, file))
        return streams.PipeToLog(source, 1, file, ledger.slot(name, 1), (reader, writer)), theirs, log

    yield start
    for file in opened:
        file.close()
    ledger._memory.close()


def contents(log: Path) -> list[bytes]:
    return [line.split(b" ", 3)[3] for line in log.read_bytes().splitlines()]


Make = Callable[[str], tuple[streams.PipeToLog, Fd, Path]]


def test_packets_of_one_container_do_not_come_out_in_the_log_of_another(make: Make) -> None:
    evil, evil_end, evil_log = make("evil")
    good, good_end, good_log = make("good")
    fcntl.fcntl(evil_end.fileno(), fcntl.F_SETFL, os.O_DIRECT)
    for number in range(5):
        os.write(evil_end.fileno(), b"forged line %d\n" % number)
    os.write(good_end.fileno(), b"honest\n")
    assert evil.pump()
    assert good.pump()
    os.write(good_end.fileno(), b"honest again\n")
    assert good.pump()
    assert contents(good_log) == [b"honest", b"honest again"]
    assert contents(evil_log) == [b"forged line %d" % number for number in range(5)]


def test_output_that_the_container_reads_itself_between_look_and_take(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pump, end, log = make("thief")
    original = Slot.take
    steal = [100]

    def thief(slot: Slot, number: int, count: int) -> None:
        if steal:
            os.read(pump.source.fileno(), steal.pop())
        original(slot, number, count)

    monkeypatch.setattr(Slot, "take", thief)
    os.write(end.fileno(), b"all of it\n")
    assert pump.pump()
    steal.append(4)
    os.write(end.fileno(), b"one\ntwo\n")
    assert pump.pump()
    os.write(end.fileno(), b"three\n")
    assert pump.pump()
    assert contents(log) == [b"all of it", b"one", b"two", b"three"]


def test_a_small_pipe_works(make: Make) -> None:
    pump, end, log = make("small")
    fcntl.fcntl(end.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(end.fileno(), False)
    for _ in range(20):
        os.write(end.fileno(), b"y" * 4000)
        pump.pump(flush=True)
    assert sum(map(len, contents(log))) == 80_000


def test_the_end_is_seen_by_whoever_drains(make: Make) -> None:
    pump, end, log = make("ended")
    os.write(end.fileno(), b"last words")
    end.close()
    pump.drain()
    assert contents(log) == [b"last words"]
    assert not pump.pump()


def test_a_full_ledger_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for number in range(SLOT_COUNT):
        ledger._memory[number * 128 + 40] = 1
    with pytest.raises(OSError, match="8192 streams at most"):
        ledger.slot("one more", 1)
