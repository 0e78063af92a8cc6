"""What the kernel does with a seccomp filter, in Python: check it as seccomp_check_filter() does, then run it.

Every instruction that the kernel lets a filter have and that libseccomp or we lay is here; any other
is refused, so that a filter the kernel would refuse does not pass a test.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

Instruction = tuple[int, int, int, int]

JUMPS = {0x15: "jeq", 0x25: "jgt", 0x35: "jge", 0x45: "jset"}
LOAD, AND, ALWAYS, RETURN = 0x20, 0x54, 0x05, 0x06


class Filter:
    """A filter's instructions, checked: every jump lands inside, the last instruction returns."""

    def __init__(self, program: bytes) -> None:
        self.instructions: list[Instruction] = list(struct.iter_unpack("<HBBI", program))
        assert 0 < len(self.instructions) <= 4096
        assert self.instructions[-1][0] == RETURN
        for position, (code, yes, no, operand) in enumerate(self.instructions):
            assert code in JUMPS or code in (LOAD, AND, ALWAYS, RETURN), f"instruction {position} has the code {code:#x}"
            if code in JUMPS:
                assert position + 1 + max(yes, no) < len(self.instructions)
            if code == ALWAYS:
                assert position + 1 + operand < len(self.instructions)
            if code == LOAD:
                assert operand % 4 == 0
                assert operand < 64

    def __len__(self) -> int:
        return len(self.instructions)

    def run(self, architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
        """What the filter returns for call *number*; *arguments* that are not given are zero."""
        return self.trace(architecture, number, arguments)[0]

    def trace(self, architecture: int, number: int, arguments: Sequence[int] = ()) -> tuple[int, list[Instruction]]:
        """What it returns, and the instructions it took."""
        padded = [*arguments, *[0] * (6 - len(arguments))]
        words = struct.unpack("<16I", struct.pack("<IIQ6Q", number, architecture, 0, *padded))
        accumulator, position = 0, 0
        taken: list[Instruction] = []
        while True:
            code, yes, no, operand = instruction = self.instructions[position]
            taken.append(instruction)
            position += 1
            if code == RETURN:
                return operand, taken
            if code == LOAD:
                accumulator = words[operand // 4]
            elif code == AND:
                accumulator &= operand
            elif code == ALWAYS:
                position += operand
            else:
                position += yes if _holds(code, accumulator, operand) else no


def _holds(code: int, accumulator: int, operand: int) -> bool:
    match JUMPS[code]:
        case "jeq":
            return accumulator == operand
        case "jgt":
            return accumulator > operand
        case "jge":
            return accumulator >= operand
    return bool(accumulator & operand)
