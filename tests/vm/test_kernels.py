"""What a kernel lacks is said at the start, with what that costs; on one that lacks what is needed nothing starts, by name."""

from __future__ import annotations

import json

import pytest

from tests.vm.code_disk import PREFIX
from tests.vm.debian import KERNELS, TOO_OLD, UML
from tests.vm.guest import Guests

pytestmark = pytest.mark.timeout(300)

KERNELET = f"{PREFIX}/bin/kernelet"
#: Serve until the socket is there, then stop; what doctor says is a file.
BRIEFLY = f"""
uname -r
mkdir -p /etc/kernelet
{KERNELET} doctor --json >/results/doctor
{KERNELET} serve & daemon=$!
until test -S /run/kernelet/kernelet.sock; do kill -0 $daemon || exit 1; sleep 0.1; done
kill $daemon; wait $daemon
"""
#: Nothing of it succeeds.
IN_VAIN = f"""
mkdir -p /etc/kernelet /bundle/rootfs
{KERNELET} doctor --json >/results/doctor; echo $?
timeout 60 {KERNELET} serve; echo $?
cd /bundle && {KERNELET}-oci spec && sed -i 's/"terminal": true/"terminal": false/' config.json
{KERNELET}-oci run --detach c 2>/results/oci; echo $?
"""
CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")
#: What the kernels before another lack of what only newer ones have.
SINCE = {
    "copies of mounts that are in no table (Linux 6.15)": (6, 15),
    "layers handed over one by one (Linux 6.7)": (6, 7),
    "id-mapped tmpfs (Linux 6.3)": (6, 3),
}
NEEDED = {
    "ranges of descriptors closed on exec (Linux 5.11)",
    "mounts read-only all the way down (Linux 5.12)",
    "cgroup.kill (Linux 5.14)",
}


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != TOO_OLD])
def test_a_daemon_says_at_its_start_what_the_kernel_lacks(vm: Guests, kernel: str) -> None:
    done = vm.run(BRIEFLY, kernel=kernel).check()
    version = tuple(int(part) for part in done.stdout.split("-")[0].split(".")[:2])
    assert {name for name in SINCE if f"this node lacks {name}" in done.stderr} == {
        name for name, since in SINCE.items() if version < since
    }
    lacking = {name for name in CONTROLLERS if f"this node lacks controller {name} " in done.stderr}
    assert lacking == ({"cpuset", "hugetlb"} if kernel == UML else set())
    assert needed(done.files["doctor"]) == set()


def test_on_a_kernel_that_is_too_old_nothing_starts_and_what_it_lacks_is_named(vm: Guests) -> None:
    done = vm.run(IN_VAIN, kernel=TOO_OLD)
    assert done.stdout.split() == ["1", "1", "1"]
    assert needed(done.files["doctor"]) == NEEDED
    assert "this node (Linux 5.10." in done.stderr
    assert all(name in done.stderr for name in NEEDED)
    said = done.files["oci"].decode()
    assert "function not implemented" in said or "(Linux 5.1" in said
    assert "Traceback" not in done.stderr + said


def needed(doctor: bytes) -> set[str]:
    """What is not there, and nothing works without."""
    return {facility["name"] for facility in json.loads(doctor) if facility["is_needed"] and facility["has"] is False}
