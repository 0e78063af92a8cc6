"""AppArmor profiles on containers: loaded, missing and wrong; the kernel says who is confined by which."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from kernel import apparmor as kernel
from runtime.container import apparmor
from tests.support import wait
from tests.support.oci import Config
from tests.vm.inside.conftest import PARENT, Limited, Node

DENY_WRITE = "profile deny-write flags=(attach_disconnected) { file, signal, network, capability, deny /tmp/** w, }\n"
SAY = "cat /proc/self/attr/apparmor/current"
SOURCE = Path(apparmor.__file__).parents[1] / "spec/apparmor_default.profile"


def parser(*words: str, given: str = "") -> bytes:
    done = subprocess.run(["apparmor_parser", *words], input=given.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def securityfs() -> Iterator[None]:
    """For the parser; ours need it not."""
    if not Path("/sys/kernel/security/apparmor").exists():
        subprocess.run(["mount", "-t", "securityfs", "securityfs", "/sys/kernel/security"], check=True)
        yield
        subprocess.run(["umount", "/sys/kernel/security"], check=True)
    else:
        yield


@pytest.fixture
def deny_write() -> Iterator[str]:
    parser("--replace", given=DENY_WRITE)
    yield "deny-write"
    parser("--remove", given=DENY_WRITE)


def test_the_compiled_default_is_what_its_source_says() -> None:
    features = ("--kernel-features", "/etc/apparmor.d/abi/3.0", "--policy-features", "/etc/apparmor.d/abi/3.0")
    assert parser("--stdout", "--skip-kernel-load", *features, given=SOURCE.read_text()) == apparmor._policy()


def run(oci: Limited, script: str, profile: str) -> str:
    """What *script* says in a container of that profile."""

    def change(config: Config) -> None:
        config["process"]["apparmorProfile"] = profile
        config["linux"]["cgroupsPath"] = f"/{PARENT}/web"

    oci.command_line.configure("sh", "-c", script, change=change)
    return oci.command_line.call("run", "web").stdout


def test_a_container_is_confined_by_the_profile_that_is_asked_for(oci: Limited, deny_write: str) -> None:
    assert run(oci, f"{SAY}; touch /tmp/x; echo $?; touch /x; echo $?", deny_write) == "deny-write (enforce)\n1\n0\n"


def test_without_a_profile_it_is_not_confined(oci: Limited) -> None:
    assert run(oci, f"{SAY}; touch /tmp/x; echo $?", "") == "unconfined\n0\n"


@pytest.mark.parametrize("profile", ["nobody-loaded-this", "deny-write extra", "deny-write//child"])
def test_a_profile_that_is_not_there_is_refused_before_anything_is_made(oci: Limited, deny_write: str, profile: str) -> None:
    oci.command_line.configure("true", change=lambda config: config["process"].update(apparmorProfile=profile))
    assert f"AppArmor profile {profile}: not loaded on this node" in oci.command_line.refusal("run", "web")
    assert list(oci.command_line.root.glob("*")) == []


def test_what_is_executed_is_confined_by_the_container_s_profile_or_its_own(oci: Limited, deny_write: str) -> None:
    container = oci.run("exec sleep 1000")
    said = oci.command_line.call("exec", "--apparmor", deny_write, container.name, "sh", "-c", f"{SAY}; touch /tmp/x; echo $?")
    assert said.stdout == "deny-write (enforce)\n1\n"
    assert oci.command_line.call("exec", container.name, "sh", "-c", SAY).stdout == "unconfined\n"
    refused = oci.command_line.call("exec", "--apparmor", "nobody-loaded-this", container.name, "true", may_fail=True)
    assert "AppArmor profile nobody-loaded-this: not loaded on this node" in refused.stderr


PROFILE = api.SecurityProfile
#: What an init says and does; it may mount as far as capabilities go.
MOUNT = "mount -t tmpfs t /tmp 2>/dev/null && echo mounted"
PROBE = f"{SAY}; {MOUNT}; echo 0 >/proc/sys/vm/swappiness || echo refused; exec sleep 1000"


def create(node: Node, **security: Any) -> str:
    """A container of that security context that tells of itself, not started."""
    options = api.NamespaceOption(network=api.NODE, pid=api.CONTAINER)
    capabilities = api.Capability(add_capabilities=["SYS_ADMIN"])
    context = api.LinuxContainerSecurityContext(
        namespace_options=options, seccomp=PROFILE(profile_type=PROFILE.Unconfined), capabilities=capabilities, **security
    )
    config = node.container_config(["sh", "-c", PROBE], linux=api.LinuxContainerConfig(security_context=context))
    return node.create(node.pod(), config)


def said(node: Node, container: str) -> list[str]:
    node.start(container)
    wait.until(lambda: node.execute(container, "cat", "/proc/1/cmdline").stdout.startswith(b"sleep"), 30, "the probe to be done")
    return node.lines(container, "stdout")


@pytest.mark.parametrize("security", [{}, {"apparmor": PROFILE()}, {"apparmor_profile": "runtime/default"}])
def test_the_default_profile_confines_also_who_may_mount(node: Node, security: dict[str, Any]) -> None:
    container = create(node, **security)
    assert said(node, container) == ["kernelet-default (enforce)", "refused"]
    assert node.execute(container, "sh", "-c", SAY).stdout == b"kernelet-default (enforce)\n"


def test_who_asks_for_none_has_none(node: Node) -> None:
    container = create(node, apparmor=PROFILE(profile_type=PROFILE.Unconfined), masked_paths=[], readonly_paths=[])
    assert said(node, container)[:2] == ["unconfined", "mounted"]


def test_a_default_profile_that_was_taken_away_is_loaded_anew(node: Node) -> None:
    create(node)
    assert "kernelet-default" in kernel.profiles()
    parser("--remove", given=SOURCE.read_text())
    assert "kernelet-default" not in kernel.profiles()
    assert said(node, create(node))[0] == "kernelet-default (enforce)"


def test_a_profile_of_the_node_s_is_one_that_is_loaded(node: Node, deny_write: str) -> None:
    mine = PROFILE(profile_type=PROFILE.Localhost, localhost_ref=deny_write)
    container = create(node, apparmor=mine)
    assert said(node, container)[0] == "deny-write (enforce)"
    assert node.execute(container, "touch", "/tmp/x").exit_code == 1
    other = PROFILE(profile_type=PROFILE.Localhost, localhost_ref="nobody-loaded-this")
    with pytest.raises(grpc.RpcError, match="AppArmor profile nobody-loaded-this: not loaded on this node"):
        create(node, apparmor=other)
