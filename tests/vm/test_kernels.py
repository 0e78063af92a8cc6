"""What a kernel lacks is said at the start, with what that costs; on one that lacks what is needed nothing starts, by name."""

from __future__ import annotations

import json

import pytest

from tests.vm.code_disk import PREFIX
from tests.vm.debian import KERNELS, NEWEST, TOO_OLD, UML
from tests.vm.guest import Guests

pytestmark = pytest.mark.timeout(300)

KERNELET = f"{PREFIX}/bin/kernelet"
SERVE = f"mkdir -p /etc/kernelet; timeout 60 {KERNELET} serve"
#: Serve until the socket is there, then stop.
BRIEFLY = f"""
mkdir -p /etc/kernelet
{KERNELET} serve & daemon=$!
until test -S /run/kernelet/kernelet.sock; do kill -0 $daemon || exit 1; sleep 0.1; done
kill $daemon; wait $daemon
"""
CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")
#: What the kernels before another lack of what only newer ones have.
SINCE = {
    "copies of mounts that are in no table (Linux 6.15)": (6, 15),
    "layers handed over one by one (Linux 6.7)": (6, 7),
    "id-mapped tmpfs (Linux 6.3)": (6, 3),
}


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != TOO_OLD])
def test_a_daemon_says_at_its_start_what_the_kernel_lacks(vm: Guests, kernel: str) -> None:
    done = vm.run(f"uname -r; {BRIEFLY}", kernel=kernel).check()
    version = tuple(int(part) for part in done.stdout.split("-")[0].split(".")[:2])
    assert {name for name in SINCE if f"this node lacks {name}" in done.stderr} == {
        name for name, since in SINCE.items() if version < since
    }
    lacking = {name for name in CONTROLLERS if f"this node lacks controller {name} " in done.stderr}
    assert lacking == ({"cpuset", "hugetlb"} if kernel == UML else set())


@pytest.mark.parametrize("kernel", [NEWEST, "6.1", TOO_OLD])
def test_doctor_says_whether_the_kernel_will_do(vm: Guests, kernel: str) -> None:
    done = vm.run(f"{KERNELET} doctor --json", kernel=kernel)
    needed = {facility["name"] for facility in json.loads(done.stdout) if facility["is_needed"] and facility["has"] is False}
    lacks = {
        "ranges of descriptors closed on exec (Linux 5.11)",
        "mounts read-only all the way down (Linux 5.12)",
        "cgroup.kill (Linux 5.14)",
    }
    assert (done.code, needed) == ((1, lacks) if kernel == TOO_OLD else (0, set()))


def test_on_a_kernel_that_is_too_old_nothing_starts_and_what_it_lacks_is_named(vm: Guests) -> None:
    done = vm.run(SERVE, kernel=TOO_OLD)
    assert done.code == 1
    for name in ("(Linux 5.10.", "mounts read-only all the way down (Linux 5.12)", "cgroup.kill (Linux 5.14)"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr
    done = vm.run(
        f"mkdir -p /b/rootfs && cd /b && {PREFIX}/bin/kernelet-oci spec && {PREFIX}/bin/kernelet-oci run c", kernel=TOO_OLD
    )
    assert done.code == 1
    assert "5.1" in done.stderr
    assert "Traceback" not in done.stderr
