"""Installing a system call filter, with the flags that its profile asks for."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.program import Filter, Flags, Program
from runtime.spec import schema

_PREFIX = "SECCOMP_FILTER_FLAG_"
NEW_LISTENER, TSYNC, KILLABLE = f"{_PREFIX}NEW_LISTENER", f"{_PREFIX}TSYNC", f"{_PREFIX}WAIT_KILLABLE_RECV"
SPEC_ALLOW = f"{_PREFIX}SPEC_ALLOW"
#: The slot, and so the step, that tells the number of the listener.
LISTENER = "listener"


@dataclass(frozen=True, slots=True)
class SystemCallFilter:
    """A compiled profile: its instructions, and the flags for seccomp(2)."""

    code: bytes
    flags: tuple[str, ...] = ()
    allows_clock: bool = True
    """The runner may go on to note when each step was over."""

    @property
    def flags_value(self) -> int:
        """The flags as the kernel takes them."""
        return Flags(self.flags).value()

    @property
    def listens(self) -> bool:
        """Some calls wait for an answer, on a descriptor that the process gets from the kernel for its launcher."""
        return NEW_LISTENER in self.flags


def needs_listener(profile: schema.Seccomp) -> bool:
    """Whether there are calls that wait for an answer.

    Where there are none an agent that *profile* names is told nevertheless, if it is there: crun does, and its callers wait
    for it.  runtime-spec has the name ignored then, so it is no fault if there is nobody.
    """
    return any(rule.action == "SCMP_ACT_NOTIFY" for rule in profile.syscalls)


def flags_of(profile: schema.Seccomp) -> tuple[str, ...]:
    """The flags for seccomp(2) that *profile* needs.

    TSYNC is for other threads, of which a program has none, and the kernel refuses it with a listener;
    WAIT_KILLABLE_RECV is about the listener and refused without.  A profile that does not speak of flags gets
    SPEC_ALLOW, as from runc and crun: a filter is not to slow down all that a program does.
    """
    listens = needs_listener(profile) or bool(profile.listener_path)
    asked = (SPEC_ALLOW,) if profile.flags is None else tuple(dict.fromkeys(profile.flags))
    idle = (TSYNC,) if listens else (TSYNC, KILLABLE)
    return (*(flag for flag in asked if flag not in idle), *((NEW_LISTENER,) if listens else ()))


def compiled(profile: schema.Seccomp | None) -> bytes | None:
    """The instructions of *profile*'s filter; None without one, and then the compiler is not imported either."""
    if profile is None:
        return None
    from runtime.container.seccomp import compile_filter

    return compile_filter(profile)


def of(profile: schema.Seccomp | None, code: bytes | None) -> SystemCallFilter | None:
    """The filter whose instructions *code* was compiled from *profile*; None without one."""
    if code is None:
        return None
    if profile is None:
        return SystemCallFilter(code)
    return SystemCallFilter(code, flags_of(profile), _allows(profile, "clock_gettime"))


def _allows(profile: schema.Seccomp, name: str) -> bool:
    """Whether a call is certain to be let through, whatever its arguments.

    clock_gettime(2) is a case by itself: programs read the clock without a system call, so it is missing in profiles that
    were made by watching one, and the runner, which has no C library, would be killed for it.
    """
    quiet = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    rules = [rule for rule in profile.syscalls if name in rule.names]
    always = next((rule.action for rule in rules if not rule.args), profile.default_action)
    return always in quiet and all(rule.action in quiet for rule in rules)


def install(steps: Program, filter_: SystemCallFilter, when: str) -> None:
    """Put the filter before every system call from here on; *when* says why here."""
    steps.heading("system call filter")
    steps.call(
        "seccomp",
        Flags(("SECCOMP_SET_MODE_FILTER",)),
        Flags(filter_.flags) if filter_.flags else 0,
        Filter(filter_.code),
        store=LISTENER if filter_.listens else None,
        ends_clock=not filter_.allows_clock,
        why=f"the system call filter: {when}",
        hint="the filter is longer than the kernel takes, or the kernel has no seccomp"
        + (f", or is too old for {' '.join(filter_.flags)}" if filter_.flags else ""),
    )
