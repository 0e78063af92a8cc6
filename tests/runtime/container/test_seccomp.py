"""What the seccomp compiler promises, rule by rule; ``test_seccomp_compared`` has the random profiles."""

from __future__ import annotations

import errno

import pytest

from kernel import seccomp as kernel
from runtime.container import seccomp
from runtime.container.syscalls import AARCH64, ARM, MACHINES, X86, X86_64, numbers
from runtime.errors import InvalidSpec
from runtime.spec import schema
from tests.support import bpf, child, libseccomp
from tests.support.profiles import ALLOW, ENOSYS, EPERM, KILL, arg, call, compiled, profile, rule
from tests.support.requires import requires


@requires("machine x86_64")
def test_rules_of_multiplexed_calls_reach_the_multiplexer() -> None:
    made = profile(
        rule("socket bind shmat semop recvmmsg"), rule("listen", "SCMP_ACT_KILL"), architectures=[X86_64.name, X86.name]
    )
    ours, theirs = compiled(made), bpf.Filter(libseccomp.compile_filter(made))
    for name in ("socketcall", "ipc"):
        answers = [[made.run(X86.audit, numbers(X86)[name], [operation]) for operation in range(40)] for made in (ours, theirs)]
        assert answers[0] == answers[1]
        assert answers[0].count(ALLOW) == {"socketcall": 3, "ipc": 2}[name]


def test_denied_ipc_operation_stays_denied_under_another_version() -> None:
    made = profile(rule("shmat", "SCMP_ACT_KILL"), default="SCMP_ACT_ALLOW", architectures=[X86.name])
    assert compiled(made).run(X86.audit, numbers(X86)["ipc"], [21 | 1 << 16]) == KILL


def test_a_call_allowed_for_some_arguments_is_not_allowed_through_the_multiplexer() -> None:
    """libseccomp allows socketcall(SYS_SOCKET, ...) whatever it makes."""
    made = profile(rule("socket", "SCMP_ACT_ALLOW", arg(0, "EQ", 1)), architectures=[X86.name])
    assert compiled(made).run(X86.audit, numbers(X86)["socketcall"], [1]) == EPERM
    assert compiled(made).run(X86.audit, numbers(X86)["socket"], [1]) == ALLOW


def test_a_call_denied_for_some_arguments_is_denied_through_the_multiplexer() -> None:
    made = profile(rule("socket", "SCMP_ACT_ERRNO", arg(0, "EQ", 40)), default="SCMP_ACT_ALLOW", architectures=[X86.name])
    assert [compiled(made).run(X86.audit, numbers(X86)["socketcall"], [operation]) for operation in (1, 2)] == [EPERM, ALLOW]
    made.syscalls.append(rule("socket", "SCMP_ACT_LOG"))
    assert compiled(made).run(X86.audit, numbers(X86)["socketcall"], [1]) == kernel.RET_LOG


def test_unconditional_rule_beats_rules_on_arguments_wherever_it_stands() -> None:
    by_argument, always = rule("read", "SCMP_ACT_KILL", arg(0, "EQ", 1)), rule("read")
    for rules in ([by_argument, always], [always, by_argument]):
        assert compiled(profile(*rules)).run(X86_64.audit, 0, [1]) == ALLOW


def test_first_unconditional_rule_stays() -> None:
    made = compiled(profile(rule("read", "SCMP_ACT_LOG"), rule("read", "SCMP_ACT_KILL_PROCESS")))
    assert made.run(X86_64.audit, 0) == kernel.RET_LOG


def test_first_rule_on_arguments_that_holds_decides() -> None:
    made = compiled(profile(rule("read", "SCMP_ACT_LOG", arg(0, "GT", 3)), rule("read", "SCMP_ACT_ALLOW", arg(0, "GT", 1))))
    assert [made.run(X86_64.audit, 0, [fd]) for fd in (1, 2, 4)] == [EPERM, ALLOW, kernel.RET_LOG]


def test_rule_with_the_default_answer_is_left_out() -> None:
    made = profile(rule("read", "SCMP_ACT_ALLOW", arg(0, "EQ", 1)), rule("read", "SCMP_ACT_ERRNO", data=errno.EPERM))
    assert compiled(made).run(X86_64.audit, 0, [1]) == ALLOW


def test_unknown_names_are_ignored() -> None:
    assert compiled(profile(rule("read from_the_future"))).run(X86_64.audit, 0) == ALLOW


