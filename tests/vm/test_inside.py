"""Tests that run inside a guest, on each of their kernels; JUnit reports (build/vm/reports) and coverage are kept."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.vm.debian import NEWEST, UML
from tests.vm.guest import PYTHON, Guests, Init, Result
from tests.vm.image import CACHE

#: Kernels under QEMU.
QEMU = ("6.1", "6.12", NEWEST)
#: By file or directory below tests: where it runs.  User Mode Linux is fast and has most controllers, QEMU's 6.1 all.
FILES = {
    "vm/inside/test_oci_limits.py": (UML, *QEMU),
    "vm/inside/test_oci_memory.py": (UML, *QEMU),
    "vm/inside/test_oci_tree.py": (UML, *QEMU),
    "vm/inside/test_oci_all.py": QEMU,
    "vm/inside/test_daemon_limits.py": (UML, *QEMU),
    "vm/inside/test_daemon_killed.py": QEMU,
    "vm/inside/test_stats.py": (UML, *QEMU),
    "vm/inside/test_metrics.py": ("6.1",),  # tables for the network of pods
    # Not written for a guest, but skipped in part on a machine without the controllers.
    "kernel/test_cgroup.py": (UML,),
    "runtime/container/test_controllers.py": (UML, "6.1"),
    "runtime/oci/test_events.py": ("6.1",),  # hugetlb, and a clock that sees less than a tick
    # What goes other ways on a kernel that is older than the machine's.
    **{
        f"kernel/test_{name}.py": ("6.1",)
        for name in "filesystem mount namespace overlay probe process program user_namespace workshop".split()
    },
    "runtime/container/test_root_inside.py": ("6.1",),
    "runtime/container/test_mounts_inside.py": ("6.1",),
    "runtime/container/test_devices_inside.py": ("6.1",),
}
#: What may be skipped there: what says itself that it is for a newer kernel.
FOR_NEWER = "requires kernel "
#: With systemd as the first process.
WITH_SYSTEMD = {
    "vm/inside/test_systemd.py": (UML, "6.1"),
    "vm/inside/test_oci_systemd.py": (UML,),
}


def boots() -> list[tuple[str, list[str]]]:
    """Kernel and files of each boot: one a file, but under QEMU, where boot and pytest's start take 20 s, one a kernel."""
    found = [(UML, [file]) for file, kernels in FILES.items() if UML in kernels]
    others = dict.fromkeys(kernel for kernels in FILES.values() for kernel in kernels if kernel != UML)
    return found + [(kernel, [file for file, kernels in FILES.items() if kernel in kernels]) for kernel in others]


@pytest.mark.timeout(2500)
@pytest.mark.parametrize(("kernel", "files"), boots(), ids=lambda what: what if isinstance(what, str) else Path(what[-1]).stem)
def test_inside(vm: Guests, kernel: str, files: list[str]) -> None:
    run_inside(vm, files, kernel)


@pytest.mark.timeout(2500)
def test_two_hundred_pods_in_four_gibibytes(vm: Guests) -> None:
    run_inside(vm, ["vm/inside/test_many_pods.py"], "6.1", memory_mib=4096)


#: With AppArmor, which User Mode Linux has to be told to use.
WITH_APPARMOR = ((UML, "security=apparmor lsm=yama,apparmor"), ("6.1", ""))


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("kernel", "append"), WITH_APPARMOR)
def test_inside_with_apparmor(vm: Guests, kernel: str, append: str) -> None:
    run_inside(vm, ["vm/inside/test_apparmor.py"], kernel, append=append)


@pytest.mark.timeout(1000)
def test_inside_with_selinux(vm: Guests) -> None:
    load = f"{PYTHON} -m tests.vm.inside.selinux && "
    run_inside(vm, ["vm/inside/test_selinux.py"], UML, append="lsm=yama,selinux selinux=1", before=load)


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("file", "kernel"), [(file, kernel) for file, kernels in WITH_SYSTEMD.items() for kernel in kernels])
def test_inside_with_systemd(vm: Guests, file: str, kernel: str) -> None:
    run_inside(vm, [file], kernel, init="systemd")


def run_inside(
    vm: Guests,
    files: list[str],
    kernel: str,
    *,
    init: Init = "minimal",
    append: str = "",
    before: str = "",
    memory_mib: int = 1536,
) -> None:
    """Run *files* there and keep what comes back; AssertionError when a test of them fails, or is skipped for no good reason."""
    words = [f"tests/{file}" for file in files]
    done = vm.pytest(
        *words, kernel=kernel, init=init, append=append, before=before, memory_mib=memory_mib, timeout_seconds=2400
    )
    report = done.files.get("junit.xml", b"")
    name = f"{kernel}-{Path(files[0]).stem if len(files) == 1 else 'all'}"
    figures = [(f"reports/{name}-figures.json", done.files["figures.json"])] if "figures.json" in done.files else []
    for place, content in ((f"reports/{name}.xml", report), *figures, *coverage_of(done, name)):
        (CACHE / place).parent.mkdir(exist_ok=True)
        (CACHE / place).write_bytes(content)
    done.check()
    (suite,) = ElementTree.fromstring(report).iter("testsuite")
    assert int(suite.get("tests", 0)) > 0
    skipped = [str(each.get("message")) for each in suite.iter("skipped")]
    blind = [reason for reason in skipped if not reason.startswith(FOR_NEWER)]
    assert blind == [], f"what is skipped in a guest runs nowhere:\n{done.stdout}"


def coverage_of(done: Result, name: str) -> list[tuple[str, bytes]]:
    """Where what was measured is kept, for "coverage combine build/vm/coverage", and what it is."""
    found = [(place, content) for place, content in done.files.items() if place.startswith("coverage/")]
    return [(f"coverage/.coverage.{name}.{Path(place).name}", content) for place, content in found]
