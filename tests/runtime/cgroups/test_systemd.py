"""The driver "systemd" as far as it goes without one: names and places, and what is said when nobody answers, or nonsense."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.cgroups.bus import Bus, Lost, Refused, private_socket
from runtime.cgroups.drivers import driver
from runtime.cgroups.filesystem import FilesystemDriver
from runtime.cgroups.message import ERROR, FIXED, RETURN, SIGNAL, Message, Variant, length, pack, unpack
from runtime.cgroups.systemd import SystemdDriver
from runtime.cgroups.units import Manager, check_unit_name, scope_properties, slice_path
from runtime.errors import InvalidArgument, TimedOut, UnitFailed, Unsupported
from tests.support.isolation import Run

TREE = Path("/sys/fs/cgroup")
JOB = "/org/freedesktop/systemd1/job/7"
#: What a manager does with a call: the messages that it sends, given a function that makes one.
Answers = Callable[[Message], list[bytes] | None]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("-.slice", ""),
        ("system.slice", "/system.slice"),
        ("kubepods-burstable-pod1_2.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"),
    ],
)
def test_a_slice_lies_in_those_that_its_name_begins_with(name: str, path: str) -> None:
    assert slice_path(name) == path


@pytest.mark.parametrize(
    "name", ["", "a", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "a.scope", "a" * 251 + ".slice"]
)
def test_what_is_no_slice_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="not the name of a slice"):
        slice_path(name)


@pytest.mark.parametrize("name", ["a b.scope", "a/b.scope", "a\n.scope", "a.service", "ü.scope", "a" * 260 + ".scope"])
def test_what_cannot_be_a_unit_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be a unit's name"):
        check_unit_name(name)


def test_the_drivers_by_their_names() -> None:
    assert isinstance(driver("cgroupfs", TREE, "/kernelet"), FilesystemDriver)
    assert isinstance(driver("systemd", TREE, "/kernelet"), SystemdDriver)


def test_a_slice_alone_is_not_for_directories() -> None:
    with pytest.raises(InvalidArgument, match=r"'a\.slice': a slice is for the cgroup driver systemd; ours is cgroupfs"):
        FilesystemDriver(TREE, "/kernelet").pod_path("a.slice", "1")


def test_where_a_pod_goes(tmp_path: Path) -> None:
    with manager_at(tmp_path, _answer({"Get": ("v", [Variant("s", "/init.scope")])})) as path:
        made = SystemdDriver(TREE, path)
        assert made.pod_path("", "1") == "/kernelet.slice/kernelet-1.scope"
        assert made.pod_path("/kubepods.slice/kubepods-pod2.slice", "1") == "/kubepods.slice/kubepods-pod2.slice/kernelet-1.scope"
        assert made.pod_path("kubepods-pod2.slice", "1") == "/kubepods.slice/kubepods-pod2.slice/kernelet-1.scope"


def test_a_user_has_a_manager_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert private_socket(7) == Path("/run/user/7/systemd/private")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert private_socket(8) == Path("/run/user/8/systemd/private")
    assert private_socket() == Path("/run/systemd/private")


def test_where_there_is_no_systemd_the_other_driver_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"nothing: no such file or directory: no systemd.*use the driver cgroupfs"):
        Manager(tmp_path / "nothing").start("a.scope", [])


@contextlib.contextmanager
def manager_at(tmp_path: Path, answers: Answers) -> Iterator[Path]:
    """Somebody who listens as a manager does, and answers each call with what *answers* makes of it; None hangs up."""
    path = tmp_path / "private"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError, EOFError, struct.error):
                assert stream.readline() == b"\0AUTH EXTERNAL\r\n"
                assert (stream.readline(), stream.readline()) == (b"DATA\r\n", b"BEGIN\r\n")
                connection.sendall(b"DATA\r\nOK 1234deadbeef\r\n")
                while fixed := stream.read(FIXED.size):
                    said = answers(unpack(fixed + stream.read(length(fixed))))
                    if said is None:
                        break
                    for message in said:
                        connection.sendall(message)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _answer(known: dict[str, tuple[str, list[object]]]) -> Answers:
    """Each member with a body."""

    def answers(message: Message) -> list[bytes]:
        signature, values = known[message.fields["member"]]
        return [pack(RETURN, 1, signature, values, reply_to=message.serial)]

    return answers


def _removed(job: str, result: str) -> bytes:
    return pack(SIGNAL, 9, "uoss", [7, job, "a.scope", result], path="/org/freedesktop/systemd1", member="JobRemoved")


def _job(result: str) -> Answers:
    """StartTransientUnit, with the job's end before its answer, and another's in between."""

    def answers(message: Message) -> list[bytes]:
        reply = pack(RETURN, 2, "o", [JOB], reply_to=message.serial)
        return [_removed(f"{JOB}7", "failed"), _removed(JOB, result), reply]

    return answers


def test_a_start_waits_for_its_own_job_and_no_other(tmp_path: Path) -> None:
    asked: list[Message] = []

    def answers(message: Message) -> list[bytes] | None:
        asked.append(message)
        return _job("done")(message)

    wanted = scope_properties("a pod", "b.slice", 77)
    with manager_at(tmp_path, answers) as path:
        Manager(path).start("a.scope", wanted)
    (call,) = asked
    assert (call.fields["member"], call.body) == ("StartTransientUnit", ["a.scope", "fail", wanted, []])
    assert dict(wanted)["PIDs"] == Variant("au", [77])


@pytest.mark.parametrize(("result", "error"), [("failed", UnitFailed), ("canceled", UnitFailed), ("timeout", TimedOut)])
def test_a_job_that_does_not_end_well_is_told(tmp_path: Path, result: str, error: type[Exception]) -> None:
    with manager_at(tmp_path, _job(result)) as path, pytest.raises(error, match=r"start a\.scope"):
        Manager(path).start("a.scope", [])


def _refuse(name: str) -> Answers:
    def answers(message: Message) -> list[bytes]:
        error = f"org.freedesktop.systemd1.{name}"
        return [pack(ERROR, 3, "s", ["it says no"], reply_to=message.serial, error=error)]

    return answers


def test_what_systemd_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    with (
        manager_at(tmp_path, _refuse("UnitExists")) as path,
        pytest.raises(UnitFailed, match=r"set MemoryMax of a\.scope: systemd refuses: it says no"),
    ):
        Manager(path).set_properties("a.scope", [("MemoryMax", Variant("t", 1))])


def test_a_unit_that_is_gone_is_stopped(tmp_path: Path) -> None:
    with manager_at(tmp_path, _refuse("NoSuchUnit")) as path:
        Manager(path).stop("a.scope")
        assert not Manager(path).is_active("a.scope")


def test_a_manager_that_executes_itself_anew_is_asked_again(tmp_path: Path) -> None:
    calls: list[Message] = []

    def answers(message: Message) -> list[bytes] | None:
        calls.append(message)
        return None if len(calls) == 1 else _job("done")(message)

    with manager_at(tmp_path, answers) as path:
        Manager(path).start("a.scope", [])
    assert len(calls) == 2


def test_one_that_hangs_up_is_lost(tmp_path: Path) -> None:
    with manager_at(tmp_path, lambda _: None) as path, Bus(path) as bus, pytest.raises(Lost):
        bus.call("/a", "b.C", "D")


def test_one_that_never_answers_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with manager_at(tmp_path, lambda _: []) as path, Bus(path, patience_seconds=0.05) as bus, pytest.raises(TimedOut):
        bus.call("/a", "b.C", "D")


def test_noise_is_no_answer(tmp_path: Path, run: Run) -> None:
    with manager_at(tmp_path, lambda _: [b"B" + bytes(15)]) as path, Bus(path) as bus, pytest.raises(Lost, match="byte order"):
        bus.call("/a", "b.C", "D")


def test_a_refusal_keeps_the_last_part_of_its_name(tmp_path: Path) -> None:
    with manager_at(tmp_path, _refuse("UnitExists")) as path, Bus(path) as bus, pytest.raises(Refused) as refused:
        bus.call("/a", "b.C", "D")
    assert (refused.value.name, str(refused.value)) == ("UnitExists", "it says no")
