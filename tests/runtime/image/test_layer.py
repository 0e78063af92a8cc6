from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.fd import open_path
from kernel.filesystem import remove_tree
from runtime.errors import LayerRefused
from runtime.image.layer import Applied, Limits, apply_layer, root_is_opaque
from runtime.image.layerwriter import LayerWriter
from runtime.image.tar import TarReader
from tests.runtime.image.test_tar import archive, member

OPAQUE = "trusted.overlay.opaque"


def apply(directory: Path, tar: bytes, limits: Limits | None = None) -> Applied:
    with open_path(directory, os.O_RDONLY | os.O_DIRECTORY) as root:
        return apply_layer(TarReader([tar]), root, limits or Limits())


def written(*calls: Callable[[LayerWriter], None]) -> bytes:
    writer = LayerWriter("none")
    for call in calls:
        call(writer)
    return b"".join(writer.finish().chunks())


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return OPAQUE in os.listxattr(path) and os.getxattr(path, OPAQUE) == b"y"


def directory_entry(name: str, **more: object) -> tarfile.TarInfo:
    made = member(name, tarfile.DIRTYPE, mode=0o755)
    for key, value in more.items():
        setattr(made, key, value)
    return made


def test_every_kind_with_its_attributes(directory: Path) -> None:
    setuid = member("bin/su", mode=0o4755, uid=0, gid=5, mtime=1_000_000_000)
    setuid.pax_headers = {"SCHILY.xattr.user.note": "kept", "mtime": "1000000000.5"}
    applied = apply(
        directory,
        archive(
            directory_entry("./", mtime=7),
            directory_entry("bin", uid=3, mtime=8),
            (setuid, b"program"),
            member("bin/link", tarfile.LNKTYPE, linkname="bin/su", mode=0o4755, gid=5, mtime=1_000_000_000),
            member("lib", tarfile.SYMTYPE, linkname="/usr/lib", uid=9, mtime=9),
            member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o660, gid=6),
            member("pipe", tarfile.FIFOTYPE, mode=0o620),
        ),
    )
    su = (directory / "bin/su").stat()
    assert (su.st_mode, su.st_gid, su.st_nlink, (directory / "bin/su").read_bytes()) == (stat.S_IFREG | 0o4755, 5, 2, b"program")
    assert os.getxattr(directory / "bin/su", "user.note") == b"kept"
    assert (directory / "bin/link").stat().st_ino == su.st_ino
    lib = (directory / "lib").lstat()
    assert ((directory / "lib").readlink(), lib.st_uid, lib.st_mtime) == (Path("/usr/lib"), 9, 9)
    null, disk, pipe = ((directory / name).lstat() for name in ("null", "disk", "pipe"))
    assert (null.st_rdev, stat.S_IMODE(null.st_mode)) == (os.makedev(1, 3), 0o666)
    assert (disk.st_rdev, stat.S_ISBLK(disk.st_mode), disk.st_gid) == (os.makedev(8, 0), True, 6)
    assert (stat.S_ISFIFO(pipe.st_mode), stat.S_IMODE(pipe.st_mode)) == (True, 0o620)
    assert ((directory / "bin").stat().st_mtime, (directory / "bin").stat().st_uid, directory.stat().st_mtime) == (8, 3, 7)
    assert (applied.implicit, applied.lower_links) == ((), ())
    assert applied.inodes == 7


def test_the_header_of_a_hard_link_is_the_inode_s_too(directory: Path) -> None:
    apply(directory, archive((member("a", mode=0o600), b"x"), member("b", tarfile.LNKTYPE, linkname="a", mode=0o755)))
    assert stat.S_IMODE((directory / "a").stat().st_mode) == 0o755


def test_absolute_names_and_links_mean_the_image_s_root(directory: Path) -> None:
    apply(directory, archive((member("/etc/passwd"), b"x"), member("/copy", tarfile.LNKTYPE, linkname="/etc/passwd")))
    assert (directory / "copy").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "a/..", "..", "a/../b"])
