"""Devices by name: found in the files of vendors, put into a spec, and refused by name where they ask too much."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import cdi
from runtime.errors import HookFailed, HostPathNotFound, InvalidArgument, Unsupported
from runtime.node import Node
from runtime.spec import schema
from runtime.spec.schema import IdMapping
from tests.support import wishes
from tests.support.requires import requires

USERS = {name: [IdMapping(container_id=0, host_id=700000, size=65536)] for name in ("uid_mappings", "gid_mappings")}


def document(*, kind: str = "vendor.com/gpu", general: dict[str, Any] | None = None, **devices: dict[str, Any]) -> dict[str, Any]:
    listed = [{"name": name, "containerEdits": edits} for name, edits in devices.items()]
    return {"cdiVersion": "0.6.0", "kind": kind, "devices": listed, "containerEdits": general or {}}


def write(directory: Path, name: str, content: dict[str, Any] | str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def found(directory: Path, *names: str) -> list[cdi.Edits]:
    return cdi.find(names, [str(directory)])


def test_what_a_file_says_for_all_comes_once_and_before_its_devices(tmp_path: Path) -> None:
    given = document(general={"env": ["ALL=1"]}, one={"env": ["ONE=1"]}, two={"env": ["TWO=2"]})
    edits = found(write(tmp_path, "a.json", given), "vendor.com/gpu=one", "vendor.com/gpu=two")
    assert [each.env for each in edits] == [["ALL=1"], ["ONE=1"], ["TWO=2"]]


def test_yaml_is_read_too(tmp_path: Path) -> None:
    text = """
cdiVersion: 0.5.0
kind: vendor.com/gpu
annotations: {why: because}
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - {path: /dev/gpu0, hostPath: /dev/null, permissions: rw}
      mounts:
        - {hostPath: /usr/lib/x.so, containerPath: /usr/lib/x.so, options: [ro, nosuid]}
