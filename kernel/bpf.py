"""BPF programs on a cgroup (bpf(2)): load, attach, replace.

A program that is attached lives as long as the cgroup; nothing of it must be taken away.
"""

from __future__ import annotations

import struct
import threading

from kernel._linux import ffi, lib
from kernel.errors import check
from kernel.fd import Fd

#: struct bpf_insn is eight bytes: code, registers, offset, immediate.
INSTRUCTION_SIZE = 8
#: Programs that one cgroup may have of one kind (BPF_CGROUP_MAX_PROGS).
MOST = 64
_LOAD = struct.Struct("=IIQQIIQII")
_ATTACH = struct.Struct("=IIIII")  # and detach
_QUERY = struct.Struct("=IIIIQI36x")  # with room for all that a kernel may answer (a revision, since 6.17)
_BY_ID = struct.Struct("=III")
_LICENSE = b"Apache-2.0"


class LoadedPrograms:
    """Programs that the kernel has verified already, by their code: what most cgroups get is loaded once (0.5 ms each time).

    Whoever keeps it closes it; a program that is attached stays.
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._programs: dict[bytes, Fd] = {}

    def duplicate(self, code: bytes) -> Fd:
        """A descriptor of the device program *code*, loaded now unless it was before."""
        with self._lock:
            program = self._programs.pop(code, None) or _load(code)
            self._programs[code] = program  # the last one used is the last to go
            while len(self._programs) > self._most:
                self._programs.pop(next(iter(self._programs))).close()
            return program.duplicate()

    def close(self) -> None:
        with self._lock:
            for program in self._programs.values():
                program.close()
            self._programs.clear()


def set_device_program(cgroup: Fd, code: bytes | None, loaded: LoadedPrograms | None = None) -> None:
    """Let the BPF program *code*, and none that was set before, decide of every device opened or made in *cgroup* and below.

    It is asked besides those of the cgroups above: all must agree.  None lets everything be.  At no time in
    between is there less than one of the two programs.  *cgroup* must be opened for reading.
    Raises OSError: EINVAL when the kernel's verifier refuses the program, EPERM without CAP_BPF or CAP_SYS_ADMIN.
    """
    before = device_programs(cgroup)
    if code is not None:
        with _load(code) if loaded is None else loaded.duplicate(code) as program:
            if len(before) == 1:  # in one step (Linux 5.6)
                with _open(before.pop()) as old:
                    _attach(cgroup, program, lib.BPF_F_ALLOW_MULTI | lib.BPF_F_REPLACE, old)
            else:
                _attach(cgroup, program, lib.BPF_F_ALLOW_MULTI)
    for number in before:
        with _open(number) as old:
            _bpf(lib.BPF_PROG_DETACH, _ATTACH.pack(cgroup.fileno(), old.fileno(), lib.BPF_CGROUP_DEVICE, 0, 0))


def device_programs(cgroup: Fd) -> list[int]:
    """The ids of the programs that *cgroup* itself has for devices, in the order in which they are asked."""
    ids = ffi.new("uint32_t[]", MOST)
    pointer = int(ffi.cast("uintptr_t", ids))
    memory = ffi.new("char[]", _QUERY.pack(cgroup.fileno(), lib.BPF_CGROUP_DEVICE, 0, 0, pointer, MOST))
    _call(lib.BPF_PROG_QUERY, memory)
    count = _QUERY.unpack(bytes(ffi.buffer(memory, _QUERY.size)))[5]
    return list(ids)[:count]


def _load(code: bytes) -> Fd:
    instructions, license_ = ffi.from_buffer(code), ffi.new("char[]", _LICENSE)
    attributes = _LOAD.pack(
        lib.BPF_PROG_TYPE_CGROUP_DEVICE,
        len(code) // INSTRUCTION_SIZE,
        int(ffi.cast("uintptr_t", instructions)),
        int(ffi.cast("uintptr_t", license_)),
        0, 0, 0, 0, 0,
    )  # fmt: skip
    return Fd(_bpf(lib.BPF_PROG_LOAD, attributes))


def _open(number: int) -> Fd:
    return Fd(_bpf(lib.BPF_PROG_GET_FD_BY_ID, _BY_ID.pack(number, 0, 0)))


def _attach(cgroup: Fd, program: Fd, flags: int, replaced: Fd | None = None) -> None:
    old = 0 if replaced is None else replaced.fileno()
    _bpf(lib.BPF_PROG_ATTACH, _ATTACH.pack(cgroup.fileno(), program.fileno(), lib.BPF_CGROUP_DEVICE, flags, old))


def _bpf(command: int, attributes: bytes) -> int:
    return _call(command, ffi.new("char[]", attributes))


def _call(command: int, memory: object) -> int:
    size = ffi.sizeof(memory) - 1  # cffi adds a NUL to bytes
    return check(lib.linux_syscall(lib.SYS_bpf, command, int(ffi.cast("intptr_t", memory)), size, 0, 0, 0), "bpf")
