"""Seccomp, and what a cgroup of version 2 can do without a controller: the place, membership, freezing, devices."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.oci.bundle import mount
from tests.conformance.oci.container import Container
from tests.support import cgroup, wait
from tests.support.requires import TREE, requires

#: What the filters are about, and a program that tries it.
CALLS = ("mkdir", "mkdirat")
TRY = "mkdir /data/made || echo refused"


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def filtered(container: Container, *rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **more: Any) -> None:
    """Give *container* a filter for this machine's system calls."""
    container.linux["seccomp"] = {"defaultAction": default, "syscalls": list(rules), **more}


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([rule("SCMP_ACT_ERRNO", *CALLS)], "Operation not permitted"),
        ([rule("SCMP_ACT_ERRNO", *CALLS, errnoRet=errno.EBUSY)], "Device or resource busy"),
        ([rule("SCMP_ACT_ALLOW", *CALLS)], ""),
        ([rule("SCMP_ACT_LOG", *CALLS)], ""),
    ],
    ids=["errno", "errnoRet", "allow", "log"],
)
def test_the_action_of_a_rule(container: Container, rules: list[dict[str, Any]], says: str) -> None:
    filtered(container, *rules)
    done = container.run(["mkdir", "/data/made"], expect=None)
    assert done.code == (1 if says else 0)
    assert says in done.errors
    assert (container.rootfs / "data/made").exists() is not bool(says)


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_an_action_that_ends_the_process(container: Container, action: str) -> None:
    filtered(container, rule(action, *CALLS))
    container.run(["mkdir", "/data/made"], expect=128 + signal.SIGSYS)


def test_a_rule_may_ask_for_an_argument(container: Container) -> None:
    argument = {"index": 1, "value": signal.SIGUSR1, "op": "SCMP_CMP_EQ"}
    filtered(container, rule("SCMP_ACT_ERRNO", "kill", "tgkill", args=[argument]))
    assert container.run("kill -10 $$ 2>&1 | grep -c 'not permitted'; kill -0 $$ && echo allowed").lines == ["1", "allowed"]


def test_the_filter_is_there_without_no_new_privileges(container: Container) -> None:
    container.process["noNewPrivileges"] = False
    filtered(container, rule("SCMP_ACT_ERRNO", *CALLS))
    assert container.run(f"grep Seccomp: /proc/self/status; {TRY}").lines == ["Seccomp:\t2", "refused"]


def test_the_filter_holds_for_an_exec(container: Container) -> None:
    filtered(container, rule("SCMP_ACT_ERRNO", *CALLS))
    container.launch("sleep 100")
    assert container.exec(TRY).output == "refused\n"


def test_a_name_that_this_kernel_does_not_know_is_passed_over(container: Container) -> None:
    filtered(container, rule("SCMP_ACT_ERRNO", "nonsense_call", *CALLS))
    assert container.run(TRY).output == "refused\n"


def test_the_default_action_is_for_all_others(container: Container) -> None:
    """A list of what is allowed, from which two calls are missing."""
    known = json.loads((TREE / "runtime/container/syscalls.json").read_text())["numbers"]
    filtered(container, rule("SCMP_ACT_ALLOW", *(name for name in known if name not in CALLS)), default="SCMP_ACT_ERRNO")
    assert container.run(TRY).output == "refused\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"defaultAction": "SCMP_ACT_NONSENSE"},
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NONSENSE"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("SCMP_ACT_NONSENSE", "uname")]},
    ],
    ids=["default", "architecture", "action"],
)
def test_a_filter_that_makes_no_sense_is_refused(container: Container, wrong: dict[str, Any]) -> None:
    container.linux["seccomp"] = wrong
    assert container.run("true", expect=None).code != 0
    assert not container.exists()


def place_of(container: Container) -> Path:
    """The directory of the container's cgroup."""
    line = next(
        each for each in Path(f"/proc/{container.state()['pid']}/cgroup").read_text().splitlines() if each.startswith("0::")
    )
    return cgroup.ROOT / line[3:].strip("/")


def test_the_cgroup_is_where_the_path_says(container: Container) -> None:
    container.linux["cgroupsPath"] = f"/{container.id}/deep/place"
    container.launch("sleep 100")
    assert place_of(container) == cgroup.ROOT / container.id / "deep/place"
    container.delete("--force")
    assert not (cgroup.ROOT / container.id / "deep/place").exists()
    cgroup.remove(cgroup.ROOT / container.id)


def test_the_cgroup_is_the_root_of_the_namespace(container: Container) -> None:
    container.config["mounts"].append(mount("/sys/fs/cgroup", "cgroup", ["nosuid", "noexec", "nodev", "ro"]))
    done = container.run("grep ^0:: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | head -n 1")
    assert done.lines == ["0::/", "1"]


