"""A failed call becomes an OSError that names the call and the path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kernel._linux import lib
from kernel.errors import call_of, check, failure


def test_a_result_that_is_not_negative_is_returned() -> None:
    assert check(0, "close") == 0
    assert check(7, "open") == 7


def test_a_failure_carries_errno_path_and_the_call() -> None:
    result = lib.open_tree(lib.AT_FDCWD, b"/proc/self/stat/below", lib.OPEN_TREE_CLOEXEC)
    with pytest.raises(NotADirectoryError) as caught:
        check(result, "open_tree", Path("/proc/self/stat/below"))
    assert caught.value.errno == errno.ENOTDIR
    assert caught.value.filename == "/proc/self/stat/below"
    assert caught.value.__notes__ == ["in open_tree(2)"]
    assert str(caught.value) == "[Errno 20] Not a directory: '/proc/self/stat/below'"


def test_the_subclass_follows_from_errno() -> None:
    assert isinstance(failure(errno.EPERM, "mount"), PermissionError)
    assert isinstance(failure(errno.ESRCH, "kill"), ProcessLookupError)


def test_a_call_without_a_path_has_no_file_name() -> None:
    assert failure(errno.EBADF, "fsmount").filename is None


def test_a_path_that_is_not_text_survives() -> None:
    assert failure(errno.ENOENT, "openat2", b"/caf\xe9").filename == os.fsdecode(b"/caf\xe9")


def test_the_call_can_be_read_back() -> None:
    assert call_of(failure(errno.EINVAL, "pivot_root", "/new")) == "pivot_root"
    assert call_of(OSError(errno.EINVAL, "from elsewhere")) is None
    noted = failure(errno.EINVAL, "pivot_root")
    noted.add_note("step 14 of 61")
    assert call_of(noted) == "pivot_root"
