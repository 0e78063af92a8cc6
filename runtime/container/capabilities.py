"""The five capability sets of a container's process (capabilities(7)).

A name that nobody knows, that this kernel lacks or that cannot be given here is left out, and the caller
warned (``unavailable``), as runtime-spec asks.  The inheritable set is what the spec says, empty unless it
says something: a full one gives dropped capabilities back to files that carry them (CVE-2022-29162).
"""

from __future__ import annotations

import errno

from kernel.capability import CAPABILITIES
from kernel.program import Flags, Program, Words
from runtime.spec import schema

_LOW = 0xFFFFFFFF


def unavailable(process: schema.Process, last_capability: int, grantable: int = ~0) -> list[str]:
    """What to warn of: the names in *process*'s sets that will not be given, for they are unknown here or not ours to give.

    And those that cannot be ambient, for they are not permitted or not inheritable; where nothing is inheritable nobody
    is warned: such lists were in the example that runc wrote for years, and never did anything.
    """
    sets = process.capabilities or schema.Capabilities()
    named = {*sets.bounding, *sets.effective, *sets.inheritable, *sets.permitted, *sets.ambient}
    refused = sorted(name for name in named if not _mask([name], last_capability, grantable))
    warnings = [f"process.capabilities: ignoring unknown or unavailable capabilities: {' '.join(refused)}"] if refused else []
    raisable = _mask(sets.permitted, last_capability, grantable) & _mask(sets.inheritable, last_capability, grantable)
    for name in dict.fromkeys(sets.ambient if sets.inheritable else ()):
        if name not in refused and not _mask([name], last_capability, raisable):
            why = "it would have to be permitted and inheritable"
            warnings.append(f"process.capabilities.ambient: can't raise ambient capability {name}: {why}")
    return warnings


def drop_bounding(steps: Program, capabilities: schema.Capabilities, last_capability: int) -> None:
    """Drop all but the spec's from the bounding set, which takes CAP_SETPCAP: before the user changes."""
    steps.heading("capabilities that can never come back")
    kept = {_number(name) for name in capabilities.bounding}
    names = {number: name for name, number in CAPABILITIES.items()}
    for number in range(last_capability + 1):
        if number not in kept:
            name = names.get(number, f"CAP_{number}")
            steps.call("prctl", Flags(("PR_CAPBSET_DROP",)), number, 0, 0, 0, why=f"{name} can never come back")


def set_all(steps: Program, capabilities: schema.Capabilities, last_capability: int, grantable: int) -> None:
    """The other four sets, after the user has changed; ambient last, for it must be permitted and inheritable."""
    steps.heading("capabilities")
    effective, permitted, inheritable = (
        _mask(names, last_capability, grantable)
        for names in (capabilities.effective, capabilities.permitted, capabilities.inheritable)
    )
    header = Words(4, (Flags(("_LINUX_CAPABILITY_VERSION_3",)).value(), 0), label="{version 3}")
    halves = (effective & _LOW, permitted & _LOW, inheritable & _LOW, effective >> 32, permitted >> 32, inheritable >> 32)
    steps.call(
        "capset",
        header,
        Words(4, halves),
        why="exactly the effective, permitted and inheritable capabilities of the spec",
        hint="process.capabilities: what is effective must be permitted as well, what is inheritable be in bounding too",
    )
    clear = Flags(("PR_CAP_AMBIENT_CLEAR_ALL",))
    steps.call("prctl", Flags(("PR_CAP_AMBIENT",)), clear, 0, 0, 0, why="no ambient capability but the spec's")
    for name in capabilities.ambient:
        if _mask([name], last_capability, grantable):
            steps.call(
                "prctl",
                Flags(("PR_CAP_AMBIENT",)),
                Flags(("PR_CAP_AMBIENT_RAISE",)),
                _number(name),
                0,
                0,
                tolerate=(errno.EPERM,),
                why=f"{name} survives execve (EPERM: it would have to be permitted and inheritable)",
            )


def _mask(names: list[str], last_capability: int, grantable: int) -> int:
    every = (1 << last_capability + 1) - 1
    return sum(1 << number for number in {_number(name) for name in names} if number >= 0) & every & grantable


def _number(name: str) -> int:
    return CAPABILITIES.get(name, -1)
