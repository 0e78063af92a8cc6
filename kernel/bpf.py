"""BPF programs on a cgroup (bpf(2)): load, attach.

A program that is attached lives as long as the cgroup; nothing of it must be taken away.
"""

from __future__ import annotations

import struct

from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd

#: struct bpf_insn is eight bytes: code, registers, offset, immediate.
INSTRUCTION_SIZE = 8
_LOAD = struct.Struct("=IIQQIIQII")
_ATTACH = struct.Struct("=IIII")
_LICENSE = b"Apache-2.0"


def attach_device_program(cgroup: Fd, code: bytes) -> None:
    """Let the BPF program *code* decide of every device that a process in *cgroup* and below opens or makes.

    It is asked besides those of the cgroups above: all must agree.  *cgroup* must be opened for reading.
    Raises OSError: EINVAL when the kernel's verifier refuses the program, EPERM without CAP_BPF or CAP_SYS_ADMIN.
    """
    instructions, license_ = ffi.from_buffer(code), ffi.new("char[]", _LICENSE)
    load = _LOAD.pack(
        lib.BPF_PROG_TYPE_CGROUP_DEVICE,
        len(code) // INSTRUCTION_SIZE,
        int(ffi.cast("uintptr_t", instructions)),
        int(ffi.cast("uintptr_t", license_)),
        0, 0, 0, 0, 0,
    )  # fmt: skip
    with Fd(_bpf(lib.BPF_PROG_LOAD, load)) as program:
        _bpf(
            lib.BPF_PROG_ATTACH,
            _ATTACH.pack(cgroup.fileno(), program.fileno(), lib.BPF_CGROUP_DEVICE, lib.BPF_F_ALLOW_MULTI),
        )


def _bpf(command: int, attributes: bytes) -> int:
    memory = ffi.new("char[]", attributes)
    return check(lib.linux_syscall(lib.SYS_bpf, command, int(ffi.cast("intptr_t", memory)), len(attributes), 0, 0, 0), "bpf")
