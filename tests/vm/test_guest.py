"""What the harness promises: streams, exit code and files come back exactly, and a guest that hangs is ended and shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from coverage import Coverage

from tests.support.requires import TREE
from tests.vm.code_disk import PREFIX
from tests.vm.debian import KERNELS, NEWEST, TOO_OLD, UML
from tests.vm.guest import PYTHON, GuestFailed, Guests

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("kernel", KERNELS)
def test_streams_exit_code_and_files_come_back_as_they_were(vm: Guests, kernel: str) -> None:
    done = vm.run(r"printf 'a\r\n\0b'; printf c >&2; printf d >/results/file; exit 7", kernel=kernel)
    assert (done.code, done.stdout, done.stderr, done.files) == (7, "a\r\n\0b", "c", {"file": b"d"})


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_the_one_that_was_asked_for_and_has_its_controllers(vm: Guests, kernel: str) -> None:
    done = vm.run("uname -r; cat /sys/fs/cgroup/cgroup.subtree_control", kernel=kernel).check()
    release, controllers = done.stdout.splitlines()
    assert release.startswith({UML: "6.1.", NEWEST: ""}.get(kernel, f"{kernel}."))
    assert kernel != NEWEST or tuple(map(int, release.split(".")[:2])) > (6, 12)
    lacking = {UML: {"cpuset", "hugetlb", "rdma", "misc"}, TOO_OLD: {"misc"}}.get(kernel, set())
    assert set(controllers.split()) >= {"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"} - lacking


@pytest.mark.parametrize("kernel", [UML, "6.1"])
def test_systemd_is_the_first_process_where_it_is_asked_for(vm: Guests, kernel: str) -> None:
    done = vm.run("cat /proc/1/comm; systemctl is-active kernelet-vm.service", kernel=kernel, init="systemd")
    assert done.stdout.split()[0] == "systemd"


def test_our_wheel_is_installed_there_and_what_it_needs(vm: Guests) -> None:
    program = "import cri.api.api_pb2, grpc, runtime.oci, kernel._linux as found; print(found.__file__)"
    done = vm.run(f"{PYTHON} -c {program!r} && {PREFIX}/bin/kernelet-oci --version && {PREFIX}/bin/kernelet version --help")
    assert done.check().stdout.startswith("/opt/kernelet/lib/")


@pytest.mark.parametrize("kernel", [UML, "6.1"])
def test_a_guest_that_hangs_is_ended_with_its_console_shown(vm: Guests, kernel: str) -> None:
    with pytest.raises(GuestFailed, match=r"not ended after 30 s(.|\n)*before the end(.|\n)*said on the console"):
        vm.run("echo before the end; sync; echo said on the console >/dev/console; sleep 1000", kernel=kernel, timeout_seconds=30)
    assert os.listdir(vm.directory) == []


def test_what_was_measured_in_a_guest_is_of_this_source(vm: Guests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELET_COVERAGE", "1")
    done = vm.pytest("tests/runtime/oci/test_spec.py").check()
    for name, content in done.files.items():
        if name.startswith("coverage/"):
            (tmp_path / f"all.{Path(name).name}").write_bytes(content)
    measured = Coverage(tmp_path / "all", config_file=str(TREE / "pyproject.toml"))
    monkeypatch.chdir(TREE)
    measured.combine([str(tmp_path)])
    lines = measured.get_data().lines(str(TREE / "runtime/oci/spec.py"))
    assert lines is not None and len(lines) > 20


def test_a_guest_that_dies_is_no_success(vm: Guests) -> None:
    with pytest.raises(GuestFailed, match="ended without an exit code"):
        vm.run("poweroff -ff")


def test_what_a_guest_writes_is_in_no_other(vm: Guests) -> None:
    before = Path(vm.image.root_disk).stat().st_mtime_ns
    vm.run("echo here >/written; sync; cat /written").check()
    assert vm.run("test -e /written").code == 1
    assert Path(vm.image.root_disk).stat().st_mtime_ns == before
