"""A kill at any point between two lines of the pump neither loses nor repeats a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.fd import Fd, open_path, pipe
from runtime.monitor import streams
from runtime.monitor.ledger import Ledger, Slot


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is run by this pump."""


@pytest.fixture
def scratch() -> Iterator[tuple[Fd, Fd]]:
    reader, writer = pipe()
    with reader, writer:
        yield reader, writer


def contents(log: Path) -> list[bytes]:
    return [line.split(b" ", 3)[3] for line in log.read_bytes().splitlines()]


def make_pump(log: Path, source: Fd, slot: Slot, scratch: tuple[Fd, Fd]) -> streams.PipeToLog:
    file = streams.LogFile(open_path(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    return streams.PipeToLog(source, 1, file, slot, scratch)


def killed_in(owner: object, name: str, *, before: bool) -> Callable[..., object]:
    original = getattr(owner, name)

    def dies(*arguments: object) -> object:
        if not before:
            original(*arguments)
        raise Killed

    return dies


POINTS = [
    (Slot, "begin", True),
    (Slot, "begin", False),
    (streams.LogFile, "append", True),
    (streams.LogFile, "append", False),
    (Slot, "wrote", True),
    (Slot, "wrote", False),
    (Slot, "take", True),
    (Slot, "take", False),
    (Slot, "done", True),
    (Slot, "done", False),
]


@pytest.mark.parametrize(("owner", "name", "before"), POINTS, ids=[f"{'before' if b else 'after'}-{n}" for _, n, b in POINTS])
def test_a_kill_at_any_point_loses_and_repeats_nothing(
    tmp_path: Path, scratch: tuple[Fd, Fd], monkeypatch: pytest.MonkeyPatch, owner: type, name: str, before: bool
) -> None:
    source, writer = pipe()
    log, ledger_file = tmp_path / "log", tmp_path / "ledger"
    pump = make_pump(log, source.duplicate(), Ledger(ledger_file).slot("c" * 64, 1), scratch)
    os.write(writer.fileno(), b"one\ntwo\n")
    pump.drain()
    os.write(writer.fileno(), b"three\nfour\n")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed_in(owner, name, before=before))
        with pytest.raises(Killed):
            pump.drain()
    os.write(writer.fileno(), b"five\n")
    successor = make_pump(log, source, Ledger(ledger_file).slot("c" * 64, 1), scratch)
    successor.recover()
    successor.drain()
    writer.close()
    assert contents(log) == [b"one", b"two", b"three", b"four", b"five"]
    assert not successor.pump()
    for each in (pump, successor):
        each._file.close()
        each.close()


def test_half_an_entry_in_the_log_is_cut_off_before_it_is_written_again(
    tmp_path: Path, scratch: tuple[Fd, Fd], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, writer = pipe()
    log, slot = tmp_path / "log", Ledger(tmp_path / "ledger").slot("c" * 64, 1)
    pump = make_pump(log, source.duplicate(), slot, scratch)
    os.write(writer.fileno(), b"three\nfour\n")

    def half(self: streams.LogFile, content: bytes) -> None:
        assert self._file is not None
        os.write(self._file.fileno(), content[: len(content) // 2])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(streams.LogFile, "append", half)
        with pytest.raises(Killed):
            pump.drain()
    successor = make_pump(log, source, slot, scratch)
    successor.recover()
    successor.drain()
    assert contents(log) == [b"three", b"four"]
    writer.close()
    for each in (pump, successor):
        each._file.close()
        each.close()


def test_a_line_in_pieces_becomes_one_entry_and_a_prompt_is_still_seen(tmp_path: Path, scratch: tuple[Fd, Fd]) -> None:
    source, writer = pipe()
    log = tmp_path / "log"
    pump = make_pump(log, source, Ledger(tmp_path / "ledger").slot("c" * 64, 1), scratch)
    os.write(writer.fileno(), b"one\nsh: ")
    assert pump.pump()
    assert pump.holding_since is not None
    os.write(writer.fileno(), b"can't\nprompt> ")
    assert pump.pump()
    assert contents(log) == [b"one", b"sh: can't"]
    assert pump.pump(flush=True)
    assert pump.holding_since is None
    assert log.read_bytes().splitlines()[-1].endswith(b" P prompt> ")
    writer.close()
    assert not pump.pump()
    pump._file.close()
    pump.close()


def test_lines_longer_than_a_batch_and_short_ones_come_through_whole(tmp_path: Path, scratch: tuple[Fd, Fd]) -> None:
    source, writer = pipe()
    log = tmp_path / "log"
    pump = make_pump(log, source, Ledger(tmp_path / "ledger").slot("c" * 64, 1), scratch)
    lines = [b"%05d " % number + b"x" * (150_000 if number % 500 == 7 else 100) for number in range(2000)]
    os.set_blocking(writer.fileno(), False)
    left = memoryview(b"".join(line + b"\n" for line in lines))
    while left:
        try:
            left = left[os.write(writer.fileno(), left) :]
        except BlockingIOError:
            assert pump.pump()
    pump.drain()
    entries = [line.split(b" ", 3)[2:] for line in log.read_bytes().splitlines()]
    assert b"".join(text + (b"\n" if tag == b"F" else b"") for tag, text in entries) == b"".join(line + b"\n" for line in lines)
    assert all(len(text) <= 16384 for _, text in entries)
    writer.close()
    pump._file.close()
    pump.close()


def test_a_full_disk_does_not_stop_the_writer(scratch: tuple[Fd, Fd], tmp_path: Path) -> None:
    source, writer = pipe()
    file = streams.LogFile(open_path("/dev/full", os.O_WRONLY))
    pump = streams.PipeToLog(source, 1, file, Ledger(tmp_path / "ledger").slot("c" * 64, 1), scratch)
    os.write(writer.fileno(), b"lost\n")
    pump.drain()
    assert file.lost_bytes > 0
    os.write(writer.fileno(), b"lost too\n")
    pump.drain()
    writer.close()
    assert not pump.pump()
    file.close()
    pump.close()


def test_captured_output_ends_at_its_limit_and_the_writer_goes_on() -> None:
    from kernel.fd import memory

    source, writer = pipe()
    with memory("out", b"", seal=False) as target:
        stream = streams.capture(source, target, 10)
        os.write(writer.fileno(), b"0123456789abcdef")
        stream.drain()
        os.write(writer.fileno(), b"more")
        stream.drain()
        assert os.pread(target.fileno(), 100, 0) == b"0123456789"
    writer.close()
    stream.close()


def test_slots_are_found_again_by_a_new_process_and_given_back(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger")
    one, two = first.slot("a" * 64, 1), first.slot("a" * 64, 2)
    assert one.number != two.number
    again = Ledger(tmp_path / "ledger")
    assert again.slot("a" * 64, 2).number == two.number
    again.free("a" * 64)
    assert Ledger(tmp_path / "ledger").slot("b" * 64, 1).number == one.number
