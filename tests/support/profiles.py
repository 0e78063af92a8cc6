"""Short ways to write seccomp profiles, to compile them into a filter that can be asked, and to ask the kernel."""

from __future__ import annotations

import errno

from kernel import seccomp as kernel
from kernel._linux import ffi, lib
from runtime.container import seccomp
from runtime.spec import schema
from tests.support import bpf

ALLOW = kernel.RET_ALLOW
EPERM = kernel.RET_ERRNO | errno.EPERM
ENOSYS = kernel.RET_ERRNO | errno.ENOSYS
KILL = kernel.RET_KILL_THREAD


def profile(*rules: schema.SyscallRule, default: str = "SCMP_ACT_ERRNO", **fields: object) -> schema.Seccomp:
    return schema.Seccomp(default_action=default, syscalls=list(rules), **fields)  # type: ignore[arg-type]


def rule(
    names: str, action: str = "SCMP_ACT_ALLOW", *arguments: schema.SeccompArg, data: int | None = None
) -> schema.SyscallRule:
    return schema.SyscallRule(names=names.split(), action=action, errno_ret=data, args=list(arguments))


def arg(index: int, operator: str, value: int, value_two: int = 0) -> schema.SeccompArg:
    return schema.SeccompArg(index=index, value=value, value_two=value_two, op=f"SCMP_CMP_{operator}")


def compiled(made: schema.Seccomp, machine: str = "x86_64", *, refuse_newer: bool = False) -> bpf.Filter:
    return bpf.Filter(seccomp.assemble(made, machine, refuse_newer=refuse_newer))


def call(number: int, *arguments: int) -> int:
    """The errno of a raw system call, 0 for success."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    return 0 if lib.linux_syscall(number, *padded) >= 0 else int(ffi.errno)
