from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest

from runtime.errors import LayerRefused
from runtime.image.inherit import complete
from tests.runtime.image.test_layer import apply, directory_entry
from tests.runtime.image.test_tar import archive, member


class Stack:
    """Layers applied one above the other, the top last."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.layers: list[Path] = []

    def add(self, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Path:
        layer = self.home / f"layer-{len(self.layers)}"
        layer.mkdir(mode=0o700)
        complete(layer, apply(layer, archive(*members)), self.layers[::-1])
        self.layers.append(layer)
        return layer


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path)


def attributes(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, int(status.st_mtime)


def test_an_implied_directory_looks_as_it_does_below(stack: Stack) -> None:
    below = member("srv", tarfile.DIRTYPE, mode=0o2750, uid=1000, gid=1001, mtime=1_000_000)
    below.pax_headers = {"SCHILY.xattr.user.note": "kept"}
    stack.add(directory_entry("./", mtime=5, uid=3), below)
    stack.add((member("other"), b"x"))
    top = stack.add((member("srv/new"), b"x"))
    assert attributes(top / "srv") == (0o2750, 1000, 1001, 1_000_000)
    assert os.getxattr(top / "srv", "user.note") == b"kept"
    assert attributes(top) == (0o755, 3, 0, 5)


def test_without_one_below_it_is_root_s(stack: Stack) -> None:
    top = stack.add((member("a/b/f"), b"x"))
    assert attributes(top / "a/b")[:3] == attributes(top)[:3] == (0o755, 0, 0)


@pytest.mark.parametrize("hide", [".wh.srv", ".wh..wh..opq", "srv/.wh..wh..opq", "srv"])
def test_what_is_hidden_in_between_is_not_inherited(stack: Stack, hide: str) -> None:
    stack.add(member("srv", tarfile.DIRTYPE, mode=0o700), member("srv/in", tarfile.DIRTYPE, mode=0o700))
    stack.add(member(hide))
    lower = stack.layers[::-1][: 1 if hide == ".wh..wh..opq" else None]
    layer = stack.home / "top"
    layer.mkdir()
    complete(layer, apply(layer, archive((member("srv/in/f"), b"x"))), lower)
    assert attributes(layer / "srv/in")[0] == 0o755


def test_a_hard_link_to_a_lower_file_is_copied_up(stack: Stack) -> None:
    tool = member("usr/bin/tool", mode=0o4755, uid=1, gid=2, mtime=77)
    tool.pax_headers = {"SCHILY.xattr.user.note": "kept"}
    stack.add((tool, b"program" * 1000))
    stack.add(directory_entry("empty"))
    top = stack.add(
        directory_entry("bin", mtime=9),
        member("bin/copy", tarfile.LNKTYPE, linkname="usr/bin/tool"),
        member("bin/second", tarfile.LNKTYPE, linkname="/bin/copy"),
    )
    assert (top / "bin/copy").read_bytes() == b"program" * 1000
    assert attributes(top / "bin/copy") == (0o4755, 1, 2, 77)
    assert os.getxattr(top / "bin/copy", "user.note") == b"kept"
    assert (top / "bin/second").read_bytes() == b"program" * 1000
    assert attributes(top / "bin")[3] == 9


@pytest.mark.parametrize("target", ["absent", "dir/absent", "gone", "dir", "dir/../f", "way/f", "/etc/shadow"])
def test_a_hard_link_to_nothing_is_refused(stack: Stack, target: str) -> None:
    stack.add((member("f"), b"x"), (member("gone"), b"x"), directory_entry("dir"), member("way", tarfile.SYMTYPE, linkname="/"))
    stack.add(member(".wh.gone"))
    with pytest.raises(LayerRefused, match=r"entry 'link': a hard link to .*, which is (not in the image|no file)"):
        stack.add(member("link", tarfile.LNKTYPE, linkname=target))


def test_a_lower_symlink_is_copied_as_one(stack: Stack) -> None:
    stack.add(member("s", tarfile.SYMTYPE, linkname="/etc/passwd", uid=4))
    top = stack.add(member("h", tarfile.LNKTYPE, linkname="s"))
    assert ((top / "h").readlink(), (top / "h").lstat().st_uid) == (Path("/etc/passwd"), 4)
