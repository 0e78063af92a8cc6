"""Device nodes of the host: by themselves, and with the directory they are in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.container.devices import find_devices
from runtime.errors import HostPathNotFound, InvalidArgument
from runtime.spec import schema


def test_one_device() -> None:
    [null] = find_devices("/dev/null")
    status = os.stat("/dev/null")
    assert (null.path, null.type, null.major, null.minor) == ("/dev/null", "c", 1, 3)
    assert (null.file_mode, null.uid, null.gid) == (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def test_a_symlink_to_a_device_is_that_device(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    [device] = find_devices(str(tmp_path / "zero"))
    assert (device.path, device.minor) == (str(tmp_path / "zero"), 5)


def test_a_directory_gives_all_devices_below_it() -> None:
    found = find_devices("/dev")
    paths = [device.path for device in found]
    assert "/dev/null" in paths and paths == sorted(paths)
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) or path == "/dev/console" for path in paths)


def test_other_files_below_a_directory_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "deep" / "link").symlink_to("/dev/null")
    assert find_devices(str(tmp_path)) == []


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="neither a device node nor a directory"):
        find_devices(str(tmp_path / "file"))
    with pytest.raises(HostPathNotFound, match="no such file or directory"):
        find_devices(str(tmp_path / "absent"))


def test_the_result_fits_a_spec() -> None:
    assert isinstance(find_devices("/dev/full")[0], schema.Device)
