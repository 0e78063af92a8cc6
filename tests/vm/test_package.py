"""The Debian package in guests with systemd: its life with a pod alive, and vagrant/'s scripts, which make a node of it.

It is the one that ``make deb`` left in build/; ``make test-vm`` makes it anew.  ``make vagrant-test`` goes the whole way.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import requires as needs
from tests.support.requires import TREE, requires
from tests.vm.guest import Guests

pytestmark = [requires("crictl"), pytest.mark.timeout(1500)]

#: The guest's own installation of our wheel makes way.
COMMAND = "exec 2>&1; umount /opt/kernelet; install crictl /usr/local/bin/; "


@pytest.fixture(scope="module")
def package() -> Path:
    made = sorted((TREE / "build").glob("kernelet_*.deb"), key=lambda path: path.stat().st_mtime)
    return made[-1] if made else pytest.fail("there is no build/kernelet_*.deb: run make deb", pytrace=False)


@pytest.fixture(scope="module")
def crictl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without what only a debugger needs: a third of it, which the guest then does not have to unpack."""
    stripped = tmp_path_factory.mktemp("crictl") / "crictl"
    subprocess.run(["strip", "-o", stripped, needs.program("crictl")], check=True)
    return stripped


def later(package: Path, directory: Path) -> Path:
    """The same package with a later version."""
    unpacked, target = directory / "unpacked", directory / "later.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], check=True)
    control = unpacked / "DEBIAN/control"
    version = next(line for line in control.read_text().splitlines() if line.startswith("Version: "))
    control.write_text(control.read_text().replace(version, f"{version}+later"))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", unpacked, target], check=True)
    return target


def test_it_is_installed_upgraded_under_a_running_pod_removed_and_purged(
    vm: Guests, package: Path, crictl: Path, tmp_path: Path
) -> None:
    files = {"first.deb": package, "later.deb": later(package, tmp_path), "crictl": crictl, "vagrant": TREE / "vagrant"}
    command = f"{COMMAND} tests/vm/inside/package.sh first.deb later.deb"
    done = vm.run(command, kernel="6.1", init="systemd", files=files, timeout_seconds=1200).check()
    assert done.stdout.endswith("done\n")


def test_a_node_is_provisioned_and_smoked(vm: Guests, package: Path, crictl: Path) -> None:
    files = {f"build/{package.name}": package, "crictl": crictl, "vagrant": TREE / "vagrant"}
    command = f"{COMMAND} vagrant/provision.sh && vagrant/smoke.sh"
    done = vm.run(command, kernel="6.1", init="systemd", files=files, timeout_seconds=1200).check()
    assert "smoke: all well" in done.stdout
