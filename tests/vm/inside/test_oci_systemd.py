"""``kernelet-oci --systemd-cgroup``: a container is a scope, of the node's systemd or of a user's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.cgroup import Cgroup
from runtime.oci.spec import make_rootless
from tests.support import cgroup, wait
from tests.support.oci import CommandLine, Config, make_bundle
from tests.vm.inside.conftest import MIB
from tests.vm.inside.test_systemd import show, systemctl

SLEEP = ("sleep", "1000")


class Scopes:
    """Containers by the command line, in scopes."""

    def __init__(self, command_line: CommandLine) -> None:
        self.command_line = command_line
        self.annotations: dict[str, str] = {}

    def run(self, name: str, *arguments: str, place: str = "", **resources: Any) -> Cgroup:
        """A container, started; where its scope is."""

        def change(config: Config) -> None:
            config["linux"].update(cgroupsPath=place)
            config["annotations"] = self.annotations
            config["linux"]["resources"].update(resources)

        self.command_line.configure(*(arguments or SLEEP), change=change)
        self.command_line.call("--systemd-cgroup", "create", name)
        found = cgroup_of(self.command_line.state(name)["pid"])
        self.command_line.call("start", name)
        return found


def cgroup_of(pid: int) -> Cgroup:
    return Cgroup(Path(f"{cgroup.ROOT}/{Path(f'/proc/{pid}/cgroup').read_text().strip().removeprefix('0::/')}"))


def is_known(unit: str) -> bool:
    return show(unit, "LoadState") != "not-found"


@pytest.fixture
def scopes(tmp_path: Path) -> Iterator[Scopes]:
    make_bundle(tmp_path / "bundle")
    command_line = CommandLine(tmp_path / "state", tmp_path / "bundle")
    yield Scopes(command_line)
    command_line.delete_all()


def test_a_container_is_a_scope_with_its_limits_known_to_systemd(scopes: Scopes) -> None:
    group = scopes.run(
        "web", memory={"limit": 64 * MIB, "swap": 64 * MIB}, cpu={"quota": 20_000, "period": 100_000, "shares": 512},
        pids={"limit": 20},
    )  # fmt: skip
    assert group.path == cgroup.ROOT / "system.slice/kernelet-web.scope"
    (only,) = group.processes()
    assert only == scopes.command_line.state("web")["pid"]
    files = ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")
    before = [group.read(file).strip() for file in files]
    assert before == [str(64 * MIB), "0", "20000 100000", "59", "20"]
    names = ("MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "CPUWeight", "TasksMax", "Delegate")
    assert [show("kernelet-web.scope", name) for name in names] == [str(64 * MIB), "0", "200ms", "59", "20", "yes"]
    systemctl("daemon-reload")
    assert [group.read(file).strip() for file in files] == before


def test_a_quota_that_systemd_rounds_is_exact_and_never_less_after_it_looked_anew(scopes: Scopes) -> None:
    group = scopes.run("web", cpu={"quota": 12_345, "period": 50_000})
    assert group.read("cpu.max") == "12345 50000\n"
    systemctl("daemon-reload")
    quota, period = map(int, group.read("cpu.max").split())
    assert period == 50_000
    assert 12_345 <= quota <= 12_500


def test_it_goes_where_the_document_says(scopes: Scopes) -> None:
    group = scopes.run("web", place="kubepods-pod7.slice:cri:box")
    assert group.path == cgroup.ROOT / "kubepods.slice/kubepods-pod7.slice/cri-box.scope"
    scopes.command_line.call("delete", "--force", "web")
    assert not is_known("cri-box.scope")
    assert not group.exists()
    systemctl("stop", "kubepods-pod7.slice", "kubepods.slice")


def test_annotations_set_properties(scopes: Scopes) -> None:
    wanted = {"org.systemd.property.TimeoutStopUSec": "uint64 7000000", "org.systemd.property.Description": "'a box'"}
    scopes.annotations = wanted
    scopes.run("web")
    assert (show("kernelet-web.scope", "TimeoutStopUSec"), show("kernelet-web.scope", "Description")) == ("7s", "a box")


def test_an_update_is_known_to_systemd(scopes: Scopes) -> None:
    group = scopes.run("web", pids={"limit": 20})
    scopes.command_line.call("update", "--pids-limit", "30", "--memory", str(32 * MIB), "web")
    assert (group.number("pids.max"), group.number("memory.max")) == (30, 32 * MIB)
    assert (show("kernelet-web.scope", "TasksMax"), show("kernelet-web.scope", "MemoryMax")) == ("30", str(32 * MIB))
    systemctl("daemon-reload")
    assert (group.number("pids.max"), group.number("memory.max")) == (30, 32 * MIB)


def test_what_is_executed_in_it_is_there_too(scopes: Scopes) -> None:
    group = scopes.run("web")
    scopes.command_line.call("exec", "--detach", "web", *SLEEP)
    second = wait.until(lambda: set(group.processes()) - {scopes.command_line.state("web")["pid"]}, 10, "a second process")
    for pid in second:  # it is ours to reap, and its pid namespace goes only after it
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_rules_of_devices_are_there_after_systemd_has_looked_anew(scopes: Scopes) -> None:
    scopes.run("web", devices=[{"allow": False, "access": "rwm"}])
    systemctl("daemon-reload")
    said = scopes.command_line.call("exec", "web", "sh", "-c", "mknod /tmp/m c 1 1; cat /tmp/m; wc -c </dev/null", may_fail=True)
    assert "not permitted" in said.stderr
    assert said.stdout == "0\n"


def test_the_end_of_the_container_is_the_end_of_the_scope_and_its_name_is_free(scopes: Scopes) -> None:
    group = scopes.run("web", "true")
    wait.until(lambda: scopes.command_line.state("web")["status"] == "stopped", 10, "the end")
    wait.until(lambda: not is_known("kernelet-web.scope"), 10, "systemd to forget it")
    scopes.command_line.call("delete", "web")
    assert not group.exists()
    assert len(scopes.run("web").processes()) == 1


def test_a_scope_of_that_name_is_refused_in_systemd_s_words(scopes: Scopes) -> None:
    scopes.run("web", place="::one")
    refused = scopes.command_line.refusal("--systemd-cgroup", "run", "other")
    assert "kernelet-one.scope was already loaded" in refused
    assert [path.name for path in scopes.command_line.root.iterdir()] == ["web"]


def test_a_container_that_cannot_start_leaves_no_scope(scopes: Scopes) -> None:
    scopes.command_line.configure("no-such-program", change=lambda config: config["linux"].update(cgroupsPath=""))
    scopes.command_line.refusal("--systemd-cgroup", "run", "web")
    wait.until(lambda: not is_known("kernelet-web.scope"), 10, "systemd to forget it")


UID = 4321


@pytest.fixture
def users_manager() -> Iterator[dict[str, str]]:
    """systemd of a user, as a login starts it; the environment of a login."""
    subprocess.run(["useradd", "--uid", str(UID), "--create-home", "tester"], check=True)
    dropin = Path(f"/run/systemd/system/user@{UID}.service.d/10-no-pam.conf")  # pam_systemd, which would say it, is not here
    dropin.parent.mkdir(parents=True)
    dropin.write_text("[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n")
    systemctl("daemon-reload")
    systemctl("start", f"user@{UID}.service")
    runtime_dir = f"/run/user/{UID}"
    yield {"XDG_RUNTIME_DIR": runtime_dir, "HOME": "/home/tester", "PATH": os.environ["PATH"]}
    systemctl("stop", f"user@{UID}.service")
    shutil.rmtree(dropin.parent)
    subprocess.run(["userdel", "--remove", "tester"], check=True, stderr=subprocess.DEVNULL)


def as_user(command_line: CommandLine, environment: dict[str, str], *words: str) -> str:
    """One command, by the user, from a session that its manager does not manage."""
    who = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"]
    log = command_line.root / "output"  # a file: a container that goes on holds it, and nobody waits for its end
    with log.open("w+") as output:
        command = [*who, *command_line.words(*words)]
        done = subprocess.run(
            command, cwd=command_line.bundle, env=environment, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    said = log.read_text()
    assert done.returncode == 0, f"{words}: {said}"
    return said


def test_a_user_s_container_is_a_scope_of_the_user_s_own_systemd(users_manager: dict[str, str], tmp_path: Path) -> None:
    place = Path("/home/tester/bundle")
    make_bundle(place)
    command_line = CommandLine(Path("/home/tester/state"), place)

    def change(config: Config) -> None:
        linux = config["linux"]
        make_rootless(config, UID, UID)
        linux["resources"] = {"pids": {"limit": 20}, "memory": {"limit": 64 * MIB}}
        linux["cgroupsPath"] = ""

    command_line.configure(*SLEEP, change=change)
    command_line.root.mkdir(mode=0o700)
    for path in (command_line.root, place, *place.rglob("*")):
        os.lchown(path, UID, UID)
    as_user(command_line, users_manager, "--systemd-cgroup", "create", "--pid-file", "/home/tester/pid", "web")
    pid = int(Path("/home/tester/pid").read_text())
    group = cgroup_of(pid)
    assert group.path.name == "kernelet-web.scope"
    assert f"user@{UID}.service/user.slice" in str(group.path)
    assert (group.number("pids.max"), group.number("memory.max"), group.processes()) == (20, 64 * MIB, [pid])
    as_user(command_line, users_manager, "start", "web")
    assert as_user(command_line, users_manager, "exec", "web", "echo", "here") == "here\n"
    as_user(command_line, users_manager, "update", "--pids-limit", "30", "web")
    assert group.number("pids.max") == 30
    as_user(command_line, users_manager, "delete", "--force", "web")
    assert not group.exists()
