"""What is remembered of a container, and what state it is seen to be in."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import ContainerNotFound, InvalidArgument, WrongState
from runtime.oci.directory import (
    STATE,
    Container,
    Record,
    all_ids,
    check_id,
    make_container,
    open_container,
    start_time,
    write_whole,
)


def record(name: str = "web") -> Record:
    return Record(id=name, bundle="/b", rootfs="/b/rootfs", oci_version="1.2.0", created="now")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Container]:
    with make_container(tmp_path, record()) as container:
        yield container


@pytest.mark.parametrize("name", ["a", "A-b_c+d.e", "0", "x" * 240, "-", "+", "_"])
def test_an_id_is_a_file_name(name: str) -> None:
    assert check_id(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/a", "a b", "a\n", "a\0", "é", "x" * 241, "../a", "a:b", "%"])
def test_what_could_lead_elsewhere_is_no_id(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_id(name)


def test_a_name_is_taken_once(tmp_path: Path, web: Container) -> None:
    with pytest.raises(WrongState, match="container with given ID already exists: web"):
        make_container(tmp_path, record())
    assert all_ids(tmp_path) == ["web"]


def test_what_is_saved_is_found_again(tmp_path: Path, web: Container) -> None:
    web.record.annotations["key"] = "value"
    web.save()
    with open_container(tmp_path, "web", lock=False) as again:
        assert again.record == web.record
    assert (tmp_path / "web").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text(""), lambda path: path.mkdir()])
def test_what_is_not_there_is_not_found(tmp_path: Path, make: object) -> None:
    make(tmp_path / "web")  # type: ignore[operator]
    with pytest.raises(ContainerNotFound, match="container does not exist"):
        open_container(tmp_path, "web")
    assert all_ids(tmp_path) == []
    assert all_ids(tmp_path / "nowhere") == []


def test_a_state_that_is_not_ours_is_refused(tmp_path: Path, web: Container) -> None:
    (web.path / STATE).write_text('{"id": 7}')
    with pytest.raises(WrongState, match=r"state\.json is not one of ours"):
        open_container(tmp_path, "web", lock=False)


def test_who_changes_it_is_alone(tmp_path: Path) -> None:
    first = make_container(tmp_path, record())
    seen: list[str] = []

    def second() -> None:
        with open_container(tmp_path, "web"):
            seen.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with open_container(tmp_path, "web", lock=False):  # who only looks does not wait
        seen.append("looked")
    first.close()
    thread.join(10)
    assert seen == ["looked", "second"]


def test_who_waits_for_one_that_is_removed_finds_none(tmp_path: Path) -> None:
    first = make_container(tmp_path, record())
    failures: list[Exception] = []

    def second() -> None:
        try:
            open_container(tmp_path, "web").close()
        except ContainerNotFound as error:
            failures.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    first.remove()
    first.close()
    thread.join(10)
    assert len(failures) == 1
    make_container(tmp_path, record()).close()  # the name is free


def test_without_a_process_it_is_being_created_or_was_given_up(tmp_path: Path, web: Container) -> None:
    with open_container(tmp_path, "web", lock=False) as other:
        assert other.status() == "creating"
        web.close()
        assert other.status() == "stopped"
    with open_container(tmp_path, "web") as other:  # locked by whoever asks
        assert other.status() == "stopped"


def test_a_process_is_known_by_its_start(web: Container) -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        web.record.pid, web.record.start_time = child.pid, start_time(child.pid)
        assert web.record.start_time > 0
        assert web.status() == "running"
        web.record.start_time += 1  # the number of a process that is another's now
        assert web.status() == "stopped"
        with pytest.raises(ProcessLookupError):
            web.open_init()
        web.record.start_time -= 1
        with web.open_init() as pidfd:
            assert pidfd.is_open
        child.kill()
    assert web.status() == "stopped"
    assert start_time(child.pid) == 0


def test_a_zombie_is_not_running(web: Container) -> None:
    child = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    web.record.pid, web.record.start_time = child, start_time(child)
    assert web.status() == "running"
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert web.status() == "stopped"
    web.record.start_time = start_time(child)  # one that ended before it was looked at has none
    assert web.status() == "stopped"
    os.waitpid(child, 0)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"x" * 100_000, 0o644)
    assert (tmp_path / "file").read_bytes() == b"x" * 100_000
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "link.new").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "link", b"")
    assert (tmp_path / "file").stat().st_size == 100_000