def test_a_name_with_dots_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(LayerRefused, match=r"the name contains '..' and could leave the root"):
        apply(directory, archive((member(name), b"evil")))
    assert not (directory.parent / "evil").exists()


@pytest.mark.parametrize("target", ["../outside", "a/../../outside", "/../outside", "../" * 20 + "etc/passwd"])
def test_a_hard_link_out_of_the_root_is_refused(directory: Path, target: str) -> None:
    (directory.parent / "outside").write_text("secret")
    with pytest.raises(LayerRefused, match=r"entry 'link': a hard link to .*, which is outside the root"):
        apply(directory, archive(directory_entry("a"), member("link", tarfile.LNKTYPE, linkname=target)))
    assert not (directory / "link").exists()


@pytest.mark.parametrize("target", ["/", "..", "../..", "/tmp", "a/../../.."])
def test_nothing_is_written_through_a_symlink_out_of_the_root(directory: Path, target: str) -> None:
    outside = {path.name for path in directory.parent.iterdir()}
    apply(directory, archive(member("way", tarfile.SYMTYPE, linkname=target), (member("way/found"), b"inside")))
    assert {path.name for path in directory.parent.iterdir()} == outside
    assert [path.read_bytes() for path in directory.rglob("found")] == [b"inside"]
    assert not Path("/tmp/found").exists()


def test_a_file_replaces_a_symlink_and_is_not_written_through_it(directory: Path) -> None:
    victim = directory.parent / "victim"
    victim.write_text("mine")
    apply(directory, archive(member("f", tarfile.SYMTYPE, linkname=str(victim)), (member("f"), b"new")))
    assert (victim.read_text(), (directory / "f").read_bytes()) == ("mine", b"new")


def test_a_hard_link_to_a_symlink_is_a_second_symlink(directory: Path) -> None:
    victim = directory.parent / "victim"
    victim.write_text("mine")
    links = [member("s", tarfile.SYMTYPE, linkname=str(victim)), member("h", tarfile.LNKTYPE, linkname="s", mode=0o777, uid=5)]
    apply(directory, archive(*links, (member("h"), b"new")))
    assert (victim.read_text(), victim.stat().st_uid, (directory / "h").read_bytes()) == ("mine", 0, b"new")


def test_symlinks_in_a_circle_are_refused(directory: Path) -> None:
    with pytest.raises(LayerRefused, match="symlink"):
        apply(
            directory,
            archive(member("a", tarfile.SYMTYPE, linkname="b"), member("b", tarfile.SYMTYPE, linkname="a"), member("a/f")),
        )


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("name", [".", "./", "/"])
def test_the_root_stays_a_directory(directory: Path, kind: bytes, name: str) -> None:
    with pytest.raises(LayerRefused, match=r"the root must stay a directory|is no file"):
        made = archive(member("x" * len(name), kind, linkname="f"))
        apply(directory, _renamed(made, "x" * len(name), name))


def _renamed(tar: bytes, old: str, new: str) -> bytes:
    """tarfile strips names; the header is changed by hand."""
    block = bytearray(tar[:512])
    block[: len(new)] = new.encode()
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert len(old) == len(new)
    return bytes(block) + tar[512:]


def test_the_last_entry_of_a_name_wins(directory: Path) -> None:
    apply(
        directory,
        archive(
            directory_entry("d"),
            (member("d/f"), b"1"),
            (member("d"), b"now a file"),
            (member("f"), b"1"),
            directory_entry("f"),
            (member("f/g"), b"2"),
            (member("g"), b"old"),
            (member("g"), b"new"),
            directory_entry("g2", uid=1),
            directory_entry("g2", uid=2),
        ),
    )
    assert (directory / "d").read_bytes() == b"now a file"
    assert (directory / "f/g").read_bytes() == b"2"
    assert (directory / "g").read_bytes() == b"new"
    assert (directory / "g2").stat().st_uid == 2


