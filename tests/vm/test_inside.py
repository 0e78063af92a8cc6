"""Tests that run inside a guest, a file a guest, on each of its kernels; their JUnit reports are kept in build/vm/reports."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.vm.debian import UML
from tests.vm.guest import Guests, Init
from tests.vm.image import CACHE

#: By file below tests: where it runs.  User Mode Linux is fast and has most controllers, QEMU's 6.1 all.
FILES = {
    "vm/inside/test_oci_limits.py": (UML, "6.1"),
    "vm/inside/test_daemon_limits.py": (UML, "6.1"),
    # Not written for a guest, but skipped in part on a machine without the controllers.
    "kernel/test_cgroup.py": (UML,),
    "runtime/container/test_controllers.py": (UML, "6.1"),
    "runtime/oci/test_events.py": ("6.1",),  # hugetlb, and a clock that sees less than a tick
}
#: With systemd as the first process.
WITH_SYSTEMD = {
    "vm/inside/test_systemd.py": (UML, "6.1"),
    "vm/inside/test_oci_systemd.py": (UML, "6.1"),
}


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("file", "kernel"), [(file, kernel) for file, kernels in FILES.items() for kernel in kernels])
def test_inside(vm: Guests, file: str, kernel: str) -> None:
    run_inside(vm, file, kernel)


#: With AppArmor, which User Mode Linux has to be told to use.
WITH_APPARMOR = ((UML, "security=apparmor lsm=yama,apparmor"), ("6.1", ""))


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("kernel", "append"), WITH_APPARMOR)
def test_inside_with_apparmor(vm: Guests, kernel: str, append: str) -> None:
    run_inside(vm, "vm/inside/test_apparmor.py", kernel, append=append)


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("file", "kernel"), [(file, kernel) for file, kernels in WITH_SYSTEMD.items() for kernel in kernels])
def test_inside_with_systemd(vm: Guests, file: str, kernel: str) -> None:
    run_inside(vm, file, kernel, init="systemd")


def run_inside(vm: Guests, file: str, kernel: str, *, init: Init = "minimal", append: str = "") -> None:
    """Run *file* there and keep its report; AssertionError when a test of it fails, or is skipped."""
    done = vm.pytest(f"tests/{file}", kernel=kernel, init=init, append=append)
    report = done.files.get("junit.xml", b"")
    if report:
        (CACHE / "reports").mkdir(exist_ok=True)
        (CACHE / f"reports/{kernel}-{Path(file).stem}.xml").write_bytes(report)
    done.check()
    (suite,) = ElementTree.fromstring(report).iter("testsuite")
    assert int(suite.get("tests", 0)) > 0
    assert suite.get("skipped") == "0", f"what is skipped in a guest runs nowhere:\n{done.stdout}"
