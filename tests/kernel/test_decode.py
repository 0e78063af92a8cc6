"""What a step's arguments mean, in the kernel's own words."""

from __future__ import annotations

import os
import stat

import pytest

from kernel import decode as decode_module
from kernel._linux import lib
from kernel.decode import bits, capability_names, decode
from kernel.program import Argument, Flags, Slot, Step, Words

AT = Flags(("AT_FDCWD",))
PATH = Flags(("O_PATH", "O_CLOEXEC")).value()
IN_ROOT = Flags(("RESOLVE_IN_ROOT",)).value()
READ_ONLY, NO_EXEC = Flags(("MOUNT_ATTR_RDONLY",)).value(), Flags(("MOUNT_ATTR_NOEXEC",)).value()


@pytest.mark.parametrize(
    ("call", "arguments", "shown"),
    [
        ("umask", (0o22,), "022"),
        ("umask", (0,), "0"),
        ("mkdirat", (Slot("dir"), "x", 0o755), 'dir, "x", 0755'),
        ("mknodat", (20, "null", stat.S_IFCHR | 0o666, os.makedev(1, 3)), '<root>, "null", S_IFCHR|0666, 1:3'),
        ("mknodat", (20, "f", stat.S_IFREG | 0o644, 0), '<root>, "f", S_IFREG|0644, 0:0'),
        ("openat", (AT, "/x", Flags(("O_CREAT",)), 0o600), 'AT_FDCWD, "/x", O_CREAT, 0600'),
        (
            "openat2",
            (AT, "/x", Words(8, (PATH, 0, IN_ROOT), "{anything}"), 24),
            'AT_FDCWD, "/x", {flags=O_PATH|O_CLOEXEC, resolve=RESOLVE_IN_ROOT}, 24',
        ),
        (
            "mount_setattr",
            (Slot("copy"), "", 0, Words(8, (READ_ONLY | NO_EXEC, NO_EXEC, lib.MS_SLAVE, 20)), 32),
            'copy, "", 0, {set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOEXEC, clear=MOUNT_ATTR_NOEXEC, '
            "propagation=MS_SLAVE, userns=<root>}, 32",
        ),
        (
            "capset",
            (0, Words(4, (1, 1, 0, 1 << 8, 1 << 8, 0))),
            "0, {effective=permitted=CHOWN|CHECKPOINT_RESTORE, inheritable=none}",
        ),
        ("capset", (0, Words(4, (1, 3, 1, 0, 0, 0))), "0, {effective=CHOWN, permitted=CHOWN|DAC_OVERRIDE, inheritable=CHOWN}"),
        ("prctl", (Flags(("PR_CAPBSET_DROP",)), 21, 0, 0, 0), "PR_CAPBSET_DROP, CAP_SYS_ADMIN"),
        (
            "prctl",
            (Flags(("PR_CAP_AMBIENT",)), Flags(("PR_CAP_AMBIENT_RAISE",)), 10, 0, 0),
            "PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE",
        ),
        ("prctl", (Flags(("PR_SET_DUMPABLE",)), 0, 0, 0, 0), "PR_SET_DUMPABLE, 0"),
        ("prlimit64", (0, Flags(("RLIMIT_CORE",)), Words(8, (0, 2**64 - 1)), 0), "0, RLIMIT_CORE, {soft=0, hard=unlimited}, 0"),
        ("close_range", (15, 0xFFFFFFFF, 0), "15, every one above, 0"),
        ("setresuid", (-1, 7, 0xFFFFFFFF), "unchanged, 7, unchanged"),
        ("setns", (20, Flags(("CLONE_NEWNET",))), "<root>, CLONE_NEWNET"),
        ("ioprio_set", (1, 0, 2 << 13 | 4), "1, 0, IOPRIO_CLASS_BE, level 4"),
        ("getpid", (), ""),
    ],
)
def test_arguments_are_shown_as_what_they_are(call: str, arguments: tuple[Argument, ...], shown: str) -> None:
    assert decode(Step(call, arguments, "x"), {20: "<root>"}) == f"{call}({shown})"


def test_a_result_that_is_kept_is_named() -> None:
    assert decode(Step("getpid", (), "x", store="me")) == "me = getpid()"


def test_bits_without_a_name_stay() -> None:
    assert bits(READ_ONLY | 1 << 40, ["MOUNT_ATTR_RDONLY"]) == "MOUNT_ATTR_RDONLY|0x10000000000"
    assert bits(0, ["MOUNT_ATTR_RDONLY"]) == "0"


def test_sets_of_capabilities() -> None:
    assert capability_names(0) == "none"
    assert capability_names((1 << 41) - 1) == "all"
    assert capability_names(1 << 50) == "CAP_50".removeprefix("CAP_")


def test_every_call_of_the_table_is_one() -> None:
    assert [call for call in decode_module._CALLS if not hasattr(lib, f"SYS_{call}")] == []


def test_a_structure_of_another_shape_is_shown_as_it_was_given() -> None:
    assert decode(Step("openat2", (AT, "/x", Words(8, (1,)), 8), "x")) == 'openat2(AT_FDCWD, "/x", {1}, 8)'