"""
    [edits] = found(write(tmp_path, "v.yaml", text), "vendor.com/gpu=0")[1:]
    assert (edits.device_nodes[0].host_path, edits.mounts[0].options) == ("/dev/null", ["rbind", "ro", "nosuid"])


def test_a_later_directory_counts_and_two_files_of_one_do_not(tmp_path: Path) -> None:
    lasting = write(tmp_path / "etc", "a.json", document(one={"env": ["FROM=etc"]}))
    volatile = write(tmp_path / "run", "a.json", document(one={"env": ["FROM=run"]}))
    edits = cdi.find(["vendor.com/gpu=one"], [str(lasting), str(volatile), str(tmp_path / "absent")])
    assert edits[1].env == ["FROM=run"]
    write(lasting, "b.json", document(two={}))
    write(volatile, "b.json", document(one={}))
    with pytest.raises(InvalidArgument, match=r"a\.json and in .*b\.json; which is meant"):
        cdi.find(["vendor.com/gpu=one"], [str(lasting), str(volatile)])
    assert cdi.find(["vendor.com/gpu=two"], [str(lasting), str(volatile)])


@pytest.mark.parametrize("name", ["", "gpu", "vendor.com/gpu", "v.com/gpu=", "/gpu=1", "v.com/=1", "v/c=../x", "v/c=a b"])
def test_a_name_has_three_parts(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"not of the form vendor\.com/class=name"):
        found(tmp_path, name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a.json: "),
        ("[]", "a.json: Expected `object`"),
        (document(kind="gpu"), "kind 'gpu' is not of the form"),
        ({**document(), "cdiVersion": "9.0.0"}, "cdiVersion '9.0.0' is not known"),
        ({**document(), "future": 1}, "unknown field `future`"),
        (document(one={"deviceNodes": [{"hostPath": "/dev/x"}]}), "missing required field `path`"),
    ],
)
def test_a_wrong_file_is_told_and_others_are_read(tmp_path: Path, content: dict[str, Any] | str, message: str) -> None:
    write(tmp_path, "a.json", content)
    write(tmp_path, "b.json", document(kind="other.com/nic", one={}))
    write(tmp_path, "ignored.txt", "x")
    with pytest.raises(InvalidArgument, match=r"vendor\.com/gpu=one: unknown in") as caught:
        found(tmp_path, "vendor.com/gpu=one")
    assert message in str(caught.value)
    found(tmp_path, "other.com/nic=one")


@pytest.mark.parametrize(
    ("edits", "kind", "message"),
    [
        ({"hooks": [{"hookName": "poststop", "path": "/bin/x"}]}, Unsupported, "hooks: poststop /bin/x"),
        ({"intelRdt": {"closID": "x"}}, Unsupported, "intelRdt"),
        ({"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}, Unsupported, "netDevices"),
        ({"env": ["=x"]}, InvalidArgument, "is not of the form NAME=value"),
        ({"mounts": [{"hostPath": "x", "containerPath": "/y"}]}, InvalidArgument, "paths must be absolute"),
        ({"additionalGids": [0]}, InvalidArgument, "0 is no group's id"),
    ],
)
def test_what_cannot_be_given_is_named(tmp_path: Path, edits: dict[str, Any], kind: type[Exception], message: str) -> None:
    write(tmp_path, "a.json", document(one=edits))
    with pytest.raises(kind, match=r"a\.json: devices one: containerEdits") as caught:
        found(tmp_path, "vendor.com/gpu=one")
    assert message in str(caught.value)


def test_edits_win_over_what_is_there() -> None:
    spec = wishes.spec(["true"], env=["A=old", "B=kept"])
    spec.mounts.append(schema.Mount(destination="/lib/x", type="bind", source="/old"))
    spec.linux.resources = schema.Resources(devices=[schema.DeviceRule(allow=False)])
    node = cdi.DeviceNode(path="/dev/gpu", host_path="/dev/zero", file_mode=0o600, uid=7, permissions="r")
    given = cdi.DeviceNode(path="/dev/other", type="c", major=5, minor=9)
    mounts = [cdi.Mount(host_path="/new", container_path="/lib/x"), cdi.Mount(host_path="/y", container_path="/y")]
    edits = cdi.Edits(env=["A=new"], device_nodes=[node, given], mounts=mounts, additional_gids=[44, 44])
    assert cdi.inject(spec, [edits, cdi.Edits(additional_gids=[45])]) == [44, 45]
    assert spec.process is not None and spec.process.env[-2:] == ["B=kept", "A=new"]
    assert [mount.source for mount in spec.mounts if mount.destination == "/lib/x"] == ["/new"]
    device, other = spec.linux.devices[-2:]
    assert (device.path, device.major, device.minor, device.file_mode, device.uid) == ("/dev/gpu", 1, 5, 0o600, 7)
    assert (other.path, other.major, other.minor) == ("/dev/other", 5, 9)
    assert spec.linux.resources.devices[1:] == [
        schema.DeviceRule(allow=True, type="c", major=1, minor=5, access="r"),
        schema.DeviceRule(allow=True, type="c", major=5, minor=9),
    ]


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (cdi.DeviceNode(path="/dev/none"), HostPathNotFound),
        (cdi.DeviceNode(path="/dev/x", host_path="/dev"), InvalidArgument),
        (cdi.DeviceNode(path="dev"), InvalidArgument),
        (cdi.DeviceNode(path="/dev/null", permissions="x"), InvalidArgument),
        (cdi.DeviceNode(path="/dev/null", type="p"), Unsupported),
    ],
)
def test_a_node_that_is_none(node: cdi.DeviceNode, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        cdi.inject(wishes.spec(["true"]), [cdi.Edits(device_nodes=[node])])


@given(st.text(max_size=300))
def test_no_file_is_too_strange(text: str) -> None:
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"cdi-{os.getpid()}"
    for name in ("a.yaml", "b.json"):
        write(directory, name, text)
    with pytest.raises(InvalidArgument, match="unknown in"):
        found(directory, "vendor.com/gpu=one")
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


@requires("root", "cgroup2", "busybox")
def test_a_container_has_what_the_file_says(node: Node, tmp_path: Path) -> None:
    (tmp_path / "lib").write_text("driver")
    edits = {
        "env": ["GPU=yes"],
        "deviceNodes": [{"path": "/dev/gpu/0", "hostPath": "/dev/zero", "permissions": "rw"}],
        "mounts": [{"hostPath": str(tmp_path / "lib"), "containerPath": "/usr/lib/driver", "options": ["ro"]}],
        "additionalGids": [4242],
    }
    write(tmp_path / "cdi", "a.json", document(one=edits))
    config = wishes.container(["sleep", "100"])
    config.supplemental_groups += cdi.inject(config.spec, found(tmp_path / "cdi", "vendor.com/gpu=one"))
    container = wishes.run(node, node.run_sandbox(wishes.sandbox()), config)
    script = "echo $GPU; cat /usr/lib/driver; echo; id -G; head -c 2 /dev/gpu/0 | wc -c"
    assert node.exec_sync(container, ["sh", "-ec", script], 10).stdout.split() == [b"yes", b"driver", b"0", b"4242", b"2"]
    assert stat.S_ISCHR(os.stat("/dev/zero").st_mode)


@requires("root", "cgroup2", "busybox")
@pytest.mark.parametrize("users", [{}, pytest.param(USERS, marks=requires("id-mapping"))])
def test_hooks_run_where_they_belong_before_the_container_is_there(node: Node, tmp_path: Path, users: dict[str, Any]) -> None:
    kinds = ("prestart", "createRuntime", "createContainer")
    script = "cat > $0.state; readlink /proc/self/ns/net > $0.net"
    hooks = [{"hookName": kind, "path": "/bin/sh", "args": ["sh", "-ec", script, kind]} for kind in kinds]
    write(tmp_path / "cdi", "a.json", document(one={"hooks": hooks}))
    config = wishes.container(["cat", "/createContainer.net"], log=tmp_path / "log")
    cdi.inject(config.spec, found(tmp_path / "cdi", "vendor.com/gpu=one"))
    pod = node.run_sandbox(wishes.sandbox(**users))
    container = node.create_container(pod, config)
    pid, bundle = node.find_container(container).pid, node.paths.run_container(container)
    states = [json.loads((bundle / f"{kind}.state").read_text()) for kind in kinds[:2]]
    assert [(state["id"], state["pid"], state["bundle"]) for state in states] == [(container, pid, str(bundle))] * 2
    assert json.loads((bundle / "config.json").read_text())["root"]["path"] == str(node.paths.attach_point)
    assert {(bundle / f"{kind}.net").read_text().strip() for kind in kinds[:2]} == {os.readlink("/proc/self/ns/net")}
    theirs = os.readlink(f"/proc/{pid}/ns/net")
    node.start_container(container)
    assert (wishes.finish(node, container), wishes.lines(tmp_path / "log")) == (0, [theirs])


@requires("root", "cgroup2", "busybox")
def test_a_hook_that_fails_ends_the_create_and_leaves_nothing(node: Node) -> None:
    config = wishes.container(["true"])
    config.spec.hooks.create_runtime.append(schema.Hook(path="/bin/sh", args=["sh", "-c", "echo no driver >&2; exit 3"]))
    pod = node.run_sandbox(wishes.sandbox())
    with pytest.raises(HookFailed, match=r"createRuntime hook #0: /bin/sh: .*exit code 3: no driver"):
        node.create_container(pod, config)
    assert (node.containers(), os.listdir(node.paths.run_containers), os.listdir(node.paths.containers)) == ([], [], [])
    late = wishes.container(["true"])
    late.spec.hooks.create_runtime.append(schema.Hook(path="/bin/sh", args=["sh", "-c", "sleep 60"], timeout=1))
    with pytest.raises(HookFailed, match="not done after 1 s, killed"):
        node.create_container(pod, late)
