"""Questions to the kernel: this one has all of it, one without a call or a flag is told, and nothing is changed by asking."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from kernel import probe
from kernel._linux import lib
from tests.support.requires import requires

QUESTIONS = (
    probe.has_mount_calls,
    probe.has_openat2,
    probe.has_clone_into_cgroup,
    probe.has_setns_by_pidfd,
    probe.has_close_on_exec_ranges,
    probe.has_mount_setattr,
)


@requires("root", "kernel 5.12")
@pytest.mark.parametrize("ask", QUESTIONS)
def test_this_kernel_has_it(ask: Callable[[], bool | None]) -> None:
    before = {name: os.readlink(f"/proc/thread-self/ns/{name}") for name in os.listdir("/proc/thread-self/ns")}
    assert ask() is True
    assert {name: os.readlink(f"/proc/thread-self/ns/{name}") for name in before} == before


@requires("root")
def test_mounts_in_no_table_are_copied_from_6_15_on() -> None:
    release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    assert probe.has_detached_copies() is (release >= (6, 15))


@pytest.mark.parametrize("ask", QUESTIONS)
def test_an_unknown_call_is_not_there(ask: Callable[[], bool | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_answer", lambda call, *arguments: errno.ENOSYS)
    assert ask() is False


@pytest.mark.parametrize("ask", [probe.has_clone_into_cgroup, probe.has_setns_by_pidfd, probe.has_close_on_exec_ranges])
def test_an_unknown_flag_is_not_there(ask: Callable[[], bool | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_answer", lambda call, *arguments: errno.EINVAL)
    assert ask() is False


def test_an_unknown_number_is_an_unknown_call() -> None:
    class Unknown:
        SYS_none = 100_000
        linux_syscall = staticmethod(lib.linux_syscall)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "lib", Unknown)
        assert probe._answer("none") == errno.ENOSYS
