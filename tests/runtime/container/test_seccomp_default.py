"""The default seccomp profile: what it allows and denies, and that the kernel agrees."""

from __future__ import annotations

import errno
import os
import platform
import time

import pytest

from kernel import seccomp as kernel
from kernel._linux import lib
from runtime.container import seccomp
from runtime.container.syscalls import AARCH64, ARM, MACHINES, X32, X86, X86_64, Architecture, numbers
from runtime.spec import schema
from runtime.spec.defaults import CAPABILITIES
from tests.support import bpf, child
from tests.support.profiles import ALLOW, ENOSYS, EPERM, call, profile, rule
from tests.support.requires import requires


def default_answer(name: str, *arguments: int, capabilities: tuple[str, ...] = CAPABILITIES, abi: Architecture = X86_64) -> int:
    machine = "aarch64" if abi in MACHINES["aarch64"] else "x86_64"
    made = bpf.Filter(seccomp.compile_filter(seccomp.default_profile(capabilities, machine), machine))
    return made.run(abi.audit, numbers(abi)[name], arguments)


@pytest.mark.parametrize("abi", [X86_64, X86, X32, AARCH64, ARM], ids=lambda abi: abi.column)
def test_default_profile_allows_no_new_namespace_without_sys_admin(abi: Architecture) -> None:
    assert default_answer("clone", lib.SIGCHLD, abi=abi) == ALLOW
    for flag in (lib.CLONE_NEWNS, lib.CLONE_NEWUSER, lib.CLONE_NEWNET, lib.CLONE_NEWPID, lib.CLONE_NEWCGROUP):
        assert default_answer("clone", flag | lib.SIGCHLD, abi=abi) == EPERM
        assert default_answer("clone", flag, capabilities=("CAP_SYS_ADMIN",), abi=abi) == ALLOW
    assert default_answer("clone3", abi=abi) == ENOSYS
    assert default_answer("clone3", capabilities=("CAP_SYS_ADMIN",), abi=abi) == ALLOW


@pytest.mark.parametrize("abi", [X86_64, X86, X32, AARCH64, ARM], ids=lambda abi: abi.column)
def test_default_profile_denies_vsock_and_alg_even_with_a_high_bit(abi: Architecture) -> None:
    families = {family: default_answer("socket", family, abi=abi) for family in range(46)}
    assert {family for family, answer in families.items() if answer != ALLOW} == {38, 40}
    assert default_answer("socket", 2**32 + 40, abi=abi) == EPERM


def test_default_profile_allows_five_personalities() -> None:
    found = {
        value
        for value in (0, 1, 8, 0x20000, 0x20008, 0x20001, 0x0040000, 0xFFFFFFFF)
        if default_answer("personality", value) == ALLOW
    }
    assert found == {0, 8, 0x20000, 0x20008, 0xFFFFFFFF}


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("mount", "CAP_SYS_ADMIN"),
        ("bpf", "CAP_BPF"),
        ("bpf", "CAP_SYS_ADMIN"),
        ("perf_event_open", "CAP_PERFMON"),
        ("syslog", "CAP_SYSLOG"),
        ("open_by_handle_at", "CAP_DAC_READ_SEARCH"),
        ("reboot", "CAP_SYS_BOOT"),
        ("chroot", "CAP_SYS_CHROOT"),
        ("finit_module", "CAP_SYS_MODULE"),
        ("mbind", "CAP_SYS_NICE"),
        ("acct", "CAP_SYS_PACCT"),
        ("pidfd_getfd", "CAP_SYS_PTRACE"),
        ("iopl", "CAP_SYS_RAWIO"),
        ("settimeofday", "CAP_SYS_TIME"),
        ("vhangup", "CAP_SYS_TTY_CONFIG"),
    ],
)
def test_default_profile_opens_with_a_capability(name: str, capability: str) -> None:
    assert default_answer(name, capabilities=()) == EPERM
    assert default_answer(name, capabilities=(capability,)) == ALLOW


