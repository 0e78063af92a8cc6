"""System call numbers per architecture, for seccomp profiles, which name calls.

``syscalls.json`` was made once, not by hand: ``gcc -E -dM`` over asm/unistd.h of Debian 12's
linux-libc-dev (x86_64; -m32; -mx32), linux-libc-dev-arm64-cross and linux-libc-dev-armhf-cross (Linux
6.1) gave every ``__NR_`` and ``__ARM_NR_`` name its value; the calls since (Linux 6.2 to 6.19, numbers 451
to 471, the same everywhere but for map_shadow_stack, uretprobe and uprobe) were appended and the
whole compared with libseccomp's table.  x32 numbers are written without bit 30.  ``multiplexed`` are
the operations of socketcall(2) and ipc(2) (linux/net.h, linux/ipc.h), by which i386 reaches calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec

from kernel.seccomp import AUDIT_ARCH_AARCH64, AUDIT_ARCH_ARM, AUDIT_ARCH_I386, AUDIT_ARCH_X86_64

#: Bit 30 of an x86-64 call number marks the x32 ABI.
X32_BIT = 0x40000000

#: Above this, ARM has private calls (cacheflush, set_tls), whose numbers say nothing about age.
PRIVATE = 0xF0000


@dataclass(frozen=True, slots=True)
class Architecture:
    """A system call ABI: its name in a profile, its column in the table, what seccomp_data.arch says, its word size."""

    name: str
    column: str
    audit: int
    bits: int
    base: int = 0


X86_64 = Architecture("SCMP_ARCH_X86_64", "x86_64", AUDIT_ARCH_X86_64, 64)
X32 = Architecture("SCMP_ARCH_X32", "x32", AUDIT_ARCH_X86_64, 32, X32_BIT)
X86 = Architecture("SCMP_ARCH_X86", "x86", AUDIT_ARCH_I386, 32)
AARCH64 = Architecture("SCMP_ARCH_AARCH64", "aarch64", AUDIT_ARCH_AARCH64, 64)
ARM = Architecture("SCMP_ARCH_ARM", "arm", AUDIT_ARCH_ARM, 32)

#: What one machine's kernel can run, its own ABI first.
MACHINES: dict[str, tuple[Architecture, ...]] = {"x86_64": (X86_64, X86, X32), "aarch64": (AARCH64, ARM)}

#: Other names that a profile may list (runtime-spec 1.3); calls of theirs never arrive on these machines.
_FOREIGN = """
    MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64
    LOONGARCH64 M68K SH SHEB
"""
FOREIGN = frozenset(f"SCMP_ARCH_{name}" for name in _FOREIGN.split())


#: ipc(2) reads a version from the upper half of its first argument (ipc/syscall.c).
_OPERATION_MASKS = {"socketcall": 0xFFFFFFFF, "ipc": 0xFFFF}


class _Table(msgspec.Struct):
    columns: list[str]
    multiplexed: dict[str, dict[str, int]]
    numbers: dict[str, list[int | None]]


@cache
def numbers(architecture: Architecture) -> dict[str, int]:
    """Name to number, as seccomp_data.nr has it (with bit 30 on x32).  A name can share its number with another."""
    table = _table()
    column = table.columns.index(architecture.column)
    return {name: number + architecture.base for name, row in table.numbers.items() if (number := row[column]) is not None}


def multiplexed(architecture: Architecture) -> dict[str, list[tuple[str, int, int]]]:
    """Call to its other ways in: the multiplexer, the operation in its first argument, and the bits that count of it."""
    ways: dict[str, list[tuple[str, int, int]]] = {}
    if architecture is X86:
        for multiplexer, operations in _table().multiplexed.items():
            mask = _OPERATION_MASKS[multiplexer]
            for name, operation in operations.items():
                ways.setdefault(name, []).append((multiplexer, operation, mask))
    return ways


@cache
def _table() -> _Table:
    text = resources.files("runtime.container").joinpath("syscalls.json").read_bytes()
    return msgspec.json.decode(text, type=_Table)
