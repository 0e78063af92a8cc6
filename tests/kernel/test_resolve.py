"""A guest's path ends inside its root, whatever the guest made of it."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import fd, mount, resolve
from kernel.fd import Fd
from tests.support import child
from tests.support.requires import requires

SECRET = b"the host's"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A guest's root with a file, beside a host's file of the same name outside of it."""
    (tmp_path / "secret").write_bytes(SECRET)
    inside = tmp_path / "root"
    (inside / "etc").mkdir(parents=True)
    (inside / "secret").write_bytes(b"the guest's")
    (inside / "etc/passwd").write_bytes(b"root:x:0:0::/:/bin/sh\n")
    return inside


@pytest.fixture
def root(top: Path) -> Iterator[Fd]:
    with fd.open_path(top, os.O_PATH | os.O_DIRECTORY) as opened:
        yield opened


class TestOpenInRoot:
    @pytest.mark.parametrize("path", ["secret", "/secret", "../secret", "../../../secret", "etc/../../secret", "/..//./secret"])
    def test_a_path_that_climbs_stays_inside(self, root: Fd, path: str) -> None:
        assert resolve.read_in_root(root, path, 100) == b"the guest's"

    @pytest.mark.parametrize("target", ["/secret", "../secret", "../../../../../secret", "/etc/../../secret"])
    def test_a_link_that_climbs_stays_inside(self, root: Fd, top: Path, target: str) -> None:
        (top / "link").symlink_to(target)
        (top / "chain").symlink_to("/link")
        assert resolve.read_in_root(root, "link", 100) == b"the guest's"
        assert resolve.read_in_root(root, "chain", 100) == b"the guest's"

    def test_a_directory_link_in_the_middle_stays_inside(self, root: Fd, top: Path) -> None:
        (top / "up").symlink_to("..")
        assert resolve.read_in_root(root, "up/up/secret", 100) == b"the guest's"

    @requires("root")
    @pytest.mark.parametrize("magic", ["self/root", "self/cwd", "self/fd/0", "self/exe", "thread-self/ns/net"])
    def test_a_magic_link_is_refused(self, top: Path, magic: str) -> None:
        """/proc/PID/root leads out of any root (CVE-2019-5736 and its family)."""
        (top / "proc").mkdir()

        def look() -> int | None:
            mount.bind("/proc", top / "proc")
            with fd.open_path(top, os.O_PATH) as root, pytest.raises(OSError) as caught:
                resolve.open_in_root(root, f"proc/{magic}")
            return caught.value.errno

        assert child.run(look, namespaces=["mount"]) == errno.ELOOP

    def test_the_final_link_can_be_opened_itself(self, root: Fd, top: Path) -> None:
        (top / "link").symlink_to("/nowhere")
        with resolve.open_in_root(root, "link", follow=False) as link:
            assert stat.S_ISLNK(os.fstat(link.fileno()).st_mode)

    def test_the_final_link_can_be_refused(self, root: Fd, top: Path) -> None:
        (top / "link").symlink_to("/secret")
        with pytest.raises(OSError, match="link") as caught:
            resolve.open_in_root(root, "link", os.O_RDONLY, follow=False)
        assert caught.value.errno == errno.ELOOP

    def test_every_link_can_be_refused(self, root: Fd, top: Path) -> None:
        (top / "conf").symlink_to("etc")
        resolve.open_in_root(root, "conf/passwd").close()
        with pytest.raises(OSError, match="conf/passwd") as caught:
            resolve.open_in_root(root, "conf/passwd", links=False)
        assert caught.value.errno == errno.ELOOP

    def test_a_loop_ends(self, root: Fd, top: Path) -> None:
        (top / "a").symlink_to("b")
        (top / "b").symlink_to("a")
        with pytest.raises(OSError) as caught:
            resolve.open_in_root(root, "a")
        assert caught.value.errno == errno.ELOOP

    def test_a_failure_names_the_path_and_the_call(self, root: Fd) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            resolve.open_in_root(root, "/no/such")
        assert caught.value.filename == "/no/such"
        assert caught.value.__notes__ == ["in openat2(2)"]

    def test_the_empty_path_is_the_root(self, root: Fd, top: Path) -> None:
        with resolve.open_in_root(root, "") as opened:
            assert os.path.sameopenfile(opened.fileno(), root.fileno())
            assert resolve.is_directory(opened)

    def test_a_file_can_be_made_with_its_mode(self, root: Fd, top: Path) -> None:
        resolve.open_in_root(root, "/../new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640).close()
        assert stat.S_IMODE((top / "new").stat().st_mode) == 0o640

    def test_a_rename_beside_it_never_leads_out(self, root: Fd, top: Path) -> None:
        """The check and the use are one call: a directory swapped for a link meanwhile changes nothing."""
        (top / "swing").mkdir()
        (top / "swing/secret").write_bytes(b"the guest's")
        (top / "trap").symlink_to("../..")
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                for old, new in (("swing", "held"), ("trap", "swing"), ("swing", "trap"), ("held", "swing")):
                    os.rename(top / old, top / new)

        swapper = threading.Thread(target=swap)
        swapper.start()
        seen = set()
        try:
            for _ in range(2000):
                try:
                    seen.add(resolve.read_in_root(root, "swing/secret", 100))
                except OSError as error:
                    assert error.errno in (errno.ENOENT, errno.EAGAIN)
        finally:
            stop.set()
            swapper.join()
        assert seen == {b"the guest's"}


class TestMakeDirectories:
    def test_missing_parents_are_made(self, root: Fd, top: Path) -> None:
        with resolve.make_directories(root, "/var/lib/app", 0o750) as made:
            assert os.path.samestat(os.fstat(made.fileno()), (top / "var/lib/app").stat())
        assert stat.S_IMODE((top / "var/lib/app").stat().st_mode) == 0o750

    def test_what_exists_is_kept(self, root: Fd, top: Path) -> None:
        resolve.make_directories(root, "etc", 0o700).close()
        assert stat.S_IMODE((top / "etc").stat().st_mode) == 0o755
        assert (top / "etc/passwd").exists()

    def test_an_existing_link_is_followed_inside(self, root: Fd, top: Path) -> None:
        (top / "out").symlink_to("/../../etc")
        resolve.make_directories(root, "out/new").close()
        assert (top / "etc/new").is_dir()

    def test_a_link_to_nowhere_is_not_followed(self, root: Fd, top: Path) -> None:
        (top / "out").symlink_to("/made")
        with pytest.raises(NotADirectoryError):
            resolve.make_directories(root, "out/new")
        assert not (top / "made").exists()

    def test_climbing_is_refused(self, root: Fd) -> None:
        with pytest.raises(OSError, match=r"must not contain '\.\.'"):
            resolve.make_directories(root, "a/../b")

    def test_a_file_in_the_way_is_an_error(self, root: Fd) -> None:
        with pytest.raises(NotADirectoryError):
            resolve.make_directories(root, "etc/passwd/below")

    def test_the_root_itself(self, root: Fd) -> None:
        with resolve.make_directories(root, "/") as opened:
            assert os.path.sameopenfile(opened.fileno(), root.fileno())


class TestMakeFile:
    def test_a_file_and_its_parents_are_made(self, root: Fd, top: Path) -> None:
        resolve.make_file(root, "run/app/socket", 0o600).close()
        assert (top / "run/app/socket").read_bytes() == b""
        assert stat.S_IMODE((top / "run/app/socket").stat().st_mode) == 0o600

    def test_an_existing_file_keeps_its_content(self, root: Fd, top: Path) -> None:
        resolve.make_file(root, "/etc/passwd").close()
        assert (top / "etc/passwd").read_bytes().startswith(b"root:")

    def test_a_link_to_nowhere_makes_nothing_elsewhere(self, root: Fd, top: Path) -> None:
        (top / "etc/resolv.conf").symlink_to("/run/resolv.conf")
        with resolve.make_file(root, "etc/resolv.conf") as opened:
            assert stat.S_ISLNK(os.fstat(opened.fileno()).st_mode)
        assert not (top / "run").exists()


class TestReadInRoot:
    def test_the_limit_is_a_limit(self, root: Fd, top: Path) -> None:
        (top / "file").write_bytes(b"x" * 70_000)
        assert len(resolve.read_in_root(root, "file", 70_000)) == 70_000
        with pytest.raises(OSError, match="more than 69999 bytes") as caught:
            resolve.read_in_root(root, "file", 69_999)
        assert caught.value.errno == errno.EFBIG

    def test_a_fifo_does_not_block(self, root: Fd, top: Path) -> None:
        os.mkfifo(top / "etc/group")
        with pytest.raises(OSError, match="not a regular file"):
            resolve.read_in_root(root, "etc/group", 100)

    def test_a_directory_and_a_device_are_refused(self, root: Fd, top: Path) -> None:
        with pytest.raises(OSError, match="not a regular file"):
            resolve.read_in_root(root, "etc", 100)
        with fd.open_path("/dev", os.O_PATH) as devices, pytest.raises(OSError, match="not a regular file"):
            resolve.read_in_root(devices, "zero", 100)
