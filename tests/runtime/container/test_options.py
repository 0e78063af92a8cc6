"""Mount options, sorted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.program import Flags
from runtime.container import options
from runtime.container.options import parse_options

KNOWN = [*options._ADD, *options._CLEAR, *options._TIMES, *options._WITHOUT_EFFECT]
RECURSIVE = [f"r{name}" for name in ("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime")]


def test_an_ordinary_bind() -> None:
    found = parse_options(["rbind", "rprivate", "ro", "nosuid"])
    assert (found.is_bind, found.is_recursive) == (True, True)
    assert found.add == ("MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID")
    assert (found.propagation, found.recursive_propagation) == ("private", True)
    assert (found.clear, found.recursive_add, found.data) == ((), (), ())


def test_ro_is_of_one_mount_and_rro_of_all_below() -> None:
    assert parse_options(["bind", "ro"]).recursive_add == ()
    found = parse_options(["rbind", "rro"])
    assert (found.add, found.recursive_add) == ((), ("MOUNT_ATTR_RDONLY",))
    assert parse_options(["rbind", "rrw"]).recursive_clear == ("MOUNT_ATTR_RDONLY",)


@pytest.mark.parametrize(("words", "wins"), [(["ro", "rw"], "clear"), (["rw", "ro"], "add")])
def test_the_last_of_two_that_contradict_each_other_wins(words: list[str], wins: str) -> None:
    found = parse_options(words)
    assert getattr(found, wins) == ("MOUNT_ATTR_RDONLY",)
    assert getattr(found, "add" if wins == "clear" else "clear") == ()


@pytest.mark.parametrize("name", ["private", "slave", "shared", "unbindable"])
def test_propagation_with_and_without_what_is_below(name: str) -> None:
    assert (parse_options([name]).propagation, parse_options([name]).recursive_propagation) == (name, False)
    assert (parse_options([f"r{name}"]).propagation, parse_options([f"r{name}"]).recursive_propagation) == (name, True)


def test_what_is_no_flag_is_for_the_file_system() -> None:
    found = parse_options(["size=64k", "mode=1777", "nodev", "newinstance", "context=a=b"])
    assert found.data == (("size", "64k"), ("mode", "1777"), ("newinstance", None), ("context", "a=b"))
    assert found.add == ("MOUNT_ATTR_NODEV",)


@given(st.lists(st.sampled_from([*KNOWN, *RECURSIVE, "rprivate", "shared"])))
def test_every_flag_is_one_that_the_kernel_has_and_none_is_taken_for_data(words: list[str]) -> None:
    found = parse_options(words)
    assert found.data == ()
    for names in (found.add, found.clear, found.recursive_add, found.recursive_clear):
        assert Flags(names).value() or set(names) <= {"MOUNT_ATTR_RELATIME"}
    assert not set(found.add) & set(found.clear)


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_text_is_sorted_somewhere(words: list[str]) -> None:
    parse_options(words)
