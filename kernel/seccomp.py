"""seccomp(2): install a filter in the calling thread; the constants a filter is made of.

A filter binds the thread that installs it and all it starts later, for good.  The kernel asks for
no_new_privs or CAP_SYS_ADMIN first, because a filter above a setuid program could make it misbehave.
"""

from __future__ import annotations

import errno
import struct

from kernel._linux import ffi, lib
from kernel.errors import check, failure
from kernel.fd import Fd

RET_KILL_PROCESS = int(lib.SECCOMP_RET_KILL_PROCESS)
RET_KILL_THREAD = int(lib.SECCOMP_RET_KILL_THREAD)
RET_TRAP = int(lib.SECCOMP_RET_TRAP)
RET_ERRNO = int(lib.SECCOMP_RET_ERRNO)
RET_USER_NOTIF = int(lib.SECCOMP_RET_USER_NOTIF)
RET_TRACE = int(lib.SECCOMP_RET_TRACE)
RET_LOG = int(lib.SECCOMP_RET_LOG)
RET_ALLOW = int(lib.SECCOMP_RET_ALLOW)
RET_DATA = int(lib.SECCOMP_RET_DATA)

AUDIT_ARCH_X86_64 = int(lib.AUDIT_ARCH_X86_64)
AUDIT_ARCH_I386 = int(lib.AUDIT_ARCH_I386)
AUDIT_ARCH_AARCH64 = int(lib.AUDIT_ARCH_AARCH64)
AUDIT_ARCH_ARM = int(lib.AUDIT_ARCH_ARM)

#: The flags of an OCI profile.  WAIT_KILLABLE_RECV (Linux 5.19) is newer than Debian 11's headers, so it is written out.
FLAGS: dict[str, int] = {
    "SECCOMP_FILTER_FLAG_TSYNC": int(lib.SECCOMP_FILTER_FLAG_TSYNC),
    "SECCOMP_FILTER_FLAG_LOG": int(lib.SECCOMP_FILTER_FLAG_LOG),
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": int(lib.SECCOMP_FILTER_FLAG_SPEC_ALLOW),
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}

#: One struct sock_filter: code, jump if true, jump if false, operand.  x86-64 and aarch64 are both little endian.
INSTRUCTION = struct.Struct("<HBBI")

#: BPF_MAXINSNS of linux/bpf_common.h, by which the kernel refuses a longer filter.
MAX_INSTRUCTIONS = 4096


def filter_length(filter_bytes: bytes) -> int:
    """The number of instructions in *filter_bytes*; raises ValueError for what no kernel would take."""
    count, rest = divmod(len(filter_bytes), INSTRUCTION.size)
    if rest or not 0 < count <= MAX_INSTRUCTIONS:
        raise ValueError(f"a filter of {len(filter_bytes)} bytes is not 1 to {MAX_INSTRUCTIONS} instructions of 8 bytes")
    return count


def is_supported(flag: str) -> bool:
    """Whether this kernel takes *flag* of ``FLAGS``: asked with no filter, it complains of that, if not of the flag before."""
    value = FLAGS[flag]
    if flag == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV":  # goes with a listener alone
        value |= lib.SECCOMP_FILTER_FLAG_NEW_LISTENER
    return bool(lib.linux_seccomp(lib.SECCOMP_SET_MODE_FILTER, value, ffi.NULL) < 0 and ffi.errno == errno.EFAULT)


def install(filter_bytes: bytes, *, flags: int = 0) -> None:
    """Put *filter_bytes* (an array of struct sock_filter) before every system call of this thread.

    Raises OSError: EACCES without no_new_privs or CAP_SYS_ADMIN, EINVAL for a filter or flag that the
    kernel does not take, ESRCH when TSYNC met a thread with a filter of its own.
    """
    if _install(filter_bytes, flags) > 0:
        raise failure(errno.ESRCH, "seccomp")


def install_listener(filter_bytes: bytes, *, flags: int = 0) -> Fd:
    """``install``, and the descriptor on which calls with the action USER_NOTIF wait for an answer."""
    return Fd(_install(filter_bytes, flags | lib.SECCOMP_FILTER_FLAG_NEW_LISTENER))


def _install(filter_bytes: bytes, flags: int) -> int:
    program = ffi.new("struct sock_fprog *")
    program.len = filter_length(filter_bytes)
    instructions = ffi.from_buffer("struct sock_filter[]", filter_bytes)
    program.filter = instructions
    return check(lib.linux_seccomp(lib.SECCOMP_SET_MODE_FILTER, flags, program), "seccomp")
