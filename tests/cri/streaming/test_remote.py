"""Exec and attach over SPDY: what passes, how it ends, and clients and processes that do not do their part."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import socket
import struct
import termios
import threading
import time

import pytest

from cri.streaming import remote, server
from cri.streaming.remote import Wanted
from cri.streaming.server import Offer
from cri.streaming.streams import MOST_HELD
from kernel.fd import Fd
from runtime.errors import MonitorLost, StartFailed
from runtime.session import Session
from tests.cri.streaming.client import SECONDS, control
from tests.cri.streaming.conftest import ALL, Played, Serving
from tests.support import wait

SUCCESS = {"metadata": {}, "status": "Success"}


def status_of(content: bytes) -> dict[str, object]:
    found = json.loads(content)
    assert isinstance(found, dict)
    return found


def test_all_passes_and_the_code_comes_last(serving: Serving) -> None:
    process = serving.play()
    client = serving.client(process=process)
    client.say("stdin", b"hello")
    assert process.hear() == b"hello"
    process.say(b"out")
    assert client.hear("stdout", b"out") == b"out"
    client.say("stdin", b" and", ends=True)
    assert (process.hear(), process.hear()) == (b" and", b"")
    os.write(process.complains.fileno(), b"err")
    process.say(b" of it")
    process.end(7)
    out, err, error = client.hear_all("stdout", "stderr", "error")
    assert (out, err) == (b"out of it", b"err")
    assert status_of(error) == {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": "command terminated with non-zero exit code: 7",
        "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
    }
    assert process.was_closed.wait(SECONDS)
    client.close()
    serving.until_idle()


def test_success_is_said_and_pings_are_answered(serving: Serving) -> None:
    process = serving.play()
    client = serving.client(process=process)
    client.connection.sendall(control(6, b"\0\0\0\1"))
    process.end(0)
    assert status_of(client.hear_all("stdout", "stderr", "error")[2]) == SUCCESS
    assert client.pings == [b"\0\0\0\1"]


@pytest.mark.parametrize("version", ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"])
def test_old_clients_get_a_text_and_none_for_success(serving: Serving, version: str) -> None:
    for code, text in ((0, b""), (3, b"command terminated with non-zero exit code: 3")):
        process = serving.play()
        client = serving.client(version=version, process=process)
        process.end(code)
        assert client.hear_all("stdout", "stderr", "error") == [b"", b"", text]


def test_only_what_was_asked_for_is_waited_for(serving: Serving) -> None:
    wanted = Wanted(stdin=False, stdout=True, stderr=False, terminal=False)
    process = serving.play(wanted)
    client = serving.client(wanted, process=process)
    process.say(b"x")
    process.end(0)
    assert client.hear_all("stdout")[0] == b"x"


def test_sizes_reach_the_terminal(serving: Serving) -> None:
    master, slave = map(Fd, os.openpty())
    wanted = Wanted(stdin=True, stdout=True, stderr=False, terminal=True)
    with master, slave:
        process = serving.play(wanted, terminal=master.duplicate())
        client = serving.client(wanted, process=process)

        def size() -> tuple[int, int]:
            rows, columns = struct.unpack("HHHH", fcntl.ioctl(slave.fileno(), termios.TIOCGWINSZ, bytes(8)))[:2]
            return columns, rows

        client.say("resize", b'{"Width":80,"Height":24}\n{"Wid')
        wait.until(lambda: size() == (80, 24), SECONDS)
        client.say("resize", b'th":132,"Height":43}')
        wait.until(lambda: size() == (132, 43), SECONDS)
        client.say("resize", b'[] 7 "x" null {"Width":-1,"Height":70000} {"Width":"a"} {"Width":10,"Height":11}')
        wait.until(lambda: size() == (10, 11), SECONDS)
        client.say("resize", b"garbage" * 1000)
        client.say("stdin", b"x")
        assert process.hear() == b"x"
        process.end(0)
        assert client.hear_all("stdout", "error")[0] == b""


def test_a_process_that_cannot_be_started_is_told(serving: Serving) -> None:
    def fails() -> Session:
        raise StartFailed("exec in web: nonesuch: not in the image")

    for version, expected in (("v4.channel.k8s.io", None), ("v2.channel.k8s.io", b"exec in web: nonesuch: not in the image")):
        client = serving.upgraded(serving.offer(Offer("exec", ALL, fails)), (version,))
        for kind in ALL.names(version):
            client.name(kind)
        error = client.hear_all("stdout", "stderr", "error")[2]
        if expected is None:
            assert status_of(error) == {
                "metadata": {},
                "status": "Failure",
                "message": "exec in web: nonesuch: not in the image",
                "reason": "InternalError",
                "code": 500,
            }
        else:
            assert error == expected


def test_an_end_that_nobody_saw_is_told(serving: Serving) -> None:
    process = serving.play()
    client = serving.client(process=process)
    process.say(b"before")
    client.hear("stdout", b"before")
    process.session.ended.set_exception(MonitorLost("the monitor was killed"))
    assert status_of(client.hear_all("error")[0])["message"] == "the monitor was killed"


def test_what_a_process_leaves_running_is_not_waited_for(serving: Serving) -> None:
    process = serving.play()
    client = serving.client(process=process)
    process.say(b"last")
    process.session.end(0)  # its pipes stay open
    assert client.hear_all("stdout", "stderr") == [b"last", b""]
    chatty = serving.play()
    client = serving.client(process=chatty)
    writing = threading.Thread(target=_write_for_ever, args=(chatty,))
    writing.start()
    chatty.session.end(0)
    assert len(client.hear_all("stdout", "stderr")[0]) < remote.LAST_BYTES + 2 * remote.LAST_BYTES
    writing.join(SECONDS)


def _write_for_ever(process: Played) -> None:
    try:
        while True:
            process.say(bytes(4096))
    except OSError:  # nobody reads any more
        return


def test_attached_all_is_waited_for_and_an_end_of_the_outputs_alone_is_told(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = serving.play(outputs_end=True)
    client = serving.client(process=process)
    process.session.end(5)
    process.say(b"late")
    time.sleep(2 * remote.QUIET_SECONDS)  # that is long enough for an exec'd process
    process.say(b" and later")
    process.leave()
    out, _, error = client.hear_all("stdout", "stderr", "error")
    assert out == b"late and later" and b'"5"' in error
    monkeypatch.setattr(remote, "OVER_SECONDS", 0.1)
    process = serving.play(outputs_end=True)
    client = serving.client(process=process)
    process.leave()
    assert "the output has ended, though the container runs on" in str(status_of(client.hear_all("error")[0])["message"])


def test_what_is_said_to_a_process_without_a_stdin_is_thrown_away(serving: Serving) -> None:
    process = serving.play(Wanted(stdin=False, stdout=True, stderr=True, terminal=False))
    client = serving.client(process=process)
    for _ in range(40):
        client.say("stdin", bytes(1 << 20))
    process.end(0)
    assert status_of(client.hear_all("stdout", "stderr", "error")[2]) == SUCCESS


def test_who_does_not_read_makes_the_process_wait(serving: Serving) -> None:
    process = serving.play()
    client = serving.client(process=process)
    os.set_blocking(process.says.fileno(), False)
    written = 0
    while select.select([], [process.says], [], 0.5)[1]:
        written += os.write(process.says.fileno(), bytes(65536))
        assert written < 64 << 20, "it is all kept somewhere"
    heard = 0
    while heard < written:
        assert client.listen()
        heard, client.heard("stdout").content = heard + len(client.heard("stdout").content), b""
    process.say(b"x")
    client.hear("stdout", b"x")


def test_who_is_not_read_waits_and_no_more_is_kept(serving: Serving) -> None:
    process = serving.play()
    client = serving.client(process=process)
    sent = _stuff(client.connection, client.names["stdin"])
    assert MOST_HELD < sent < 32 << 20
    heard = 0
    while heard < sent:
        heard += len(process.hear())
    process.say(b"still here")
    client.hear("stdout", b"still here")


def _stuff(connection: socket.socket, number: int) -> int:
    """Say as much as is taken; how much that was, in whole frames."""
    frame = struct.pack(">II", number, 65536) + bytes(65536)
    connection.setblocking(False)
    sent = 0
    while select.select([], [connection], [], 0.5)[1]:
        sent += connection.send((frame * 2)[sent % len(frame) :][: len(frame)])
    connection.setblocking(True)
    connection.settimeout(SECONDS)
    rest = -sent % len(frame)
    if rest:
        threading.Thread(target=connection.sendall, args=(frame[-rest:],)).start()
    return (sent + rest) // len(frame) * 65536


@pytest.mark.parametrize("is_stuck", [False, True])
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_who_vanishes_takes_the_process_along(serving: Serving, how: str, *, is_stuck: bool) -> None:
    process = serving.play()
    client = serving.client(process=process)
    if is_stuck:  # then nothing of the client's is read, its end neither
        frame = struct.pack(">II", client.names["stdin"], 65536) + bytes(65536)
        client.connection.setblocking(False)
        while select.select([], [client.connection], [], 0.3)[1]:
            client.connection.send(frame)
    if how == "resets":
        client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert process.was_closed.wait(SECONDS)
    serving.until_idle()


def test_who_vanishes_while_the_process_is_being_started(serving: Serving) -> None:
    process, may_start, begun = serving.play(), threading.Event(), threading.Event()

    def slow() -> Session:
        begun.set()
        assert may_start.wait(SECONDS)
        return process.session

    client = serving.upgraded(serving.offer(Offer("exec", ALL, slow)))
    for kind in ALL.names("v4.channel.k8s.io"):
        client.name(kind)
    assert begun.wait(SECONDS)
    client.close()
    may_start.set()
    assert process.was_closed.wait(SECONDS)


def test_input_that_the_process_has_left_unread_does_not_destroy_the_end(serving: Serving) -> None:
    process = serving.play()
    client = serving.client(process=process)
    process.hears.close()
    client.say("stdin", bytes(1 << 20))
    process.end(0)
    client.say("stdin", bytes(1 << 20))
    assert status_of(client.hear_all("stdout", "stderr", "error")[2]) == SUCCESS


def test_sixty_four_at_once(serving: Serving) -> None:
    pairs = []
    for _ in range(64):
        process = serving.play()
        pairs.append((process, serving.client(process=process)))
    for number, (process, client) in enumerate(pairs):
        client.say("stdin", b"%d" % number, ends=True)
        process.say(b"n%d" % number)
    for number, (process, client) in enumerate(pairs):
        assert process.hear() == b"%d" % number
        process.end(number)
        out, _, error = client.hear_all("stdout", "stderr", "error")
        assert out == b"n%d" % number
        assert number == 0 or status_of(error)["details"] == {"causes": [{"reason": "ExitCode", "message": str(number)}]}


def test_streams_that_are_none_of_these_are_reset(serving: Serving) -> None:
    process = serving.play()
    client = serving.client(process=process)
    for headers in ({"streamtype": "stdin"}, {"streamtype": "other"}, {}):
        number = client.open(headers)
        while client.streams[number].status is None:
            assert client.listen()
        assert client.streams[number].status == 1
    process.end(0)
    assert status_of(client.hear_all("error")[0]) == SUCCESS


def test_streams_that_do_not_come_are_not_waited_for_for_ever(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STREAMS_SECONDS", 0.1)
    client = serving.upgraded(serving.url())
    client.name("error")
    while client.listen():
        continue
    assert client.is_over
    serving.until_idle()


def test_who_says_nothing_for_hours_is_let_go(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.3)
    process = serving.play()
    client = serving.client(process=process)
    begun = time.monotonic()
    while client.listen():
        continue
    assert 0.1 < time.monotonic() - begun < SECONDS
    assert process.was_closed.wait(SECONDS)


@pytest.mark.parametrize("garbage", [b"\xff" * 1000, b"GET / HTTP/1.1\r\n\r\n" * 50, control(1, bytes(30)), bytes(4096)])
def test_garbage_in_the_middle_ends_the_session_alone(serving: Serving, garbage: bytes) -> None:
    process, other = serving.play(), serving.play()
    client, beside = serving.client(process=process), serving.client(process=other)
    client.connection.sendall(garbage)
    client.connection.shutdown(socket.SHUT_WR)
    assert process.was_closed.wait(SECONDS)
    other.end(0)
    assert status_of(beside.hear_all("error")[0]) == SUCCESS


def test_a_server_that_stops_ends_its_sessions(serving: Serving) -> None:
    process = serving.play()
    serving.client(process=process)
    # The fixture stops it; here is only what is to be seen then.
    asyncio.run_coroutine_threadsafe(serving.server.stop(), serving.loop).result(SECONDS)
    assert process.was_closed.is_set()