@pytest.mark.parametrize(
    ("action", "data", "answer"),
    [
        ("SCMP_ACT_ALLOW", None, 0x7FFF0000),
        ("SCMP_ACT_ERRNO", None, 0x00050001),
        ("SCMP_ACT_ERRNO", 4095, 0x00050FFF),
        ("SCMP_ACT_ERRNO", 0, 0x00050000),
        ("SCMP_ACT_KILL", None, 0x00000000),
        ("SCMP_ACT_KILL_THREAD", None, 0x00000000),
        ("SCMP_ACT_KILL_PROCESS", None, 0x80000000),
        ("SCMP_ACT_TRAP", None, 0x00030000),
        ("SCMP_ACT_TRACE", 7, 0x7FF00007),
        ("SCMP_ACT_LOG", None, 0x7FFC0000),
        ("SCMP_ACT_NOTIFY", None, 0x7FC00000),
    ],
)
def test_actions_are_the_kernels_words(action: str, data: int | None, answer: int) -> None:
    made = profile(
        rule("read", action, data=data), listener_path="/run/listener.sock", default="SCMP_ACT_ERRNO", default_errno_ret=5
    )
    assert compiled(made).run(X86_64.audit, 0) == answer


def test_other_architectures_and_unlisted_x32_kill() -> None:
    made = compiled(profile(default="SCMP_ACT_ALLOW"))
    assert made.run(AARCH64.audit, 0) == KILL
    assert made.run(X86.audit, 0) == KILL
    assert made.run(X86_64.audit, 0x40000000) == KILL
    assert made.run(X86_64.audit, 2**32 - 1) == ALLOW


def test_a_call_that_one_architecture_lacks_is_not_looked_for_there() -> None:
    made = compiled(profile(rule("fcntl64", "SCMP_ACT_KILL"), default="SCMP_ACT_ALLOW", architectures=[ARM.name]), "aarch64")
    number = numbers(ARM)["fcntl64"]
    assert [made.run(audit, number) for audit in (ARM.audit, AARCH64.audit)] == [KILL, ALLOW]


def test_own_architecture_is_always_included_and_foreign_ones_are_passed_over() -> None:
    made = profile(rule("read"), architectures=["SCMP_ARCH_S390X", "SCMP_ARCH_RISCV64"])
    assert compiled(made).run(X86_64.audit, 0) == ALLOW
    assert compiled(made, "aarch64").run(AARCH64.audit, numbers(AARCH64)["read"]) == ALLOW


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (profile(default="SCMP_ACT_NOTHING"), "linux.seccomp.default: unknown action 'SCMP_ACT_NOTHING'"),
        (profile(default="SCMP_ACT_NOTIFY"), "defaultAction: SCMP_ACT_NOTIFY cannot be used as default action"),
        (profile(default="SCMP_ACT_ALLOW", default_errno_ret=1), "SCMP_ACT_ALLOW takes no errnoRet"),
        (profile(rule("read", "SCMP_ACT_KILL", data=1)), r"syscalls\[0\]: SCMP_ACT_KILL takes no errnoRet"),
        (profile(rule("read", "SCMP_ACT_ERRNO", data=4096)), "errnoRet 4096 is not between 0 and 4095"),
        (profile(rule("read", "SCMP_ACT_NOTIFY")), "needs linux.seccomp.listenerPath"),
        (profile(rule("write", "SCMP_ACT_NOTIFY"), listener_path="/x"), "SCMP_ACT_NOTIFY cannot be used for the write syscall"),
        (profile(rule("read", "SCMP_ACT_ALLOW", arg(6, "EQ", 0))), "index 6 is not between 0 and 5"),
        (profile(rule("read", "SCMP_ACT_ALLOW", arg(0, "IS", 0))), "unknown operator 'SCMP_CMP_IS'"),
        (profile(rule("read", "SCMP_ACT_ALLOW", arg(0, "EQ", 2**64))), "does not fit in 64 unsigned bits"),
        (profile(rule("read", "SCMP_ACT_ALLOW", arg(0, "EQ", -1))), "does not fit in 64 unsigned bits"),
        (profile(architectures=["SCMP_ARCH_VAX"]), "unknown architecture 'SCMP_ARCH_VAX'"),
        (
            profile(rule("read", "SCMP_ACT_ALLOW", arg(0, "EQ", 1)), rule("read", "SCMP_ACT_LOG", arg(0, "EQ", 1))),
            "read has two actions under one condition",
        ),
    ],
)
def test_impossible_profiles_name_the_field(made: schema.Seccomp, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        seccomp.assemble(made, "x86_64")


def test_machine_without_a_table_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="no system call table for 's390x'"):
        seccomp.compile_filter(profile(), "s390x")


