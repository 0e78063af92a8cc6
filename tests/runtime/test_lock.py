"""A lock is held by one, and let go of with its descriptor."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime import lock
from runtime.errors import WrongState


def test_the_second_taker_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock.take(path):
        with pytest.raises(WrongState, match=f"held by process {os.getpid()}"):
            lock.take(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with lock.take(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_is_not_inherited_over_exec(tmp_path: Path) -> None:
    with lock.take(tmp_path / "lock") as held:
        assert not os.get_inheritable(held.fileno())