def test_a_read_only_cgroup_mount_cannot_be_written_to(container: Container) -> None:
    container.config["mounts"].append(mount("/sys/fs/cgroup", "cgroup", ["ro"]))
    assert container.run("mkdir /sys/fs/cgroup/below || echo refused").output == "refused\n"


def test_every_process_is_in_the_cgroup(container: Container) -> None:
    container.launch("sleep 100 & sleep 100 & touch /data/ready; wait")
    wait.until((container.rootfs / "data/ready").exists)
    container.exec("sleep 100", "--detach", "--pid-file", str(container.directory / "exec.pid"))
    container.pids.append(int((container.directory / "exec.pid").read_text()))
    assert len(cgroup.processes(place_of(container))) == 4


def test_pause_freezes_and_resume_thaws(container: Container) -> None:
    container.launch("while :; do echo x >> /data/log; sleep 0.01; done")
    container.await_file("data/log")
    container.call("pause", container.id)
    assert container.status() == "paused"
    assert "frozen 1" in (place_of(container) / "cgroup.events").read_text()
    size = (container.rootfs / "data/log").stat().st_size
    container.call("resume", container.id)
    assert container.status() == "running"
    wait.until(lambda: (container.rootfs / "data/log").stat().st_size > size, 5, "the program to go on")


def test_a_paused_container_can_be_killed(container: Container) -> None:
    container.launch("sleep 100")
    container.call("pause", container.id)
    container.delete("--force")
    assert container.wait() == 128 + 9
    assert not container.exists()


def test_pause_is_for_running_containers(container: Container) -> None:
    container.launch("true")
    container.wait()
    assert container.call("pause", container.id, expect=None).code != 0


def test_nothing_of_the_container_outlives_it(container: Container) -> None:
    """Without a pid namespace of its own the cgroup alone knows what belongs to it."""
    container.linux["namespaces"] = [each for each in container.linux["namespaces"] if each["type"] != "pid"]
    container.launch("sleep 100 & touch /data/ready; exec sleep 100")
    wait.until((container.rootfs / "data/ready").exists)
    place = place_of(container)
    assert place == cgroup.ROOT / container.id
    try:
        container.delete("--force")
        assert not place.exists()
    finally:
        cgroup.remove(place)
    container.wait()


@requires("capability bpf")
def test_devices_are_allowed_by_their_rules(container: Container) -> None:
    container.linux["resources"] = {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"},
        ]
    }
    container.linux["devices"] = [{"path": "/dev/memory", "type": "c", "major": 1, "minor": 1, "fileMode": 0o666}]
    done = container.run("head -c 1 /dev/zero | wc -c; cat /dev/memory 2>&1 | grep -c 'not permitted'")
    assert done.lines == ["1", "1"]


def test_unified_writes_the_file_that_it_names(container: Container) -> None:
    container.linux["resources"] = {"unified": {"cgroup.max.descendants": "7"}}
    container.launch("sleep 100")
    assert (place_of(container) / "cgroup.max.descendants").read_text() == "7\n"


@pytest.mark.parametrize("name", ["nonsense.max", "../cgroup.procs", "cgroup.nonsense"])
def test_unified_refuses_what_is_not_there(container: Container, name: str) -> None:
    container.linux["resources"] = {"unified": {name: "7"}}
    assert container.create(expect=None).code != 0
    assert not container.exists()


@requires("controllers hugetlb")
def test_limits_of_huge_pages_are_set(container: Container) -> None:
    container.linux["resources"] = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 21}]}
    container.launch("sleep 100")
    assert (place_of(container) / "hugetlb.2MB.max").read_text() == f"{4 << 21}\n"


@requires("controllers hugetlb")
def test_update_changes_a_limit(container: Container) -> None:
    container.linux["resources"] = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 21}]}
    container.launch("sleep 100")
    changes = container.directory / "resources.json"
    changes.write_text(json.dumps({"unified": {"hugetlb.2MB.max": str(2 << 21)}}))
    container.call("update", "--resources", str(changes), container.id)
    assert (place_of(container) / "hugetlb.2MB.max").read_text() == f"{2 << 21}\n"


def test_a_limit_whose_controller_is_missing_is_an_error(container: Container) -> None:
    """A limit that is not in force must not look as if it was."""
    if "memory" in (cgroup.ROOT / "cgroup.controllers").read_text().split():
        container.linux["resources"] = {"unified": {"absent.max": "1"}}
    else:
        container.linux["resources"] = {"memory": {"limit": 64 << 20}}
    assert container.create(expect=None).code != 0
    assert not container.exists()
    assert not os.path.exists(cgroup.ROOT / container.id)
