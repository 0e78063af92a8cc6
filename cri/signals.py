"""Signals by name: the CRI numbers them alphabetically, images spell them, Linux counts its own way (pure)."""

from __future__ import annotations

import re
import signal

from cri.api import api_pb2 as api
from runtime.errors import InvalidArgument

_RELATIVE = re.compile(r"RT(?P<end>MIN|MAX)(?:PLUS|MINUS|\+|-)(?P<offset>\d{1,2})")
_NAMES = frozenset(api.Signal.keys())


def parse_signal(text: str) -> int:
    """Linux's number of ``SIGTERM``, ``term``, ``15``, ``SIGRTMIN+3`` or ``SIGRTMINPLUS3``.

    Raises InvalidArgument.  Real-time signals count from 34, as a C library shows them.
    """
    name = text.strip().upper().removeprefix("SIG")
    if name.isascii() and name.isdigit():
        return _checked(int(name), text)
    if match := _RELATIVE.fullmatch(name):
        offset = int(match["offset"])
        number = signal.SIGRTMIN + offset if match["end"] == "MIN" else signal.SIGRTMAX - offset
        return _checked(number if number >= signal.SIGRTMIN else 0, text)
    found = getattr(signal, f"SIG{name}", None)
    # signal.SIG_DFL and the like are no signals.
    if not isinstance(found, signal.Signals):
        raise InvalidArgument(f"unknown signal {text!r}")
    return int(found)


def from_api(value: api.Signal) -> int | None:
    """Linux's number of a CRI signal; None for "the runtime's default".  Raises InvalidArgument."""
    if value == api.SIGNAL_RUNTIME_DEFAULT:
        return None
    try:
        name = api.Signal.Name(value)
    except ValueError:
        raise InvalidArgument(f"stop_signal: unknown signal number {value}") from None
    return parse_signal(name.removeprefix("SIGNAL_"))


def to_api(number: int) -> str:
    """The CRI's name for Linux's *number*; the default's where it has none."""
    if signal.SIGRTMIN < number <= signal.SIGRTMIN + 15:
        name = f"SIGNAL_SIGRTMINPLUS{number - signal.SIGRTMIN}"
    elif signal.SIGRTMAX - 14 <= number < signal.SIGRTMAX:
        name = f"SIGNAL_SIGRTMAXMINUS{signal.SIGRTMAX - number}"
    elif number in signal.valid_signals():
        name = f"SIGNAL_{signal.Signals(number).name}"
    else:
        name = ""
    return name if name in _NAMES else "SIGNAL_RUNTIME_DEFAULT"


def _checked(number: int, text: str) -> int:
    if number not in signal.valid_signals():
        raise InvalidArgument(f"unknown signal {text!r}")
    return number
