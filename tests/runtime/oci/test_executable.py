"""Whether a program can be executed, as create asks it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.fd import Fd, open_path
from runtime.errors import StartFailed
from runtime.oci.executable import check_executable
from runtime.spec import schema


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Fd]:
    for name in ("bin", "usr/bin", "work"):
        (tmp_path / name).mkdir(parents=True)
    for name, mode in (("bin/tool", 0o755), ("usr/bin/data", 0o644), ("bin/mine", 0o700), ("work/local", 0o755)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "bin/link").symlink_to("/bin/tool")
    (tmp_path / "bin/outside").symlink_to("/../../../../../../bin/sh")
    (tmp_path / "bin/loop").symlink_to("loop")
    (tmp_path / "bin/data").mkdir()
    with open_path(tmp_path, os.O_PATH | os.O_DIRECTORY) as opened:
        yield opened


def process(name: str, *env: str, uid: int = 0, cwd: str = "/", capabilities: tuple[str, ...] = ()) -> schema.Process:
    return schema.Process(
        args=[name],
        env=list(env) or ["PATH=/usr/bin:/bin"],
        user=schema.User(uid=uid, gid=uid),
        cwd=cwd,
        capabilities=schema.Capabilities(effective=list(capabilities)),
    )


@pytest.mark.parametrize("name", ["tool", "/bin/tool", "link", "/bin/../bin/tool", "bin/tool"])
def test_what_is_there_is_found(root: Fd, name: str) -> None:
    check_executable(root, process(name))


def test_a_relative_path_is_as_of_the_working_directory(root: Fd) -> None:
    check_executable(root, process("./local", cwd="/work"))
    check_executable(root, process("local", "PATH=:/bin", cwd="/work"))
    with pytest.raises(StartFailed, match="no such file or directory"):
        check_executable(root, process("./local"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/nosuch", 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        ("/bin", 'exec: "/bin": is a directory'),
        ("/usr/bin/data", 'exec: "/usr/bin/data": permission denied'),
        ("data", 'exec: "data": permission denied'),
        ("/bin/tool/x", 'exec: "/bin/tool/x": not a directory'),
        ("/bin/outside", 'exec: "/bin/outside": stat /bin/outside: no such file or directory'),
        ("/bin/loop", f'exec: "/bin/loop": {os.strerror(errno.ELOOP).lower()}'),
    ],
)
def test_what_is_not_is_told_in_runcs_words(root: Fd, name: str, message: str) -> None:
    with pytest.raises(StartFailed) as raised:
        check_executable(root, process(name))
    assert str(raised.value) == message


def test_whose_program_it_is_counts(root: Fd, tmp_path: Path) -> None:
    check_executable(root, process("mine", uid=os.getuid()))
    with pytest.raises(StartFailed, match="permission denied"):
        check_executable(root, process("mine", uid=os.getuid() + 1))
    check_executable(root, process("mine", uid=os.getuid() + 1, capabilities=("CAP_DAC_OVERRIDE",)))


def test_without_path_the_usual_one_serves(root: Fd) -> None:
    check_executable(root, process("tool", "TERM=xterm"))
