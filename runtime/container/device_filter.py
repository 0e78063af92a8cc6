"""Which devices a container may use: the spec's rules as a BPF program for its cgroup.

Cgroup v2 has no file for it.  Without the program CAP_MKNOD, which every container has, would be a
way to the host's disks and memory: a node is made anywhere, and opened.

The rules of the spec are a list in which the last match wins; the program is the list from its end,
in which the first does.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from kernel.bpf import attach_device_program
from kernel.cgroup import Cgroup
from kernel.fd import open_path
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import defaults, schema

#: enum bpf_devcg: the low half of access_type is the kind of device, the high half what is asked for.
_KINDS = {"b": 1, "c": 2, "u": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_EVERY = 7
_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_WORD, _MOVE, _AND, _SHIFT_RIGHT = 0x61, 0xBC, 0x54, 0x74
_JUMP_IF_EQUAL, _JUMP_UNLESS_EQUAL, _JUMP_UNLESS_SAME = 0x16, 0x56, 0x5E
_RESULT, _EXIT = 0xB7, 0x95
#: What the registers hold: r1 the context, then a scratch.
_SCRATCH, _KIND, _ASKED, _MAJOR, _MINOR = 1, 2, 3, 4, 5


def apply(cgroup: Cgroup, linux: schema.Linux) -> None:
    """Put the device rules of *linux* on *cgroup*: 0.25 ms for the usual 64 instructions.

    Raises InvalidSpec for a rule that is none, Unsupported when the kernel takes no such program.
    """
    code = compile_rules(rules_of(linux))
    if code is None:
        return
    with open_path(cgroup.path, os.O_RDONLY | os.O_DIRECTORY) as opened:
        try:
            attach_device_program(opened, code)
        except OSError as error:
            raise Unsupported(
                f"rules of devices: the kernel takes no program for a cgroup's devices: {(error.strerror or '').lower()}; "
                "it needs CONFIG_CGROUP_BPF, and the daemon CAP_BPF and CAP_NET_ADMIN or CAP_SYS_ADMIN"
            ) from error


def rules_of(linux: schema.Linux) -> list[schema.DeviceRule]:
    """The rules that the spec has; of a spec without any, what every container gets and the devices that are made for it."""
    if linux.resources is not None and linux.resources.devices:
        return linux.resources.devices
    made = [
        schema.DeviceRule(allow=True, type="c" if device.type == "u" else device.type, major=device.major, minor=device.minor)
        for device in linux.devices
        if device.type != "p"
    ]
    return [*defaults.device_rules(), *made]


def compile_rules(rules: Sequence[schema.DeviceRule]) -> bytes | None:
    """The BPF instructions of *rules*; None when they allow everything.  What no rule speaks of is refused.

    Raises InvalidSpec for a type or an access that there is not.
    """
    if rules and _is_for_all(rules[-1]) and rules[-1].allow:
        return None
    code = [
        _instruction(_LOAD_WORD, _KIND, 1, 0),
        _instruction(_MOVE, _ASKED, _KIND),
        _instruction(_AND, _KIND, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT, _ASKED, immediate=16),
        _instruction(_LOAD_WORD, _MAJOR, 1, 4),
        _instruction(_LOAD_WORD, _MINOR, 1, 8),
    ]
    for rule in reversed(rules):
        code += _compile(rule)
        if _is_for_all(rule):  # the verifier takes no instruction that is never reached
            return b"".join(code)
    return b"".join((*code, *_answer(allow=False)))


def _compile(rule: schema.DeviceRule) -> list[bytes]:
    """*rule*: jump over its answer as soon as something does not match."""
    if rule.type != "a" and rule.type not in _KINDS:
        raise InvalidSpec(f"linux.resources.devices: unknown type {rule.type!r}")
    if not set(rule.access) <= set(_ACCESS):
        raise InvalidSpec(f"linux.resources.devices: unknown access {rule.access!r}")
    conditions: list[tuple[int, int, int]] = []
    if rule.type != "a":
        conditions.append((_JUMP_UNLESS_EQUAL, _KIND, _KINDS[rule.type]))
    for register, number in ((_MAJOR, rule.major), (_MINOR, rule.minor)):
        if number is not None and number >= 0:
            conditions.append((_JUMP_UNLESS_EQUAL, register, number))
    answer = _answer(allow=rule.allow)
    access = _access(rule, len(answer))
    code = []
    for place, (jump, register, number) in enumerate(conditions):
        over = len(conditions) - place - 1 + len(access) + len(answer)
        code.append(_instruction(jump, register, offset=over, immediate=number))
    return [*code, *access, *answer]


def _access(rule: schema.DeviceRule, over: int) -> list[bytes]:
    """Allowed is what the rule covers in full; refused is what asks for any part of it."""
    mask = sum(_ACCESS[letter] for letter in set(rule.access))
    if mask == _EVERY:
        return []
    start = [_instruction(_MOVE, _SCRATCH, _ASKED), _instruction(_AND, _SCRATCH, immediate=mask)]
    if rule.allow:
        return [*start, _instruction(_JUMP_UNLESS_SAME, _SCRATCH, _ASKED, over)]
    return [*start, _instruction(_JUMP_IF_EQUAL, _SCRATCH, offset=over)]


def _is_for_all(rule: schema.DeviceRule) -> bool:
    return rule.type == "a" and rule.major in (None, -1) and rule.minor in (None, -1) and set(rule.access) == set(_ACCESS)


def _answer(*, allow: bool) -> list[bytes]:
    return [_instruction(_RESULT, 0, immediate=int(allow)), _instruction(_EXIT)]


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    signed = immediate - (1 << 32) if immediate >= 1 << 31 else immediate
    return _INSTRUCTION.pack(code, target | source << 4, offset, signed)
