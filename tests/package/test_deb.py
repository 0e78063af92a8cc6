"""The Debian package that ``make test-deb`` made: what is in it, and its life from installation to purge.

In a guest with systemd the same is done by vagrant/; here nothing starts the service but the test.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import isolation
from tests.support.requires import TREE, requires

pytestmark = requires("deb")


@pytest.fixture(scope="module")
def deb() -> Path:
    return Path(os.environ["KERNELET_DEB"]).resolve()


def call(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def newer(deb: Path, directory: Path) -> Path:
    """The same package with a later version."""
    unpacked = directory / "unpacked"
    call("dpkg-deb", "--raw-extract", deb, unpacked)
    control = unpacked / "DEBIAN/control"
    version = next(line for line in control.read_text().splitlines() if line.startswith("Version: "))
    control.write_text(control.read_text().replace(version, f"{version}+1"))
    target = directory / "newer.deb"
    call("dpkg-deb", "--root-owner-group", "-Znone", "--build", unpacked, target)
    return target


def test_nothing_in_it_names_the_place_where_it_was_made(deb: Path, tmp_path: Path) -> None:
    call("dpkg-deb", "--extract", deb, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            assert b"kernelet-deb-" not in content and os.fsencode(TREE) not in content, path
    assert not list(tmp_path.rglob("*.pyc"))
    assert sorted(path.name for path in (tmp_path / "opt/kernelet/bin").iterdir()) == [
        "kernelet", "kernelet-oci", "python", "python3", "python3.11",
    ]  # fmt: skip
    assert (tmp_path / "opt/kernelet/bin/kernelet").read_text().startswith("#!/opt/kernelet/bin/python3\n")


def test_its_scripts_are_shell(deb: Path, tmp_path: Path) -> None:
    call("dpkg-deb", "--control", deb, tmp_path)
    for name in ("postinst", "prerm", "postrm"):
        call("sh", "-n", tmp_path / name)
    assert (tmp_path / "conffiles").read_text() == "/etc/kernelet/kernelet.toml\n"


@requires("root", "cgroup2", "filesystem overlay", "kernel 6.3", "busybox")
def test_install_upgrade_remove_purge(deb: Path, run: isolation.Run, tmp_path: Path) -> None:
    later = newer(deb, tmp_path)
    script = TREE / "tests/package/life.sh"
    words = ["unshare", "--mount", "--propagation", "private", script, deb, later, run.bridge, str(run.subnet)]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert done.stdout.splitlines()[-1] == "done"
