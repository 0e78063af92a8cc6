"""A descriptor has one owner: it closes once, and its number is never used afterwards."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from kernel import fd
from kernel.fd import Fd


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


def closes_on_exec(file: Fd) -> bool:
    return bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC)


class TestOwner:
    def test_leaving_the_scope_closes(self) -> None:
        with fd.open_path("/dev/null") as file:
            number = file.fileno()
            assert is_open(number)
        assert not is_open(number)
        assert not file.is_open

    def test_an_exception_closes_too(self) -> None:
        with pytest.raises(ZeroDivisionError), fd.open_path("/dev/null") as file:
            number = file.fileno()
            raise ZeroDivisionError
        assert not is_open(number)

    def test_a_second_close_does_not_close_the_next_owners_file(self) -> None:
        first = fd.open_path("/dev/null")
        number = first.fileno()
        first.close()
        with fd.open_path("/dev/zero") as second:
            assert second.fileno() == number  # the kernel hands out the lowest free number
            first.close()
            assert is_open(number)

    def test_the_number_of_a_closed_descriptor_is_refused(self) -> None:
        file = fd.open_path("/dev/null")
        file.close()
        with pytest.raises(ValueError, match="descriptor is closed"):
            file.fileno()
        with pytest.raises(ValueError, match="descriptor is closed"):
            file.detach()

    def test_what_is_detached_stays_open(self) -> None:
        with fd.open_path("/dev/null") as file:
            number = file.detach()
        assert is_open(number)
        os.close(number)

    def test_a_forgotten_owner_closes(self) -> None:
        file = fd.open_path("/dev/null")
        number = file.fileno()
        del file
        assert not is_open(number)

    def test_repr_names_the_file(self) -> None:
        with fd.open_path("/dev/null") as file:
            assert repr(file) == f"Fd({file.fileno()} -> /dev/null)"
        assert repr(file) == "Fd(closed)"


class TestMakers:
    def test_all_close_on_exec(self) -> None:
        reader, writer = fd.pipe()
        with reader, writer, fd.open_path("/dev/null") as file, fd.eventfd() as counter, fd.memory("m", b"") as memory:
            assert all(map(closes_on_exec, (reader, writer, file, counter, memory)))

    def test_a_duplicate_is_the_same_open_file_with_a_number_of_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"abc")
        with fd.open_path(tmp_path / "file") as file, file.duplicate(200) as second:
            assert second.fileno() >= 200
            assert closes_on_exec(second)
            assert os.read(file.fileno(), 1) + os.read(second.fileno(), 1) == b"ab"

    def test_a_path_is_relative_to_its_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"here")
        with fd.open_path(tmp_path, os.O_PATH) as directory, fd.open_path("file", directory=directory) as file:
            assert os.read(file.fileno(), 10) == b"here"

    def test_an_eventfd_counts_from_zero(self) -> None:
        with fd.eventfd() as counter:
            os.eventfd_write(counter.fileno(), 3)
            os.eventfd_write(counter.fileno(), 4)
            assert os.eventfd_read(counter.fileno()) == 7


class TestMemory:
    def test_content_is_there_and_cannot_be_changed(self) -> None:
        with fd.memory("program", b"x" * 100_000) as file:
            assert os.pread(file.fileno(), 200_000, 0) == b"x" * 100_000
            with pytest.raises(PermissionError):
                os.pwrite(file.fileno(), b"y", 0)
            with pytest.raises(PermissionError):
                os.ftruncate(file.fileno(), 0)
            with pytest.raises(PermissionError):
                os.ftruncate(file.fileno(), 200_000)

    def test_the_seal_is_for_good(self) -> None:
        with fd.memory("program", b"x") as file, pytest.raises(PermissionError):
            fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)

    def test_unsealed_memory_can_be_written(self) -> None:
        with fd.memory("page", b"x", seal=False) as file:
            assert os.pwrite(file.fileno(), b"y", 0) == 1


class TestTakeFrom:
    def test_a_descriptor_of_another_process(self) -> None:
        reader, writer = fd.pipe()
        with reader, writer:
            pid = os.fork()
            if pid == 0:
                writer.close()
                signal.pause()
                os._exit(1)
            with Fd(os.pidfd_open(pid)) as pidfd:
                try:
                    with fd.take_from(pidfd, reader.fileno()) as taken:
                        os.write(writer.fileno(), b"hello")
                        assert os.read(taken.fileno(), 5) == b"hello"
                        assert closes_on_exec(taken)
                    with pytest.raises(OSError, match="descriptor 987") as caught:
                        fd.take_from(pidfd, 987)
                    assert caught.value.errno == errno.EBADF
                finally:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


class TestTee:
    def test_bytes_are_copied_and_stay(self) -> None:
        (source, source_end), (copy, copy_end) = fd.pipe(), fd.pipe()
        with source, source_end, copy, copy_end:
            os.write(source_end.fileno(), b"log line")
            assert fd.tee(source, copy_end, 100) == 8
            assert os.read(copy.fileno(), 100) == os.read(source.fileno(), 100) == b"log line"

    def test_an_empty_pipe_answers_at_once(self) -> None:
        (source, source_end), (copy, copy_end) = fd.pipe(), fd.pipe()
        with source, source_end, copy, copy_end:
            assert fd.tee(source.fileno(), copy_end.fileno(), 100) == -1
            source_end.close()
            assert fd.tee(source, copy_end, 100) == 0  # end of file

    def test_what_is_not_a_pipe_is_refused(self) -> None:
        source, source_end = fd.pipe()
        with source, source_end, fd.open_path("/dev/null", os.O_WRONLY) as null:
            os.write(source_end.fileno(), b"x")
            with pytest.raises(OSError, match="Invalid argument") as caught:
                fd.tee(source, null, 1)
            assert caught.value.__notes__ == ["in tee(2)"]


def test_a_table_of_its_own_is_a_threads_alone_and_what_others_have_can_be_taken() -> None:
    found: dict[str, object] = {}
    reader, writer = fd.pipe()

    def look() -> None:
        fd.leave_table()
        found["standard"] = is_open(2)
        found["ours"] = is_open(writer.fileno())
        with Fd(os.pidfd_open(os.getpid())) as main, fd.take_from(main, writer.fileno()) as taken:
            os.write(taken.fileno(), b"taken")
            found["number"] = taken.fileno()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    with reader, writer:
        assert found == {"standard": True, "ours": False, "number": 4}
        assert is_open(writer.fileno())
        assert os.read(reader.fileno(), 10) == b"taken"
