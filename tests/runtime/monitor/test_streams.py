"""A kill at any point between two lines of the pump neither loses nor repeats a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel import mount
from kernel.fd import Fd, open_path, pipe
from runtime.monitor import streams
from runtime.monitor.ledger import Ledger, Slot
from runtime.monitor.log_file import Gap, LogFile
from tests.support.requires import requires


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
    file = LogFile(open_path(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
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
    (LogFile, "append", True),
    (LogFile, "append", False),
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

    def half(self: LogFile, content: bytes) -> None:
        assert self._file is not None
        os.write(self._file.fileno(), content[: len(content) // 2])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LogFile, "append", half)
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


@pytest.mark.parametrize("written", [0.5, 1.0])
def test_an_entry_that_was_begun_before_a_rotation_is_finished_or_taken_back_there(
    tmp_path: Path, scratch: tuple[Fd, Fd], monkeypatch: pytest.MonkeyPatch, written: float
) -> None:
    """Killed in the middle of it, then renamed by a kubelet, then taken over with a new file."""
    source, writer = pipe()
    log, slot = tmp_path / "log", Ledger(tmp_path / "ledger").slot("c" * 64, 1)
    pump = make_pump(log, source.duplicate(), slot, scratch)
    os.write(writer.fileno(), b"one\ntwo\n")
    pump.drain()
    os.write(writer.fileno(), b"three\nfour\n")

    def part(self: LogFile, content: bytes) -> None:
        assert self._file is not None
        os.write(self._file.fileno(), content[: int(len(content) * written)])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LogFile, "append", part)
        with pytest.raises(Killed):
            pump.drain()
    (tmp_path / "other").write_text("not a log of ours")
    log.rename(tmp_path / "log.20261125")
    successor = make_pump(log, source, slot, scratch)
    with open_path(tmp_path, os.O_RDONLY | os.O_DIRECTORY) as directory:
        successor.recover(directory)
    os.write(writer.fileno(), b"five\n")
    successor.drain()
    before, after = contents(tmp_path / "log.20261125"), contents(log)
    assert before + after == [b"one", b"two", b"three", b"four", b"five"]
    assert before == ([b"one", b"two"] if written < 1 else [b"one", b"two", b"three", b"four"])
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    with mount.new_filesystem("tmpfs", [("size", "65536")]) as disk:
        mount.attach(disk, directory)
    yield directory
    mount.unmount(directory)


@requires("root")
def test_a_full_disk_does_not_stop_the_writer_and_what_is_lost_is_told(
    scratch: tuple[Fd, Fd], tmp_path: Path, small_disk: Path
) -> None:
    source, writer = pipe()
    told: list[Gap] = []
    path, ballast = small_disk / "log", small_disk / "ballast"
    file = LogFile(open_path(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), told.append)
    pump = streams.PipeToLog(source, 1, file, Ledger(tmp_path / "ledger").slot("c" * 64, 1), scratch)
    lines = [b"%06d " % number + b"x" * 93 for number in range(1200)]

    def write(first: int, last: int) -> None:
        for number in range(first, last):
            os.write(writer.fileno(), lines[number] + b"\n")
            if number % 50 == 49:
                pump.drain()
        pump.drain()

    ballast.write_bytes(b"x" * 20_000)
    write(0, 1000)
    assert told == [Gap("no space left on device")]
    kept = contents(path)
    assert 0 < len(kept) < 1000 and kept == lines[: len(kept)]
    ballast.unlink()
    write(1000, 1010)
    _, ended = told
    assert (ended.error, ended.lines) == ("", 1000 - len(kept))
    assert ended.bytes > ended.lines * 100
    assert contents(path) == [*lines[: len(kept)], *lines[1000:1010]]
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


@requires("root")
def test_a_ledger_without_room_is_refused_before_it_is_used(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        Ledger(small_disk / "ledger")