def test_a_directory_named_again_keeps_its_content(directory: Path) -> None:
    apply(directory, archive(directory_entry("d"), (member("d/f"), b"1"), member("d", tarfile.DIRTYPE, mode=0o700)))
    assert (directory / "d/f").exists()
    assert stat.S_IMODE((directory / "d").stat().st_mode) == 0o700


def test_a_whiteout_hides_what_is_below(directory: Path) -> None:
    apply(directory, written(lambda w: w.whiteout("etc/gone"), lambda w: w.opaque("var")))
    assert is_whiteout(directory / "etc/gone")
    assert is_opaque(directory / "var")


@pytest.mark.parametrize("first", [True, False])
def test_a_whiteout_beside_new_content_hides_the_old_only(directory: Path, first: bool) -> None:
    def hide(writer: LayerWriter) -> None:
        writer.whiteout("f")
        writer.whiteout("d")

    def bring(writer: LayerWriter) -> None:
        writer.file("f", b"new")
        writer.file("d/new", b"new")

    apply(directory, written(*((hide, bring) if first else (bring, hide))))
    assert (directory / "f").read_bytes() == (directory / "d/new").read_bytes() == b"new"
    assert is_opaque(directory / "d")


def test_an_opaque_root_cuts_the_stack(directory: Path) -> None:
    apply(directory, written(lambda w: w.opaque()))
    assert root_is_opaque(directory)


def test_aufs_leftovers_are_left_out(directory: Path) -> None:
    apply(directory, written(lambda w: w.file(".wh..wh.aufs"), lambda w: w.file(".wh..wh.plnk/1.2", b"x"), lambda w: w.file("f")))
    assert os.listdir(directory) == ["f"]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", ".wh.d/f"])
def test_a_whiteout_of_nothing_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(LayerRefused, match="whiteout of nothing"):
        apply(directory, archive(member(name)))


def test_overlay_s_own_marks_cannot_be_forged(directory: Path) -> None:
    with pytest.raises(LayerRefused, match="own whiteout"):
        apply(directory, archive(member("f", tarfile.CHRTYPE, devmajor=0, devminor=0)))
    made = directory_entry("d")
    made.pax_headers = {
        f"SCHILY.xattr.{OPAQUE}": "y",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.a": "b",
    }
    apply(directory, archive(made))
    assert os.listxattr(directory / "d") == ["user.a"]


def test_attributes_that_a_kind_cannot_have_are_left_out(directory: Path) -> None:
    link = member("l", tarfile.SYMTYPE, linkname="x")
    link.pax_headers = {"SCHILY.xattr.user.a": "b"}
    apply(directory, archive(link))
    assert (directory / "l").is_symlink()


