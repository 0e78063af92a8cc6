"""Mount options, sorted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.program import Flags
from runtime.container.options import known_options, parse_options

#: Those that the runtime spec lists (config.md, "Linux mount options"), but for the "r" family.
SPECIFIED = (
    "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime noexec noiversion "
    "nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate rshared rslave runbindable rw shared "
    "silent slave strictatime suid sync unbindable nosymfollow symfollow mand nomand tmpcopyup idmap ridmap"
).split()
#: And that family.
RECURSIVE = (
    "rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnodiratime rdiratime rrelatime rnorelatime rnoatime ratime rstrictatime "
    "rnostrictatime rnosymfollow rsymfollow"
).split()
TIMES = {"MOUNT_ATTR_RELATIME", "MOUNT_ATTR_NOATIME", "MOUNT_ATTR_STRICTATIME"}

words_of_the_kernel = st.lists(st.sampled_from(known_options()))


def test_every_option_of_the_spec_is_known_and_not_left_to_the_file_system() -> None:
    assert set(SPECIFIED) | set(RECURSIVE) <= set(known_options())
    assert parse_options([*SPECIFIED, *RECURSIVE]).data == ()


def test_an_ordinary_bind() -> None:
    found = parse_options(["rbind", "rprivate", "ro", "nosuid"])
    assert (found.is_bind, found.is_recursive, found.is_remount) == (True, True, False)
    assert found.add == ("MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID")
    assert found.propagation == (("private", True),)
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


@pytest.mark.parametrize("prefix", ["", "r"])
@pytest.mark.parametrize(
    ("words", "add", "clear"),
    [
        (["noatime"], ("NOATIME",), ("_ATIME",)),
        (["noatime", "strictatime"], ("STRICTATIME",), ("_ATIME",)),
        (["strictatime", "relatime"], ("RELATIME",), ("_ATIME",)),
        (["strictatime", "atime"], ("STRICTATIME",), ("_ATIME",)),
        (["nodiratime"], ("NODIRATIME",), ()),
    ],
)
def test_times_of_access_are_one_of_three(prefix: str, words: list[str], add: tuple[str, ...], clear: tuple[str, ...]) -> None:
    found = parse_options([prefix + word for word in words])
    pair = (found.recursive_add, found.recursive_clear) if prefix else (found.add, found.clear)
    assert pair == (tuple(f"MOUNT_ATTR_{name}" for name in add), tuple(f"MOUNT_ATTR_{name}" for name in clear))


def test_what_is_not_a_time_any_more_is_the_default_where_it_can_be_said() -> None:
    """As runc has it: of one mount "nostrictatime" takes back what this list said; recursively it is an order."""
    for words in (["strictatime", "nostrictatime"], ["noatime", "atime"], ["atime"], ["norelatime"]):
        assert parse_options(words).add == parse_options(words).clear == ()
    for word in ("rnostrictatime", "rnorelatime", "ratime"):
        assert parse_options([word]).recursive_add == ("MOUNT_ATTR_RELATIME",)


@pytest.mark.parametrize("name", ["private", "slave", "shared", "unbindable"])
def test_propagation_with_and_without_what_is_below(name: str) -> None:
    assert parse_options([name]).propagation == ((name, False),)
    assert parse_options([f"r{name}"]).propagation == ((name, True),)


def test_propagations_are_kept_in_their_order() -> None:
    assert parse_options(["rslave", "ro", "shared"]).propagation == (("slave", True), ("shared", False))


def test_flags_of_the_file_system_and_those_that_mount_alone_takes() -> None:
    found = parse_options(["sync", "dirsync", "lazytime", "mand", "iversion", "silent", "ro"])
    assert found.superblock == ("sync", "dirsync", "lazytime", "mand")
    assert found.legacy == ("iversion", "silent")
    assert Flags(found.mount_flags).value() & 0x2 == 0
    assert set(found.mount_flags) == {
        *("MS_RDONLY", "MS_SYNCHRONOUS", "MS_DIRSYNC", "MS_LAZYTIME", "MS_MANDLOCK", "MS_I_VERSION", "MS_SILENT"),
    }
    back = parse_options(["sync", "async", "lazytime", "nolazytime", "mand", "nomand", "silent", "loud"])
    assert (back.superblock, back.legacy, back.mount_flags) == ((), (), ())


def test_wishes_of_the_runtimes_own() -> None:
    assert parse_options(["tmpcopyup"]).copies_up
    assert parse_options(["remount"]).is_remount
    assert [parse_options([word]).id_mapping for word in ("idmap", "ridmap", "bind")] == ["idmap", "ridmap", ""]
    assert parse_options(["defaults"]) == parse_options([])


def test_what_is_no_flag_is_for_the_file_system() -> None:
    found = parse_options(["size=64k", "mode=1777", "nodev", "newinstance", "context=a=b"])
    assert found.data == (("size", "64k"), ("mode", "1777"), ("newinstance", None), ("context", "a=b"))
    assert found.add == ("MOUNT_ATTR_NODEV",)


@given(words_of_the_kernel)
def test_every_flag_is_one_that_the_kernel_has_and_none_is_taken_for_data(words: list[str]) -> None:
    found = parse_options(words)
    assert found.data == ()
    Flags(found.mount_flags).value()
    for add, clear in ((found.add, found.clear), (found.recursive_add, found.recursive_clear)):
        assert Flags(add).value() or set(add) <= {"MOUNT_ATTR_RELATIME"}
        assert not set(add) & set(clear)
        assert len(set(add) & TIMES) <= 1
        assert ("MOUNT_ATTR__ATIME" in clear) == bool(set(add) & TIMES)  # mount_setattr(2) refuses one without the other


@given(words_of_the_kernel, st.sampled_from(known_options()))
def test_the_last_word_is_heard_whatever_was_said_before(words: list[str], last: str) -> None:
    alone, after = parse_options([last]), parse_options([*words, last])
    for name in ("add", "recursive_add", "superblock", "legacy"):
        assert set(getattr(alone, name)) <= set(getattr(after, name)) | ({"MOUNT_ATTR_RELATIME"} if "atime" in last else set())
    assert after.propagation[-1:] == alone.propagation or not alone.propagation


@given(words_of_the_kernel, st.lists(st.sampled_from(["a", "size=1", "mode=7=7", "rro0", "=", "x=,"]), max_size=4))
def test_data_is_kept_in_its_order_and_changes_nothing_else(words: list[str], data: list[str]) -> None:
    found = parse_options([*data, *words])
    assert [key if value is None else f"{key}={value}" for key, value in found.data] == data
    assert found.mount_flags == parse_options(words).mount_flags


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_text_is_sorted_somewhere(words: list[str]) -> None:
    parse_options(words)


@pytest.mark.parametrize(
    ("words", "add", "clear"),
    [
        ([], "", ""),
        (["rbind", "rprivate"], "", ""),
        (["dev"], "", "RDONLY NOSUID NODEV NOEXEC NOSYMFOLLOW"),
        (["ro", "nosuid"], "RDONLY NOSUID", "NODEV NOEXEC NOSYMFOLLOW"),
        (["atime"], "", "RDONLY NOSUID NODEV NOEXEC NOSYMFOLLOW"),
        (["sync"], "", "RDONLY NOSUID NODEV NOEXEC NOSYMFOLLOW"),
        (["nodiratime"], "NODIRATIME", "RDONLY NOSUID NODEV NOEXEC NOSYMFOLLOW _ATIME"),
        (["strictatime"], "STRICTATIME", "RDONLY NOSUID NODEV NOEXEC NOSYMFOLLOW _ATIME NODIRATIME"),
    ],
)
def test_exactly_these_flags(words: list[str], add: str, clear: str) -> None:
    found = parse_options(words).exactly
    assert found == tuple(tuple(f"MOUNT_ATTR_{name}" for name in names.split()) for names in (add, clear))
