"""Containers over a real socket: what is echoed, what is idempotent, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import grpc

from cri.api import api_pb2 as api
from cri.client import container_status
from cri.containers import user_of
from runtime.spec import schema
from tests.cri.conftest import Daemon
from tests.cri.fake import NAME, image


def listed(daemon: Daemon, **fields: object) -> list[str]:
    request = api.ListContainersRequest(filter=api.ContainerFilter(**fields))
    return [item.id for item in daemon.client.call(request, api.ListContainersResponse).containers]


def stop(daemon: Daemon, container_id: str, timeout: int = 0) -> None:
    request = api.StopContainerRequest(container_id=container_id, timeout=timeout)
    daemon.client.call(request, api.StopContainerResponse)


def test_life_of_a_container(daemon: Daemon) -> None:
    pod = daemon.pod()
    container_id = daemon.container(pod)
    created = container_status(daemon.client, container_id)
    assert (created.state, created.started_at, created.finished_at) == (api.CONTAINER_CREATED, 0, 0)
    assert created.created_at > 0
    daemon.client.call(api.StartContainerRequest(container_id=container_id), api.StartContainerResponse)
    running = container_status(daemon.client, container_id)
    assert running.state == api.CONTAINER_RUNNING and running.started_at > 0
    stop(daemon, container_id, 7)
    exited = container_status(daemon.client, container_id)
    assert (exited.state, exited.exit_code, exited.reason) == (api.CONTAINER_EXITED, 137, "Error")
    daemon.client.call(api.RemoveContainerRequest(container_id=container_id), api.RemoveContainerResponse)
    assert listed(daemon) == []
    assert [call[0] for call in daemon.node.calls] == [
        "run_sandbox", "create_container", "start_container", "stop_container", "remove_container",
    ]  # fmt: skip
    assert daemon.node.calls[3] == ("stop_container", container_id, 7.0)


def test_the_status_echoes_the_request(daemon: Daemon) -> None:
    mounts = [api.Mount(container_path="/b", host_path="/1", readonly=True), api.Mount(container_path="/a", host_path="/2")]
    resources = api.LinuxContainerResources(cpu_shares=5, memory_limit_in_bytes=1 << 24)
    container_id = daemon.container(
        daemon.pod(log_directory="/var/log/pods/x"),
        mounts=mounts,
        labels={"l": "1"},
        annotations={"a": "2"},
        log_path="c/0.log",
        linux=api.LinuxContainerConfig(resources=resources),
        stop_signal=api.SIGNAL_SIGUSR1,
        image=api.ImageSpec(image=image().id, user_specified_image="web"),
    )
    answer = container_status(daemon.client, container_id)
    assert list(answer.mounts) == mounts
    assert answer.resources.linux == resources
    assert (dict(answer.labels), dict(answer.annotations)) == ({"l": "1"}, {"a": "2"})
    assert answer.log_path == "/var/log/pods/x/c/0.log"
    assert answer.stop_signal == api.SIGNAL_SIGUSR1
    assert (answer.image.image, answer.image_ref, answer.image_id) == ("web", image().id, image().id)
    assert answer.metadata == api.ContainerMetadata(name="c")


def test_an_untagged_name_is_an_image_too(daemon: Daemon) -> None:
    container_id = daemon.container(daemon.pod(), image=api.ImageSpec(image="web"))
    answer = container_status(daemon.client, container_id)
    assert (answer.image.image, answer.image_id) == ("web", image().id)


def test_the_user_is_told_with_its_primary_group_once_it_is_known() -> None:
    known = SimpleNamespace(user=schema.User(uid=1000, gid=7, additional_gids=[8, 7]))
    user = user_of(known).linux
    assert (user.uid, user.gid, list(user.supplemental_groups)) == (1000, 7, [7, 8])
    assert not user_of(SimpleNamespace(user=None)).HasField("linux")


def test_verbose_status_has_pid_and_spec_whatever_the_environment(daemon: Daemon) -> None:
    container_id = daemon.running(envs=[api.KeyValue(key="A", value=b"\xff")])
    request = api.ContainerStatusRequest(container_id=container_id, verbose=True)
    info = json.loads(daemon.client.call(request, api.ContainerStatusResponse).info["info"])
    assert info["pid"] == 42
    assert info["runtimeSpec"]["ociVersion"].startswith("1.")
    assert info["runtimeSpec"]["linux"]["cgroupsPath"] == info["cgroup"]
    assert "A=\udcff" in info["runtimeSpec"]["process"]["env"]


def test_stop_and_remove_of_an_unknown_container_succeed(daemon: Daemon) -> None:
    stop(daemon, "f" * 64)
    daemon.client.call(api.RemoveContainerRequest(container_id="f" * 64), api.RemoveContainerResponse)
    assert daemon.node.calls == []


def test_other_calls_about_an_unknown_container_are_not_found(daemon: Daemon) -> None:
    for request, response in (
        (api.ContainerStatusRequest(container_id="f"), api.ContainerStatusResponse),
        (api.StartContainerRequest(container_id="f"), api.StartContainerResponse),
        (api.ReopenContainerLogRequest(container_id="f"), api.ReopenContainerLogResponse),
        (api.ExecSyncRequest(container_id="f", cmd=["x"]), api.ExecSyncResponse),
    ):
        code, message = daemon.refused(lambda: daemon.client.call(request, response))  # noqa: B023
        assert (code, message) == (grpc.StatusCode.NOT_FOUND, "container f: not found")


def test_filters_are_anded_and_an_id_may_be_the_beginning_of_one(daemon: Daemon) -> None:
    one, two = daemon.pod("one"), daemon.pod("two")
    first = daemon.container(one, "a", labels={"app": "a"})
    second = daemon.container(two, "b", labels={"app": "a", "more": ""})
    daemon.client.call(api.StartContainerRequest(container_id=second), api.StartContainerResponse)
    assert listed(daemon) == [first, second]
    assert listed(daemon, pod_sandbox_id=two) == [second]
    assert listed(daemon, state=api.ContainerStateValue(state=api.CONTAINER_CREATED)) == [first]
    assert listed(daemon, label_selector={"app": "a", "more": ""}) == [second]
    assert listed(daemon, id=first[:60]) == [first, second]
    assert listed(daemon, id=first, pod_sandbox_id=two) == []


def test_list_items_have_what_a_kubelet_needs(daemon: Daemon) -> None:
    container_id = daemon.container(daemon.pod())
    [item] = daemon.client.call(api.ListContainersRequest(), api.ListContainersResponse).containers
    assert (item.id, item.metadata.name, item.image.image) == (container_id, "c", NAME)
    assert item.image_ref == item.image_id == image().id


def test_a_container_needs_a_ready_sandbox_and_an_image(daemon: Daemon) -> None:
    pod = daemon.pod()
    assert daemon.refused(lambda: daemon.container(pod, image=api.ImageSpec(image="other"))) == (
        grpc.StatusCode.NOT_FOUND,
        "create container c: image other is not here, pull it first",
    )
    code, _ = daemon.refused(lambda: daemon.container(pod, image=api.ImageSpec()))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    daemon.client.call(api.StopPodSandboxRequest(pod_sandbox_id=pod), api.StopPodSandboxResponse)
    code, message = daemon.refused(lambda: daemon.container(pod))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "not ready" in message
    code, _ = daemon.refused(lambda: daemon.container("f" * 64))
    assert code == grpc.StatusCode.NOT_FOUND


def test_a_device_that_no_vendor_describes_is_named(daemon: Daemon) -> None:
    code, message = daemon.refused(lambda: daemon.container(daemon.pod(), CDI_devices=[api.CDIDevice(name="vendor/class=x")]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "vendor/class=x: unknown in /etc/cdi, /var/run/cdi" in message


def test_a_log_is_reopened_only_while_the_container_runs(daemon: Daemon) -> None:
    container_id = daemon.running()
    request = api.ReopenContainerLogRequest(container_id=container_id)
    daemon.client.call(request, api.ReopenContainerLogResponse)
    assert daemon.node.calls[-1] == ("reopen_log", container_id)
    stop(daemon, container_id)
    code, _ = daemon.refused(lambda: daemon.client.call(request, api.ReopenContainerLogResponse))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert daemon.node.calls[-1][0] == "stop_container"
