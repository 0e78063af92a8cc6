"""Installing filters in the kernel, each in a child of its own."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading

import prctl
import pytest

from kernel import capability, seccomp
from kernel._linux import ffi, lib
from kernel.errors import call_of
from tests.support import child
from tests.support.requires import requires

RETURN, LOAD, EQUAL = 0x06, 0x20, 0x15


def always(value: int) -> bytes:
    return seccomp.INSTRUCTION.pack(RETURN, 0, 0, value)


def only(number: int, value: int) -> bytes:
    """*value* for call *number*, all else allowed."""
    lines = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, number), (RETURN, 0, 0, value), (RETURN, 0, 0, seccomp.RET_ALLOW)]
    return b"".join(seccomp.INSTRUCTION.pack(*line) for line in lines)


def ask_personality() -> int:
    """The errno of a call that nothing here needs."""
    return 0 if lib.linux_syscall(lib.SYS_personality, 0xFFFFFFFF, 0, 0, 0, 0, 0) >= 0 else int(ffi.errno)


@requires("root")
def test_installed_filter_decides() -> None:
    def confined() -> tuple[int, int]:
        before = ask_personality()
        seccomp.install(only(lib.SYS_personality, seccomp.RET_ERRNO | 99))
        return before, ask_personality()

    assert child.run(confined) == (0, 99)


@requires("root")
def test_filter_lasts_in_children() -> None:
    def confined() -> int:
        seccomp.install(only(lib.SYS_personality, seccomp.RET_ERRNO | 99))
        pid = os.fork()
        if pid == 0:
            os._exit(ask_personality())
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert child.run(confined) == 99


@requires("root")
def test_without_privilege_no_new_privs_is_asked_for() -> None:
    def confined() -> tuple[int | None, str | None, int]:
        capability.set_sets(effective=0, permitted=0, inheritable=0)
        with pytest.raises(PermissionError) as raised:
            seccomp.install(always(seccomp.RET_ALLOW))
        prctl.set_no_new_privs(1)
        seccomp.install(only(lib.SYS_personality, seccomp.RET_ERRNO | 99))
        return raised.value.errno, call_of(raised.value), ask_personality()

    assert child.run(confined) == (errno.EACCES, "seccomp", 99)


@requires("root")
def test_kill_process_is_sigsys() -> None:
    def confined() -> int:
        pid = os.fork()
        if pid == 0:
            seccomp.install(only(lib.SYS_personality, seccomp.RET_KILL_PROCESS))
            ask_personality()
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert child.run(confined) == -signal.SIGSYS


@requires("root")
def test_kernel_refuses_a_filter_without_end() -> None:
    def confined() -> int | None:
        with pytest.raises(OSError) as raised:
            seccomp.install(seccomp.INSTRUCTION.pack(LOAD, 0, 0, 0))
        return raised.value.errno

    assert child.run(confined) == errno.EINVAL


@requires("root")
def test_flags_of_a_profile_are_taken_by_the_kernel() -> None:
    def confined() -> int:
        for flag in seccomp.FLAGS.values():
            if flag != seccomp.FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]:
                seccomp.install(always(seccomp.RET_ALLOW), flags=flag)
        seccomp.install_listener(always(seccomp.RET_ALLOW), flags=seccomp.FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]).close()
        return ask_personality()

    assert child.run(confined) == 0


@requires("root")
def test_a_thread_with_another_filter_is_not_synchronised() -> None:
    def confined() -> tuple[int | None, int]:
        installed, done = threading.Event(), threading.Event()

        def diverge() -> None:
            seccomp.install(always(seccomp.RET_ALLOW))
            installed.set()
            done.wait()

        thread = threading.Thread(target=diverge)
        thread.start()
        installed.wait()
        with pytest.raises(ProcessLookupError) as raised:
            seccomp.install(only(lib.SYS_personality, seccomp.RET_ERRNO | 99), flags=seccomp.FLAGS["SECCOMP_FILTER_FLAG_TSYNC"])
        done.set()
        thread.join()
        return raised.value.errno, ask_personality()

    assert child.run(confined) == (errno.ESRCH, 0)


@requires("root")
def test_listener_hears_of_the_call() -> None:
    def confined() -> tuple[int, int]:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            listener = seccomp.install_listener(only(lib.SYS_personality, seccomp.RET_USER_NOTIF))
            socket.send_fds(theirs, [b"x"], [listener.fileno()])
            listener.close()
            os._exit(ask_personality())
        _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
        call = _answer(number, errno.EDOM)
        return call, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert child.run(confined) == (lib.SYS_personality, errno.EDOM)


def _answer(listener: int, error: int) -> int:
    """Take one notification and refuse it with *error*; the number of the call.  Layouts: linux/seccomp.h."""
    notification = ffi.new("char[80]")
    assert lib.ioctl(listener, ffi.cast("unsigned long", 0xC0502100), notification) == 0
    identity, _, _, number = struct.unpack_from("<QIIi", ffi.buffer(notification))
    response = ffi.new("char[24]", struct.pack("<QqiI", identity, 0, -error, 0))
    assert lib.ioctl(listener, ffi.cast("unsigned long", 0xC0182101), response) == 0
    return int(number)


@pytest.mark.parametrize("length", [0, 7, 9, 8 * 4097])
def test_lengths_that_no_kernel_takes(length: int) -> None:
    with pytest.raises(ValueError, match=f"a filter of {length} bytes is not 1 to 4096 instructions"):
        seccomp.filter_length(bytes(length))


def test_length_is_in_instructions() -> None:
    assert seccomp.filter_length(always(0)) == 1
    assert seccomp.filter_length(bytes(8 * 4096)) == 4096