def test_file_capabilities_survive_the_change_of_owner(directory: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, revision 2
    apply(directory, written(lambda w: w.file("ping", b"x", 0o755, uid=7, xattrs={"security.capability": capability})))
    assert os.getxattr(directory / "ping", "security.capability") == capability


def test_implied_directories_and_lower_links_are_reported(directory: Path) -> None:
    applied = apply(directory, archive((member("a/b/f"), b"x"), member("a/l", tarfile.LNKTYPE, linkname="usr/bin/tool")))
    assert applied.implicit == (b"", b"a", b"a/b")
    assert [(link.path, link.target) for link in applied.lower_links] == [(b"a/l", b"usr/bin/tool")]
    applied = apply(directory, archive((member("c/f"), b"x"), directory_entry("c")))
    assert applied.implicit == (b"",)


def test_a_file_cannot_be_a_parent(directory: Path) -> None:
    with pytest.raises(LayerRefused, match="entry below 'f': that is a file"):
        apply(directory, archive((member("f"), b"x"), member("f/g")))


def test_names_longer_than_the_kernel_takes_are_refused(directory: Path) -> None:
    with pytest.raises(LayerRefused, match="longer than 255"):
        apply(directory, archive(member("n" * 256)))
    with pytest.raises(LayerRefused, match=r"name too long|bytes"):
        apply(directory, archive(member("/".join(["n" * 200] * 25))))


def test_limits_hold(directory: Path) -> None:
    with pytest.raises(LayerRefused, match="more than 2 entries"):
        apply(directory, archive(member("a"), member("b"), member("c")), Limits(entries=2))
    with pytest.raises(LayerRefused, match="more than 10000 bytes"):
        apply(directory, archive((member("big"), bytes(20_000))), Limits(bytes=10_000))


def test_sizes_are_what_the_disk_gives(directory: Path) -> None:
    applied = apply(
        directory, archive(directory_entry("d"), (member("d/f"), bytes(5000)), (member("g"), b"x"), (member("g"), b"yy"))
    )
    assert applied.size_bytes == 4096 * (1 + 1 + 2 + 1)
    assert applied.inodes == 4


_names = st.sampled_from(
    ["a", "b", "a/b", "a/b/c", "b/a", "../x", "/a", "a/..", ".wh.a", "a/.wh.b", ".wh..wh..opq", "b/.wh..wh..opq", "."]
)
_targets = st.sampled_from(["a", "b", "..", "../..", "/", "/a", "a/b", "../../../../tmp", "/tmp", "b/.."])
_kinds = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]


_entries = st.lists(st.tuples(_names, st.sampled_from(_kinds), _targets), min_size=1, max_size=8)
_damage = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=2)


@settings(max_examples=300)
@given(_entries, _damage)
def test_no_archive_writes_outside_or_fails_otherwise(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes, str]], damage: list[tuple[int, int]]
) -> None:
    members = [member(name, kind, linkname=link, mode=0o755, devmajor=1) for name, kind, link in entries]
    tar = bytearray(archive(*((made, b"content" if made.type == tarfile.REGTYPE else b"") for made in members)))
    for at, value in damage:
        tar[at % len(tar)] = value
    home = tmp_path_factory.mktemp("fuzz")
    (home / "root").mkdir()
    (home / "witness").write_text("untouched")
    before = _state(home, without="root"), os.lstat("/tmp").st_mode
    with contextlib.suppress(LayerRefused):
        apply(home / "root", bytes(tar))
    assert (_state(home, without="root"), os.lstat("/tmp").st_mode) == before
    assert not any(os.path.lexists(f"/tmp/{name}") for name in "abcx")
    with open_path(home.parent, os.O_RDONLY | os.O_DIRECTORY) as parent:
        remove_tree(parent, home.name)


def _state(home: Path, *, without: str) -> dict[str, tuple[int, int, int, str]]:
    found = {}
    for path in home.iterdir():
        if path.name != without:
            status = path.lstat()
            found[path.name] = (status.st_mode, status.st_uid, status.st_nlink, path.read_text())
    return found


def test_deep_trees_do_not_exhaust_the_process(directory: Path) -> None:
    names = ["/".join(["d"] * depth) for depth in range(1, 1500, 60)]
    apply(directory, archive(*(directory_entry(name) for name in names)))
    with open_path(directory.parent, os.O_RDONLY | os.O_DIRECTORY) as parent:
        assert remove_tree(parent, directory.name) > 1400


def test_python_s_tarfile_agrees_about_the_files(directory: Path, tmp_path: Path) -> None:
    tar = written(
        lambda w: w.tree(Path("/usr/lib/python3/dist-packages")),
        lambda w: w.directory("etc"),
        lambda w: w.tree(Path("/etc/init.d"), "etc"),
    )
    apply(directory, tar)
    other = tmp_path / "other"
    other.mkdir()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive_of_both:
        archive_of_both.extractall(other)
    assert _contents(directory) == _contents(other) != {}


def _contents(root: Path) -> dict[str, tuple[int, int, object]]:
    found: dict[str, tuple[int, int, object]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (status.st_mode, int(status.st_mtime) if not path.is_symlink() else 0, content)
    return found
