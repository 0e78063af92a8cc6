"""Three spellings of a signal mean one number, and every CRI signal has one."""

from __future__ import annotations

import signal

import pytest

from cri import signals
from cri.api import api_pb2 as api
from runtime.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("15", 15),
        (" SIGKILL ", 9),
        ("SIGCLD", 17),
        ("SIGPOLL", 29),
        ("SIGRTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-14", 50),
        ("SIGRTMAXMINUS1", 63),
        ("SIGRTMAX", 64),
    ],
)
def test_spellings(text: str, number: int) -> None:
    assert signals.parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "SIG", "SIGDFL", "_DFL", "0", "32", "65", "-9", "SIGRTMIN+31", "SIGRTMAX-31", "\u0661\u0665"]
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown signal"):
        signals.parse_signal(text)


def test_every_signal_of_the_cri_is_one_of_linux() -> None:
    numbers = {name: signals.from_api(value) for name, value in api.Signal.items()}
    assert numbers.pop("SIGNAL_RUNTIME_DEFAULT") is None
    assert numbers["SIGNAL_SIGTERM"] == 15
    assert set(numbers.values()) == set(signal.valid_signals())


def test_there_and_back() -> None:
    for number in signal.valid_signals():
        assert signals.from_api(api.Signal.Value(signals.to_api(number))) == number


def test_an_unknown_number_of_the_cri_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="99"):
        signals.from_api(api.ContainerConfig.FromString(b"\x90\x01\x63").stop_signal)
    assert signals.to_api(99) == "SIGNAL_RUNTIME_DEFAULT"
