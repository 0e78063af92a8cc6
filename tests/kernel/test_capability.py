"""Capability sets of this kernel: names, reading, giving up."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kernel import capability
from tests.support import child
from tests.support.requires import requires

HEADER = Path("/usr/include/linux/capability.h")


def test_names_and_numbers_are_those_of_the_kernels_header() -> None:
    defined = {name: int(number) for name, number in re.findall(r"^#define (CAP_\w+)\s+(\d+)", HEADER.read_text(), re.MULTILINE)}
    assert len(defined) >= 41
    assert defined.items() <= capability.CAPABILITIES.items()


def test_kernel_knows_no_capability_that_has_no_name() -> None:
    assert capability.last_capability() == max(capability.CAPABILITIES.values())


@pytest.mark.parametrize("text", ["CAP_NET_RAW", "NET_RAW", "cap_net_raw", "net_raw"])
def test_capabilities_are_spelled_in_several_ways(text: str) -> None:
    assert capability.parse_capability(text) == 13


@pytest.mark.parametrize("text", ["", "CAP_", "NET_RAW ", "CAP_CAP_NET_RAW", "ALL", "13"])
def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"unknown capability {text!r}")):
        capability.parse_capability(text)


def test_masks_and_names_are_inverse() -> None:
    mask = capability.mask_of(["CAP_BPF", "CHOWN", "CAP_SETFCAP"])
    assert mask == 1 << 39 | 1 << 0 | 1 << 31
    assert capability.names_of(mask) == ("CAP_CHOWN", "CAP_SETFCAP", "CAP_BPF")
    assert capability.mask_of(()) == 0
    assert capability.names_of(1 << 63) == ("CAP_63",)


def test_status_and_capget_say_the_same() -> None:
    sets = capability.sets_of(os.getpid())
    assert capability.read_sets() == (sets.effective, sets.permitted, sets.inheritable)
    assert sets == capability.sets_of()


def test_sets_of_a_process_that_is_gone() -> None:
    with pytest.raises(FileNotFoundError):
        capability.sets_of(2**30)


@requires("root")
def test_sets_are_set_and_cannot_be_raised_again() -> None:
    kept = capability.mask_of(["CAP_CHOWN", "CAP_SETFCAP", "CAP_PERFMON"])

    def lowered() -> tuple[capability.Sets, bool]:
        capability.set_sets(effective=1, permitted=kept, inheritable=kept)
        with pytest.raises(PermissionError):
            capability.set_sets(effective=1, permitted=kept | 2, inheritable=0)
        return capability.sets_of(), capability.read_sets() == (1, kept, kept)

    sets, same = child.run(lowered)
    assert (sets.effective, sets.permitted, sets.inheritable) == (1, kept, kept)
    assert same


@requires("root")
def test_bounding_set_is_limited() -> None:
    kept = capability.mask_of(["CAP_KILL", "CAP_BPF"])
    before = capability.sets_of()

    def limited() -> capability.Sets:
        capability.limit_bounding(kept)
        return capability.sets_of()

    sets = child.run(limited)
    assert sets.bounding == kept & before.bounding
    assert sets.permitted == before.permitted


@requires("root")
def test_bounding_set_without_the_right_to_drop() -> None:
    def refused() -> bool:
        capability.set_sets(effective=0, permitted=0, inheritable=0)
        capability.limit_bounding(-1)  # nothing to drop is nothing to ask for
        with pytest.raises(PermissionError):
            capability.limit_bounding(0)
        return True

    assert child.run(refused)


@requires("root")
def test_ambient_set_is_replaced() -> None:
    wanted = capability.mask_of(["CAP_KILL", "CAP_NET_BIND_SERVICE"])

    def raised() -> tuple[int, int]:
        effective, permitted, _ = capability.read_sets()
        capability.set_sets(effective=effective, permitted=permitted, inheritable=wanted)
        capability.set_ambient(permitted & 1 << 5)
        capability.set_ambient(wanted)
        first = capability.sets_of().ambient
        capability.set_ambient(0)
        return first, capability.sets_of().ambient

    assert child.run(raised) == (wanted, 0)


@requires("root")
def test_ambient_capability_must_be_inheritable() -> None:
    def refused() -> bool:
        with pytest.raises(PermissionError):
            capability.set_ambient(1 << 5)
        return True

    assert child.run(refused)
