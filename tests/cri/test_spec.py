"""A container's request, the image and the sandbox become one spec; what can never work is refused here."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri import spec as subject
from cri.api import api_pb2 as api
from runtime import document
from runtime.container.config import ContainerConfig
from runtime.errors import InvalidArgument, InvalidSpec
from runtime.spec import load, schema
from tests.cri import wishes


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ([], [], ["entry", "point", "image", "args"]),
        ([], ["a"], ["entry", "point", "a"]),
        (["sh"], [], ["sh"]),
        (["sh"], ["a"], ["sh", "a"]),
    ],
)
def test_command_replaces_entrypoint_and_args_replace_cmd(command: list[str], args: list[str], expected: list[str]) -> None:
    image = wishes.image(entrypoint=("entry", "point"), cmd=("image", "args"))
    assert subject.arguments(wishes.container(command=command, args=args), image) == expected


def test_a_cmd_alone_is_a_command() -> None:
    assert subject.arguments(wishes.container(command=[]), wishes.image(cmd=("sh",))) == ["sh"]


def test_without_any_command_there_is_no_container() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        wishes.translated(wishes.container(command=[]))


def test_the_request_wins_over_the_image_over_the_defaults() -> None:
    config = wishes.container(
        envs=[api.KeyValue(key="A", value=b"request"), api.KeyValue(key="EMPTY"), api.KeyValue(key="EQ", value=b"a=b")],
        tty=True,
    )
    image = wishes.image(env=("A=image", "PATH=/app", "B=image"))
    assert wishes.process(wishes.translated(config, of=image)).env == [
        "PATH=/app", "HOSTNAME=web", "TERM=xterm", "A=request", "B=image", "EMPTY=", "EQ=a=b",
    ]  # fmt: skip


def test_defaults_of_the_environment() -> None:
    env = wishes.process(wishes.translated(wishes.container(), pod=wishes.sandbox(hostname=""))).env
    assert env == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=node"]


@pytest.mark.parametrize("key", ["", "A=B"])
def test_a_wrong_name_of_a_variable_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument, match="envs"):
        wishes.translated(wishes.container(envs=[api.KeyValue(key=key)]))


@given(st.binary(max_size=16).filter(lambda value: b"\0" not in value))
def test_any_bytes_reach_the_environment_and_survive_the_store(value: bytes) -> None:
    config = wishes.translated(wishes.container(envs=[api.KeyValue(key="A", value=value)]))
    stored = document.decode(document.encode(config), ContainerConfig)
    assert stored == config
    assert os.fsencode(wishes.process(stored).env[-1]) == b"A=" + value


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"process\.env\[2\]: holds a NUL byte"):
        wishes.translated(wishes.container(envs=[api.KeyValue(key="A", value=b"a\0b")]))


@pytest.mark.parametrize(
    ("asked", "image", "expected"), [("", "", "/"), ("", "/app", "/app"), ("/x", "/app", "/x"), ("", "app", "/app")]
)
def test_working_directory(asked: str, image: str, expected: str) -> None:
    config = wishes.translated(wishes.container(working_dir=asked), of=wishes.image(working_dir=image))
    assert wishes.process(config).cwd == expected


@pytest.mark.parametrize(
    ("asked", "image", "number"),
    [
        (api.SIGNAL_RUNTIME_DEFAULT, "", 15),
        (api.SIGNAL_RUNTIME_DEFAULT, "SIGQUIT", 3),
        (api.SIGNAL_SIGUSR1, "SIGQUIT", 10),
        (api.SIGNAL_SIGRTMINPLUS3, "", 37),
    ],
)
def test_stop_signal(asked: api.Signal, image: str, number: int) -> None:
    config = wishes.translated(wishes.container(stop_signal=asked), of=wishes.image(stop_signal=image))
    assert config.stop_signal == number


def test_a_stop_signal_of_the_image_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="SIGNOTHING"):
        wishes.translated(wishes.container(), of=wishes.image(stop_signal="SIGNOTHING"))


def namespaces(config: ContainerConfig) -> set[str]:
    return {namespace.type for namespace in config.spec.linux.namespaces}


@pytest.mark.parametrize(
    ("pod", "missing"),
    [
        ({}, set()),
        ({"network": "node"}, {"network", "uts"}),
        ({"ipc": "node"}, {"ipc"}),
        ({"pid": "node"}, {"pid"}),
    ],
)
def test_namespaces_of_the_node_are_left_out(pod: dict[str, Any], missing: set[str]) -> None:
    config = wishes.translated(wishes.container(), pod=wishes.sandbox(namespaces=wishes.modes(**pod)))
    assert namespaces(config) == {"mount", "network", "uts", "ipc", "pid", "cgroup"} - missing


@pytest.mark.parametrize(
    ("pod", "asked", "expected"),
    [
        ("pod", None, "pod"),
        ("container", None, "container"),
        ("node", None, "node"),
        ("container", api.CONTAINER, "container"),
        ("pod", api.CONTAINER, "container"),
        ("container", api.NODE, "node"),
    ],
)
def test_pid_mode(pod: str, asked: api.NamespaceMode | None, expected: str) -> None:
    options = {} if asked is None else {"namespace_options": api.NamespaceOption(pid=asked)}
    config = wishes.translated(wishes.secured(**options), pod=wishes.sandbox(namespaces=wishes.modes(pid=pod)))
    assert config.pid_mode == expected


def test_a_target_is_named() -> None:
    target = api.NamespaceOption(pid=api.TARGET, target_id="abc")
    config = wishes.translated(wishes.secured(namespace_options=target))
    assert (config.pid_mode, config.pid_target) == ("target", "abc")
    with pytest.raises(InvalidArgument, match="target_id"):
        wishes.translated(wishes.secured(namespace_options=api.NamespaceOption(pid=api.TARGET)))


def test_a_privileged_container_needs_a_privileged_sandbox() -> None:
    config = wishes.secured(privileged=True)
    with pytest.raises(InvalidArgument, match="needs a privileged sandbox"):
        wishes.translated(config)
    allowed = wishes.translated(config, pod=wishes.sandbox(privileged=True), on=wishes.host(lambda path: []))
    assert "cgroup" not in namespaces(allowed)
    assert allowed.spec.linux.masked_paths == []
    assert allowed.spec.linux.seccomp is None
    sys = next(mount for mount in allowed.spec.mounts if mount.destination == "/sys")
    assert "rw" in sys.options


def userns(**fields: Any) -> api.ContainerConfig:
    return wishes.secured(namespace_options=api.NamespaceOption(userns_options=api.UserNamespace(**fields)))


def test_the_user_namespace_is_the_sandboxs() -> None:
    wishes.translated(userns(mode=api.NODE))
    whole = api.IDMapping(host_id=100000, container_id=0, length=65536)
    maps = [schema.IdMapping(container_id=0, host_id=100000, size=65536)]
    pod = wishes.sandbox(uid_mappings=maps, gid_mappings=maps)
    wishes.translated(userns(mode=api.POD, uids=[whole], gids=[whole]), pod=pod)
    wishes.translated(wishes.container(), pod=pod)
    for wish, of in (
        (userns(mode=api.POD, uids=[whole], gids=[whole]), wishes.sandbox()),
        (userns(mode=api.NODE), pod),
        (userns(mode=api.POD, uids=[whole], gids=[api.IDMapping(length=5)]), pod),
    ):
        with pytest.raises(InvalidArgument, match="not what the sandbox was made with"):
            wishes.translated(wish, pod=of)
    for wrong in (
        {"mode": api.NODE, "uids": [whole]},
        {"mode": api.CONTAINER},
        {"mode": api.POD, "uids": [whole, whole], "gids": [whole]},
        {"mode": api.POD, "uids": [whole], "gids": [api.IDMapping(container_id=5, length=1)]},
    ):
        with pytest.raises(InvalidArgument, match="userns_options"):
            wishes.translated(userns(**wrong))



@pytest.mark.parametrize(
    ("directory", "path", "expected"),
    [
        ("/var/log/pods/a", "c1/0.log", "/var/log/pods/a/c1/0.log"),
        ("/var/log/", "x", "/var/log/x"),
        ("", "x", ""),
        ("/a", "", ""),
    ],
)
def test_log_path(directory: str, path: str, expected: str) -> None:
    config = wishes.translated(wishes.container(log_path=path), pod=wishes.sandbox(log_directory=directory))
    assert config.log_path == expected


def test_a_log_stays_in_its_directory() -> None:
    with pytest.raises(InvalidArgument, match="leads out"):
        wishes.translated(wishes.container(log_path="../x"), pod=wishes.sandbox(log_directory="/a"))


@pytest.mark.parametrize("path", ["x\0", "x" * 256, "x/" * 2200])
def test_a_log_has_a_path_that_can_be(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"log_path: 'x.*' is no path"):
        wishes.translated(wishes.container(log_path=path), pod=wishes.sandbox(log_directory="/a"))


def test_the_score_is_always_given() -> None:
    # the daemon's own, far below zero, would be inherited
    assert wishes.process(wishes.translated(wishes.container())).oom_score_adj == 0
    linux = api.LinuxContainerConfig(resources=api.LinuxContainerResources(oom_score_adj=999))
    assert wishes.process(wishes.translated(wishes.container(linux=linux))).oom_score_adj == 999
    linux = api.LinuxContainerConfig(resources=api.LinuxContainerResources(oom_score_adj=1001))
    with pytest.raises(InvalidSpec, match=r"process\.oomScoreAdj: 1001"):
        wishes.translated(wishes.container(linux=linux))


def test_the_rest_of_the_context_reaches_the_spec() -> None:
    config = wishes.translated(
        wishes.secured(
            readonly_rootfs=True,
            no_new_privs=True,
            run_as_username="www",
            masked_paths=["/proc/kcore"],
            apparmor=api.SecurityProfile(profile_type=api.SecurityProfile.Localhost, localhost_ref="p"),
            selinux_options=api.SELinuxOption(level="s0:c1"),
        )
    )
    process = wishes.process(config)
    assert config.spec.root == schema.Root(path="rootfs", readonly=True)
    assert (process.no_new_privileges, process.apparmor_profile) == (True, "p")
    assert process.selinux_label == "system_u:system_r:container_t:s0:c1"
    assert config.spec.linux.mount_label == "system_u:object_r:container_file_t:s0:c1"
    assert config.spec.linux.masked_paths == ["/proc/kcore"]
    assert (config.run_as_user, config.run_as_username) == (None, "www")


def test_volumes_are_labelled_where_there_is_a_label() -> None:
    labelled = wishes.secured(selinux_options=api.SELinuxOption(level="s0:c1"))
    for config, expected in ((labelled, ["/a"]), (wishes.container(), [])):
        config.mounts.add(container_path="/a", host_path="/a", selinux_relabel=True)
        config.mounts.add(container_path="/b", host_path="/b")
        assert wishes.translated(config).relabelled == expected


def test_a_whole_request_makes_a_spec_that_can_be_read_back() -> None:
    resources = api.LinuxContainerResources(cpu_shares=2, memory_limit_in_bytes=1 << 26, oom_score_adj=-997)
    config = wishes.container(
        metadata=api.ContainerMetadata(name="c", attempt=3),
        mounts=[api.Mount(container_path="/etc/hosts", host_path="/tmp/hosts")],
        linux=api.LinuxContainerConfig(resources=resources),
        annotations={"a": "b"},
        image=api.ImageSpec(image="sha256:1", user_specified_image="web:1"),
        stdin=True,
    )
    result = wishes.translated(config)
    assert (result.name, result.attempt, result.image, result.stdin) == ("c", 3, "sha256:1", True)
    assert api.ContainerConfig.FromString(result.attachment) == config
    assert result.spec.annotations["a"] == "b"
    assert result.spec.annotations["io.kubernetes.cri.image-name"] == "web:1"
    load.validate(document.decode(document.encode(result.spec), schema.Spec))


def test_cdi_devices_are_named_by_field_and_by_annotation_each_once() -> None:
    asked: list[str] = []

    def inject(_spec: schema.Spec, names: Any) -> list[int]:
        asked.extend(names)
        return []

    config = wishes.container(
        CDI_devices=[api.CDIDevice(name="v.com/gpu=0")],
        annotations={"cdi.k8s.io/b": "v.com/gpu=0,v.com/gpu=1", "cdi.k8s.io/a": "v.com/nic=x", "other/cdi.k8s.io": "v.com/gpu=9"},
    )
    wishes.translated(config, on=wishes.host(inject=inject))
    assert asked == ["v.com/gpu=0", "v.com/nic=x", "v.com/gpu=1"]