def crowded(rules_per_call: int, calls: int = 60) -> schema.Seccomp:
    """Every other call has many rules on arguments, none like another's, so that the tree's branches lie far apart."""
    table = numbers(X86_64)
    names = sorted(table, key=table.__getitem__)[: 2 * calls : 2]
    return profile(
        *(
            rule(name, "SCMP_ACT_ALLOW", arg(0, "EQ", 1000 * table[name] + 3 * value))
            for name in names
            for value in range(rules_per_call)
        )
    )


def test_jumps_over_more_than_255_instructions_arrive() -> None:
    ours = compiled(crowded(12))
    assert len(ours) > 2048
    for number in range(120):
        for extra in (0, 3, 33, 34, 36, 2**32 + 3):
            allowed = number % 2 == 0 and extra % 3 == 0 and extra < 36
            assert ours.run(X86_64.audit, number, [1000 * number + extra]) == (ALLOW if allowed else EPERM)


def test_more_than_4096_instructions_are_refused_with_the_count() -> None:
    with pytest.raises(InvalidSpec, match=r"makes \d{4,5} instructions and the kernel takes 4096; name fewer calls"):
        seccomp.assemble(crowded(30), "x86_64")


def test_numbers_above_the_newest_named_call_are_missing_rather_than_denied() -> None:
    made = profile(rule("read"), rule("futex_waitv", "SCMP_ACT_KILL"), architectures=[abi.name for abi in MACHINES["x86_64"]])
    ours = compiled(made, refuse_newer=True)
    for abi in MACHINES["x86_64"]:
        newest = numbers(abi)["futex_waitv"]
        assert [ours.run(abi.audit, number) for number in (newest - 1, newest, newest + 1, newest + 1000)] == [
            EPERM,
            KILL,
            ENOSYS,
            ENOSYS,
        ]


def test_a_newest_call_that_is_itself_denied_stays_denied() -> None:
    ours = compiled(profile(rule("read"), rule("futex_waitv", "SCMP_ACT_ERRNO", data=errno.EPERM)), refuse_newer=True)
    newest = numbers(X86_64)["futex_waitv"]
    assert [ours.run(X86_64.audit, number) for number in (newest, newest + 1)] == [EPERM, ENOSYS]


def test_private_calls_of_arm_are_not_the_newest() -> None:
    made = profile(rule("read cacheflush"), architectures=[ARM.name])
    ours = compiled(made, "aarch64", refuse_newer=True)
    assert [ours.run(ARM.audit, number) for number in (3, 4, 0xF0002, 0xF0003)] == [ALLOW, ENOSYS, ALLOW, ENOSYS]


def test_nothing_is_missing_where_nothing_is_named() -> None:
    assert compiled(profile(), refuse_newer=True).run(X86_64.audit, 9999) == EPERM


@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_permissive_defaults_let_newer_calls_through(default: str) -> None:
    made = profile(rule("read", "SCMP_ACT_KILL"), default=default)
    assert seccomp.assemble(made, "x86_64") == seccomp.assemble(made, "x86_64", refuse_newer=False)


@requires("root", "machine x86_64")
def test_kernel_takes_a_filter_with_long_jumps() -> None:
    made = seccomp.assemble(profile(*crowded(12).syscalls, default="SCMP_ACT_ALLOW"), "x86_64")
    blocking = profile(
        rule("getppid", "SCMP_ACT_ERRNO", data=77),
        rule("getpid", "SCMP_ACT_ERRNO", arg(0, "GE", 2**40), data=78),
        default="SCMP_ACT_ALLOW",
    )

    def confined() -> list[int]:
        kernel.install(made)
        kernel.install(seccomp.assemble(blocking, "x86_64"))
        table = numbers(X86_64)
        return [call(table["getppid"]), call(table["getpid"]), call(table["getpid"], 2**40), call(table["getpid"], 2**40 - 1)]

    assert child.run(confined) == [77, 0, 78, 0]
