"""Mounts and devices: what the request says, in an order that hides nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cri import mounts
from cri.api import api_pb2 as api
from runtime.errors import InvalidArgument
from runtime.spec import defaults, schema

WHOLE = api.IDMapping(length=65536, host_id=100000)


def wish(**fields: Any) -> api.Mount:
    values: dict[str, Any] = {"container_path": "/data", "host_path": "/srv"}
    return api.Mount(**(values | fields))


def test_a_plain_mount() -> None:
    assert mounts.bind(wish()) == schema.Mount(
        destination="/data", type="bind", source="/srv", options=["rbind", "rprivate", "rw"]
    )


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"readonly": True}, ["rbind", "rprivate", "ro"]),
        ({"propagation": api.PROPAGATION_HOST_TO_CONTAINER}, ["rbind", "rslave", "rw"]),
        ({"propagation": api.PROPAGATION_BIDIRECTIONAL}, ["rbind", "rshared", "rw"]),
        ({"readonly": True, "recursive_read_only": True}, ["rbind", "rprivate", "ro", "rro"]),
        ({"mount_options": ["noexec", "nosuid"]}, ["rbind", "rprivate", "rw", "noexec", "nosuid"]),
        ({"uidMappings": [WHOLE], "gidMappings": [WHOLE]}, ["rbind", "rprivate", "rw", "ridmap"]),
    ],
)
def test_options(fields: dict[str, Any], options: list[str]) -> None:
    assert mounts.bind(wish(**fields)).options == options


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"recursive_read_only": True}, InvalidArgument, "recursive_read_only needs readonly"),
        (
            {"recursive_read_only": True, "readonly": True, "propagation": api.PROPAGATION_HOST_TO_CONTAINER},
            InvalidArgument,
            "needs PROPAGATION_PRIVATE",
        ),
        ({"host_path": ""}, InvalidArgument, "host_path '' must be absolute"),
        ({"host_path": "/\0"}, InvalidArgument, "without a NUL"),
        ({"container_path": "data"}, InvalidArgument, "container_path must be absolute"),
        ({"container_path": "/x/.."}, InvalidArgument, "container's root"),
        ({"container_path": "//"}, InvalidArgument, "container's root"),
        ({"mount_options": ["suid"]}, InvalidArgument, "unknown mount option 'suid'"),
        ({"image_sub_path": "etc"}, InvalidArgument, "image_sub_path is given, and no image"),
        ({"uidMappings": [api.IDMapping(length=1)]}, InvalidArgument, "one goes with the other"),
        ({"uidMappings": [api.IDMapping()], "gidMappings": [api.IDMapping(length=1)]}, InvalidArgument, "uidMappings: 0 ids"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mounts.bind(wish(**fields))


def volume(**fields: Any) -> api.Mount:
    values: dict[str, Any] = {"host_path": "", "image": api.ImageSpec(image="web"), "readonly": True}
    return wish(**(values | fields))


def test_an_image_is_a_volume_that_nobody_writes_to() -> None:
    wishes = [volume(), volume(container_path="/etc//x/", image_sub_path="a/./b/", mount_options=["noexec"])]
    placed = mounts.mounts(wishes, privileged=False, find_image=lambda name: f"sha256:{name}")
    assert [mount for mount in placed if mount.type == "image"] == [
        schema.Mount(destination="/data", type="image", source="sha256:web/", options=["ro"]),
        schema.Mount(destination="/etc/x", type="image", source="sha256:web/a/b", options=["ro", "noexec"]),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"readonly": False}, "can only be mounted readonly"),
        ({"host_path": "/srv"}, "host_path and image are both given"),
        ({"image_sub_path": "../x"}, "is not a relative path without"),
        ({"image_sub_path": "/etc"}, "is not a relative path without"),
        ({"propagation": api.PROPAGATION_BIDIRECTIONAL}, "takes PROPAGATION_PRIVATE alone"),
        ({"mount_options": ["rw"]}, "unknown mount option 'rw'"),
        ({"container_path": "/"}, "container's root"),
    ],
)
def test_a_wrong_volume_is_refused_as_a_kubelet_counts_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^ImageVolumeMountFailed: mount /.*{message}"):
        mounts.mounts([volume(**fields)], privileged=False, find_image=str)


def test_parents_come_before_their_children_and_equals_stay_in_order() -> None:
    wishes = [
        wish(container_path="/a/b/c", host_path="/1"),
        wish(container_path="/a/b", host_path="/2"),
        wish(container_path="/a/b", host_path="/3"),
        wish(container_path="/a/", host_path="/4"),
        wish(container_path="/dev/termination-log", host_path="/5"),
    ]
    placed = [mount.source for mount in mounts.mounts(wishes, privileged=False, find_image=str) if mount.type == "bind"]
    assert placed == ["/4", "/2", "/3", "/5", "/1"]
    destinations = [mount.destination for mount in mounts.mounts(wishes, privileged=False, find_image=str)]
    assert destinations.index("/dev") < destinations.index("/dev/termination-log")


def test_the_request_takes_the_place_of_a_default() -> None:
    wishes = [wish(container_path="/sys/fs/cgroup/"), wish(container_path="/dev/shm")]
    result = mounts.mounts(wishes, privileged=False, find_image=str)
    by_path = {mount.destination: mount for mount in result}
    assert by_path["/sys/fs/cgroup"].type == by_path["/dev/shm"].type == "bind"
    assert len(result) == len(by_path) == len(defaults.mounts()) + 1


def test_the_widest_propagation_is_the_roots() -> None:
    private, slave, shared = (
        wish(propagation=kind)
        for kind in (api.PROPAGATION_PRIVATE, api.PROPAGATION_HOST_TO_CONTAINER, api.PROPAGATION_BIDIRECTIONAL)
    )
    assert mounts.root_propagation([private]) == ""
    assert mounts.root_propagation([private, slave]) == "rslave"
    assert mounts.root_propagation([slave, shared]) == "rshared"


def found(*paths: str) -> Any:
    return lambda path: [schema.Device(path=path + tail, type="c", major=10, minor=229) for tail in paths]


def test_a_device_gets_a_node_and_a_rule() -> None:
    asked = [api.Device(host_path="/dev/fuse", container_path="/dev/f", permissions="rw")]
    nodes, rules = mounts.devices(asked, privileged=False, find=found(""))
    assert nodes[-1] == schema.Device(path="/dev/f", type="c", major=10, minor=229)
    assert rules[-1] == schema.DeviceRule(allow=True, type="c", major=10, minor=229, access="rw")
    assert rules[0] == schema.DeviceRule(allow=False)


def test_a_directory_of_devices_is_moved_as_a_whole() -> None:
    asked = [api.Device(host_path="/dev/dri/", container_path="/dev/gpu")]
    nodes, rules = mounts.devices(asked, privileged=False, find=found("card0", "by/x"))
    assert [node.path for node in nodes[-2:]] == ["/dev/gpu/card0", "/dev/gpu/by/x"]
    assert rules[-1].access == "rwm"


def test_a_privileged_container_has_all_devices() -> None:
    nodes, rules = mounts.devices([], privileged=True, find=found("/kvm", "/null"))
    assert rules == [schema.DeviceRule(allow=True)]
    paths = [node.path for node in nodes]
    assert "/dev/kvm" in paths and len(paths) == len(set(paths))
    # the default's own null, not what stands under that name on the host
    assert next(node for node in nodes if node.path == "/dev/null").minor == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host_path": "dev/fuse"}, "must be absolute"),
        ({"host_path": "/dev/fuse", "container_path": "fuse"}, "must be absolute"),
        ({"host_path": "/dev/\0"}, "without a NUL"),
        ({"host_path": "/dev/fuse", "permissions": "rx"}, "are not of r, w, m"),
    ],
)
def test_a_wrong_device_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        mounts.devices([api.Device(**fields)], privileged=False, find=found(""))