def test_default_profile_never_allows() -> None:
    everything = ("CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_PTRACE", "CAP_BPF")
    for name in ("add_key", "keyctl", "io_uring_setup", "userfaultfd", "kexec_load", "swapon", "pivot_root"):
        assert default_answer(name, capabilities=everything) == EPERM


def test_default_profile_allows_tracing_and_arch_calls() -> None:
    assert {default_answer(name) for name in ("ptrace", "process_vm_readv", "arch_prctl", "modify_ldt")} == {ALLOW}
    assert {default_answer(name, abi=ARM) for name in ("cacheflush", "set_tls", "arm_fadvise64_64", "sync_file_range2")} == {
        ALLOW
    }


def test_default_profiles_are_values_of_their_own() -> None:
    seccomp.default_profile(CAPABILITIES).syscalls[0].names.clear()
    assert seccomp.default_profile(CAPABILITIES).syscalls[0].names


def test_default_profile_is_short_and_quick_to_compile() -> None:
    """327 instructions for three architectures (libseccomp: 1160); 0.7 ms where libseccomp takes 29."""
    made = seccomp.default_profile(CAPABILITIES)
    best = min(_seconds(made) for _ in range(10))
    assert len(seccomp.assemble(made, "x86_64")) // 8 < 400
    assert best < 0.010


def _seconds(made: schema.Seccomp) -> float:
    begun = time.perf_counter()
    seccomp.assemble(made, "x86_64")
    return time.perf_counter() - begun


def test_a_profile_is_compiled_once() -> None:
    made = profile(rule("read getpid"))
    assert seccomp.compile_filter(made) is seccomp.compile_filter(profile(rule("read getpid")))
    made.syscalls[0].names.append("write")
    assert bpf.Filter(seccomp.compile_filter(made)).run(X86_64.audit, 1) == ALLOW


def test_calls_that_are_always_allowed_are_so_to_the_kernels_cache() -> None:
    """seccomp_is_const_allow (Linux 5.11) follows loads of number and architecture, ja, jeq, jgt, jge, and ret."""
    made = bpf.Filter(seccomp.compile_filter(seccomp.default_profile(CAPABILITIES)))
    for name in ("read", "futex", "epoll_wait", "openat", "close_range", "exit_group", "prctl"):
        answer, taken = made.trace(X86_64.audit, numbers(X86_64)[name])
        assert answer == ALLOW
        assert all(
            code in (0x05, 0x06, 0x15, 0x25, 0x35) or (code == 0x20 and operand in (0, 4)) for code, _, _, operand in taken
        )
        assert len(taken) <= 14


@requires("root", "machine x86_64")
def test_kernel_obeys_the_default_profile() -> None:
    made = seccomp.compile_filter(seccomp.default_profile(CAPABILITIES), platform.machine())

    def confined() -> dict[str, int]:
        kernel.install(made)
        table = numbers(X86_64)
        return {
            "getppid": call(table["getppid"]),
            "unshare": call(table["unshare"], 0),
            "clone": call(table["clone"], lib.CLONE_NEWUSER | lib.SIGCHLD),
            "clone3": call(table["clone3"]),
            "vsock": call(table["socket"], 40, 1),
            "vsock with a high bit": call(table["socket"], 2**32 + 40, 1),
            "unix": call(table["socket"], 1, 1),
            "personality": call(table["personality"], 0xFFFFFFFF),
            "personality of another": call(table["personality"], 0x0040000),
            "of the future": call(600),
            "write": os.write(2, b""),
        }

    assert child.run(confined) == {
        "getppid": 0,
        "unshare": errno.EPERM,
        "clone": errno.EPERM,
        "clone3": errno.ENOSYS,
        "vsock": errno.EPERM,
        "vsock with a high bit": errno.EPERM,
        "unix": 0,
        "personality": 0,
        "personality of another": errno.EPERM,
        "of the future": errno.ENOSYS,
        "write": 0,
    }
