"""What a container of a pod may be asked to be, and is: the fields that only a whole start can show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup, find_tree
from runtime.container import resources
from runtime.errors import ContainerNotRunning, InvalidArgument, NotReady
from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Packer
from runtime.image.pull import load
from runtime.node import Node
from runtime.spec import schema
from runtime.spec.schema import IdMapping
from tests.support import wishes
from tests.support.image import busybox_layer
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

USERS = {name: [IdMapping(container_id=0, host_id=500000, size=65536)] for name in ("uid_mappings", "gid_mappings")}


def output(node: Node, container_id: str, script: str) -> list[str]:
    """What *script* prints in the container; it must succeed."""
    result = node.exec_sync(container_id, ["sh", "-ec", script], 20)
    assert (result.exit_code, result.stderr) == (0, b""), result
    return result.stdout.decode().splitlines()


def test_a_debugging_container_sees_the_processes_of_its_target_and_of_no_other_pod(node: Node) -> None:
    pod, other = node.run_sandbox(wishes.sandbox()), node.run_sandbox(wishes.sandbox())
    target = wishes.run(node, pod, wishes.container(["sleep", "4711"]))
    debugger = wishes.run(node, pod, wishes.container(["sleep", "100"], pid="target", pid_target=target))
    assert "sleep 4711" in " ".join(output(node, debugger, "ps -o args"))
    assert output(node, debugger, "tr '\\0' ' ' < /proc/1/cmdline") == ["sleep 4711 "]
    stranger = wishes.run(node, other, wishes.container(["sleep", "100"]))
    with pytest.raises(InvalidArgument, match=r"target_id: c.* is in another pod"):
        node.create_container(pod, wishes.container(["true"], pid="target", pid_target=stranger))
    node.stop_container(target, 0)
    with pytest.raises(ContainerNotRunning, match="join the processes"):
        node.create_container(pod, wishes.container(["true"], pid="target", pid_target=target))


def test_a_container_that_manages_the_node_sees_all_its_cgroups_and_may_change_them(node: Node) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    config = wishes.container(["sleep", "100"], host_cgroups=True)
    for mount in config.spec.mounts:
        mount.options = ["rw" if option == "ro" else option for option in mount.options]
    container = wishes.run(node, pod, config)
    record = node.find_container(container)
    assert output(node, container, "tail -n 1 /proc/1/cgroup") == [f"0::{record.cgroup}"]
    own = f"/sys/fs/cgroup{record.cgroup}"
    output(node, container, f"mkdir {own}/made; rmdir {own}/made; test -e {own}/cgroup.procs")
    assert os.readlink(f"/proc/{record.pid}/ns/cgroup") == os.readlink("/proc/self/ns/cgroup")


@pytest.mark.parametrize("path", ["/dev/null/x.log", "/dev/null", "/proc/none/x.log"])
def test_a_log_that_cannot_be_written_is_told(node: Node, path: str) -> None:
    pod = node.run_sandbox(wishes.sandbox())
    with pytest.raises(NotReady, match=f"log {path}: "):
        node.create_container(pod, wishes.container(["true"], log=Path(path)))
    assert os.listdir(node.paths.containers) == []


def test_a_limit_of_huge_pages_that_holds_anyhow_needs_no_file(tmp_path: Path) -> None:
    limits = [schema.HugepageLimit(page_size=size, limit=limit) for size, limit in (("3MB", 5), ("2MB", 0), ("2MB", 7))]
    asked = schema.Resources(hugepage_limits=limits)
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    found = resources.without_absent_sizes(asked, tmp_path)
    known = limits[1:] if Path("/sys/kernel/mm/hugepages").exists() else []
    assert found is not None and found.hugepage_limits == [limit for limit in known if limit.limit]
    assert asked.hugepage_limits == limits
    if "hugetlb" in Cgroup(find_tree()).controllers():
        found = resources.without_absent_sizes(asked, find_tree())
        assert found is not None and found.hugepage_limits == known
    assert resources.without_absent_sizes(None, tmp_path) is None


def other_image(node: Node) -> str:
    """An image that is not the container's: two layers, with a program that runs; its id."""
    packer = Packer()
    below, above = busybox_layer(), LayerWriter()
    below.file("data/old", b"below")
    above.file("data/new", b"above")
    above.symlink("out", "/etc")
    for layer in (below, above):
        packer.add_layer(layer)
    package = packer.pack()
    return load(node.images, package, "docker.io/library/volume:1", package.root.digest).id


@pytest.mark.parametrize("users", [{}, pytest.param(USERS, marks=requires("id-mapping"))])
def test_an_image_as_a_volume_is_read_only_and_keeps_its_files(node: Node, users: dict[str, list[IdMapping]]) -> None:
    image = other_image(node)
    pod = node.run_sandbox(wishes.sandbox(**users))
    config = wishes.container(["sleep", "100"])
    config.spec.mounts += [
        schema.Mount(destination="/whole", type="image", source=f"{image}/", options=["ro"]),
        schema.Mount(destination="/part", type="image", source=f"{image}/data", options=["ro", "noexec"]),
    ]
    container = wishes.run(node, pod, config)
    assert output(node, container, "cat /part/*; ls /part; stat -c %u /part/new; /whole/bin/busybox echo runs") == [
        *("abovebelownew", "old", "0", "runs"),
    ]
    flags = {line.split()[4]: line.split()[5] for line in output(node, container, "cat /proc/self/mountinfo")}
    assert {"ro", "nosuid", "nodev"} <= set(flags["/whole"].split(","))
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(flags["/part"].split(","))
    assert b"Read-only" in node.exec_sync(container, ["touch", "/part/x"], 10).stderr
    node.images.remove(image)
    output(node, container, "cat /whole/data/old")
    assert all(node.images.layer_path(chain_id).is_dir() for chain_id in node.find_container(container).chain_ids)
    layers = len(os.listdir(node.paths.layers))
    node.remove_container(container)
    assert len(os.listdir(node.paths.layers)) == layers - 2


@pytest.mark.parametrize("path", ["absent", "data/new", "bin/busybox/x", "out/absent", "x" * 300])
def test_what_is_not_in_the_image_is_not_mounted(node: Node, path: str) -> None:
    image = other_image(node)
    pod = node.run_sandbox(wishes.sandbox())
    config = wishes.container(["true"])
    config.spec.mounts.append(schema.Mount(destination="/v", type="image", source=f"{image}/{path}", options=["ro"]))
    with pytest.raises(InvalidArgument, match=r"image_sub_path '.*': no such directory in the image"):
        node.create_container(pod, config)
    assert os.listdir(node.paths.containers) == []
