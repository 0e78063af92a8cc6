"""libseccomp's filter for a profile, made the way runc makes it: the oracle for our compiler."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import pyseccomp

from kernel.fd import Fd
from runtime.spec import schema

ARCHITECTURES = {
    "SCMP_ARCH_X86_64": pyseccomp.Arch.X86_64,
    "SCMP_ARCH_X86": pyseccomp.Arch.X86,
    "SCMP_ARCH_X32": pyseccomp.Arch.X32,
    "SCMP_ARCH_AARCH64": pyseccomp.Arch.AARCH64,
    "SCMP_ARCH_ARM": pyseccomp.Arch.ARM,
}

OPERATORS = {
    "SCMP_CMP_NE": pyseccomp.NE,
    "SCMP_CMP_LT": pyseccomp.LT,
    "SCMP_CMP_LE": pyseccomp.LE,
    "SCMP_CMP_EQ": pyseccomp.EQ,
    "SCMP_CMP_GE": pyseccomp.GE,
    "SCMP_CMP_GT": pyseccomp.GT,
    "SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ,
}


def action(name: str, data: int | None) -> int:
    """libseccomp's number for an action of a profile."""
    data = errno.EPERM if data is None else data
    numbers: dict[str, int] = {
        "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
        "SCMP_ACT_ERRNO": pyseccomp.ERRNO(data),
        "SCMP_ACT_KILL": pyseccomp.KILL_THREAD,
        "SCMP_ACT_KILL_THREAD": pyseccomp.KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS,
        "SCMP_ACT_LOG": pyseccomp.LOG,
        "SCMP_ACT_NOTIFY": pyseccomp.NOTIFY,
        "SCMP_ACT_TRACE": pyseccomp.TRACE(data),
        "SCMP_ACT_TRAP": pyseccomp.TRAP,
    }
    return numbers[name]


def number_of(name: str, architecture: int) -> int:
    """libseccomp's number of call *name*: below -1 where the architecture lacks it, -1 where nobody has heard of it."""
    return int(pyseccomp.resolve_syscall(architecture, name))


def knows(name: str) -> bool:
    """Whether this libseccomp has heard of call *name*; Debian 12's is of Linux 5.17."""
    return number_of(name, pyseccomp.Arch.NATIVE) != -1


def compile_filter(profile: schema.Seccomp) -> bytes:
    """The exported filter, for exactly *profile*'s architectures; raises OSError where libseccomp refuses a rule."""
    default = action(profile.default_action, profile.default_errno_ret)
    made = pyseccomp.SyscallFilter(default)
    wanted = [ARCHITECTURES[name] for name in profile.architectures]
    for architecture in wanted:
        if architecture != pyseccomp.system_arch():
            made.add_arch(architecture)
    if pyseccomp.system_arch() not in wanted:
        made.remove_arch(pyseccomp.Arch.NATIVE)
    for rule in profile.syscalls:
        value = action(rule.action, rule.errno_ret)
        if value != default:
            for name in rule.names:
                _add(made, value, name, rule.args)
    with Fd(os.memfd_create("libseccomp")) as file:
        made.export_bpf(file)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        return os.read(file.fileno(), 1 << 20)


def _add(made: pyseccomp.SyscallFilter, value: int, name: str, arguments: Sequence[schema.SeccompArg]) -> None:
    conditions = [pyseccomp.Arg(one.index, OPERATORS[one.op], one.value, one.value_two) for one in arguments]
    if len({one.index for one in arguments}) < len(arguments):
        for condition in conditions:
            made.add_rule(value, name, condition)
    else:
        made.add_rule(value, name, *conditions)
