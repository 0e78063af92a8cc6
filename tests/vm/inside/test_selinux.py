"""SELinux labels on processes, mounts and volumes, by a small policy that the kernel enforces (``selinux.py`` loads it)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from tests.support import wait
from tests.support.oci import Config
from tests.vm.inside.conftest import PARENT, Limited, Node

PROCESS, FILES = "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"
SAY = "cat /proc/self/attr/current"


def label_of(path: Path) -> str:
    return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()


@pytest.fixture
def bundle(oci: Limited) -> Iterator[Limited]:
    """Whose files are a container's, as a caller of a runtime sees to."""
    for path in (oci.command_line.bundle / "rootfs", *(oci.command_line.bundle / "rootfs").rglob("*")):
        os.setxattr(path, "security.selinux", b"system_u:object_r:container_file_t:s0", follow_symlinks=False)
    yield oci


def configure(oci: Limited, script: str, process: str, files: str) -> None:
    def change(config: Config) -> None:
        config["process"]["selinuxLabel"] = process
        config["linux"] |= {"mountLabel": files, "cgroupsPath": f"/{PARENT}/web"}

    oci.command_line.configure("sh", "-c", script, change=change)


def run(oci: Limited, script: str, process: str = PROCESS, files: str = FILES) -> str:
    """What *script* writes to a file of the bundle's that it may write to, in a container of these labels."""
    configure(oci, f"({script}) >/said 2>&1; exit 0", process, files)
    oci.command_line.call("run", "web")
    return (oci.command_line.bundle / "rootfs/said").read_text().replace("\0", "")


def test_a_process_has_its_label_and_its_mounts_theirs(bundle: Limited) -> None:
    configure(bundle, "exec sleep 1000", PROCESS, FILES)
    bundle.command_line.call("run", "--detach", "web")
    process = Path("/proc", str(bundle.command_line.state("web")["pid"]))
    assert (process / "attr/current").read_text().rstrip("\0") == PROCESS
    assert [label_of(process / "root" / place) for place in ("dev", "dev/shm")] == [FILES, FILES]


def test_it_may_do_what_its_label_may(bundle: Limited) -> None:
    assert run(bundle, "touch /dev/shm/x && echo made") == "made\n"
    others = "system_u:object_r:container_file_t:s0:c3,c4"
    assert "Permission denied" in run(bundle, "touch /dev/shm/x && echo made", files=others)


@pytest.mark.parametrize("label", ["system_u:system_r:no_such_t:s0", "nonsense", "system_u:system_r:container_t:s0:c9999"])
def test_a_label_that_the_policy_does_not_know_is_refused_before_the_start(bundle: Limited, label: str) -> None:
    configure(bundle, "true", label, "")
    refused = bundle.command_line.refusal("create", "web")
    assert "process.selinuxLabel" in refused
    assert not list(bundle.command_line.root.glob("*"))


def test_a_label_of_mounts_that_the_policy_does_not_know_is_refused(bundle: Limited) -> None:
    configure(bundle, "true", PROCESS, "system_u:object_r:no_such_t:s0")
    assert "linux.mountLabel" in bundle.command_line.refusal("create", "web")


def test_what_is_executed_has_the_container_s_label_or_its_own(bundle: Limited) -> None:
    configure(bundle, "exec sleep 1000", PROCESS, FILES)
    bundle.command_line.call("run", "--detach", "web")
    say = ["sh", "-c", f"{SAY} >/said"]
    said = bundle.command_line.bundle / "rootfs/said"
    bundle.command_line.call("exec", "web", *say)
    assert said.read_text().rstrip("\0") == PROCESS
    bundle.command_line.call("exec", "--process-label", "system_u:system_r:spc_t:s0", "web", *say)
    assert said.read_text().rstrip("\0") == "system_u:system_r:spc_t:s0"


def create(node: Node, script: str, mounts: list[api.Mount], **options: str) -> str:
    """A container of these SELinux options, not started."""
    context = api.LinuxContainerSecurityContext(
        namespace_options=api.NamespaceOption(network=api.NODE, pid=api.CONTAINER),
        seccomp=api.SecurityProfile(profile_type=api.SecurityProfile.Unconfined),
        selinux_options=api.SELinuxOption(**options),
    )
    linux = api.LinuxContainerConfig(security_context=context)
    return node.create(node.pod(), node.container_config(["sh", "-c", script], linux=linux, mounts=mounts))


@pytest.fixture
def volume() -> Iterator[Path]:
    """On the root disk, whose file system keeps labels."""
    made = Path("/var/volume")
    (made / "below").mkdir(parents=True)
    (made / "below/file").write_text("content\n")
    (made / "link").symlink_to("/etc/passwd")
    yield made
    subprocess.run(["rm", "-r", made], check=True)


def mount(volume: Path, **fields: Any) -> api.Mount:
    return api.Mount(container_path="/data", host_path=str(volume), **fields)


@pytest.mark.parametrize("relabel", [True, False])
def test_a_volume_is_a_container_s_when_its_files_are_labelled_so(node: Node, volume: Path, relabel: bool) -> None:
    passwd = label_of(Path("/etc/passwd"))
    container = create(node, "cat /data/below/file; exec sleep 1000", [mount(volume, selinux_relabel=relabel)], level="s0:c1,c2")
    node.start(container)
    wait.until(lambda: node.execute(container, "cat", "/proc/1/cmdline").stdout.startswith(b"sleep"), 30, "the script")
    assert node.execute(container, "sh", "-c", SAY).stdout.rstrip(b"\0").decode() == PROCESS
    assert node.lines(container, "stdout") == (["content"] if relabel else [])
    labels = {label_of(path) for path in (volume, volume / "below", volume / "below/file", volume / "link")}
    assert (labels == {FILES}) == relabel
    assert label_of(Path("/etc/passwd")) == passwd
    (wanted,) = node.status(container).mounts
    assert wanted.selinux_relabel == relabel


def test_containers_of_other_categories_are_apart(node: Node, volume: Path) -> None:
    create(node, "true", [mount(volume, selinux_relabel=True)], level="s0:c1,c2")
    other = create(node, "cat /data/below/file", [mount(volume)], level="s0:c3,c4")
    node.start(other)
    assert node.finish(other) == 1
    assert "Permission denied" in node.lines(other, "stderr")[0]


def test_a_label_that_the_policy_does_not_know_makes_no_container(node: Node) -> None:
    with pytest.raises(grpc.RpcError, match=r"process\.selinuxLabel"):
        create(node, "true", [], type="no_such_t")


@pytest.mark.parametrize("path", ["/etc", "/usr", "/"])
def test_what_the_node_needs_is_not_relabelled(node: Node, path: str) -> None:
    before = label_of(Path("/etc/passwd"))
    with pytest.raises(grpc.RpcError, match="the node needs the labels of"):
        create(node, "true", [mount(Path(path), selinux_relabel=True)], level="s0:c1,c2")
    assert label_of(Path("/etc/passwd")) == before
