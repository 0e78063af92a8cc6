"""The whole path: an image from a registry, a pod on it, and everything a kubelet asks on the way."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from tests.e2e.conftest import Registry
from tests.e2e.kubelet import Kubelet, contents
from tests.support import leaks, wait
from tests.support.client import Client
from tests.support.daemon import Daemon
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry")

ID = re.compile(r"[0-9a-f]{64}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ENTRY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] .*")


def image_status(call: Client, name: str) -> bytes:
    answer = call(api.ImageStatusRequest(image=api.ImageSpec(image=name)))
    return answer.image.SerializeToString(deterministic=True)


def test_what_a_client_asks_first(call: Client) -> None:
    version = call(api.VersionRequest())
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "kernelet", "v1")
    assert re.match(r"\d+\.\d+", version.runtime_version)
    conditions = {condition.type: condition.status for condition in call(api.StatusRequest()).status.conditions}
    assert conditions["RuntimeReady"] and conditions["NetworkReady"]
    assert "" in [handler.name for handler in call(api.StatusRequest()).runtime_handlers]
    assert call(api.RuntimeConfigRequest()).linux.cgroup_driver == api.CGROUPFS
    (file_system,) = call(api.ImageFsInfoRequest()).image_filesystems
    assert os.path.isdir(file_system.fs_id.mountpoint) and file_system.timestamp > 0


@pytest.mark.parametrize("tag", ["gzip", "zstd", "docker", "index"])
def test_an_image_has_one_id_by_whatever_name(daemon: Daemon, call: Client, registry: Registry, tag: str) -> None:
    name, exact = registry.name(tag), registry.exact(tag)
    assert not call(api.ImageStatusRequest(image=api.ImageSpec(image=name))).HasField("image")
    kubelet = Kubelet(call, Path("/nonexistent"), name)
    image_id = kubelet.pull()
    assert kubelet.pull(exact) == image_id
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", image_id)
    (image,) = call(api.ListImagesRequest()).images
    assert (image.id, list(image.repo_tags), list(image.repo_digests)) == (image_id, [name], [exact])
    assert image.size > 1000
    forms = (name, exact, image_id, image_id.removeprefix("sha256:"), image_id[:20], image_id.removeprefix("sha256:")[:12])
    assert {image_status(call, form) for form in forms} == {image.SerializeToString(deterministic=True)}
    (listed,) = call(api.ListImagesRequest(filter=api.ImageFilter(image=api.ImageSpec(image=exact)))).images
    assert listed == image
    assert call(api.ImageFsInfoRequest()).image_filesystems[0].used_bytes.value > image.size // 2
    for _ in range(2):
        call(api.RemoveImageRequest(image=api.ImageSpec(image=exact)))
        assert not call(api.ListImagesRequest()).images
        assert not call(api.ImageStatusRequest(image=api.ImageSpec(image=name))).HasField("image")


def test_by_digest_alone_an_image_has_no_tag(daemon: Daemon, call: Client, registry: Registry) -> None:
    image_id = Kubelet(call, Path("/nonexistent"), registry.exact("gzip")).pull()
    (image,) = call(api.ListImagesRequest()).images
    assert (image.id, list(image.repo_tags), list(image.repo_digests)) == (image_id, [], [registry.exact("gzip")])


def test_many_pulls_of_one_image_are_one(daemon: Daemon, call: Client, registry: Registry) -> None:
    kubelet = Kubelet(call, Path("/nonexistent"), registry.name("zstd"))
    with ThreadPoolExecutor(8) as pool:
        names = [registry.name("zstd"), registry.exact("zstd")] * 4
        assert len(set(pool.map(kubelet.pull, names))) == 1
        assert len(call(api.ListImagesRequest()).images) == 1
        requests = [api.RemoveImageRequest(image=api.ImageSpec(image=name)) for name in names]
        list(pool.map(call, requests))
    assert not call(api.ListImagesRequest()).images


def test_a_pods_life(kubelet: Kubelet, call: Client) -> None:
    image_id = kubelet.pull()
    config = kubelet.pod_config()
    pod = kubelet.run_pod(config)
    assert ID.fullmatch(pod)
    assert kubelet.run_pod(config) == pod
    status = kubelet.pod_status(pod)
    assert (status.id, status.metadata, status.state) == (pod, config.metadata, api.SANDBOX_READY)
    assert (dict(status.labels), dict(status.annotations)) == (dict(config.labels), dict(config.annotations))
    assert status.linux.namespaces.options == config.linux.security_context.namespace_options
    assert status.network.ip and status.created_at > 0

    wish = kubelet.container_config(["sh", "-c", "echo out; echo err >&2; hostname; exec sleep 1000"])
    container = kubelet.create(pod, wish, config)
    assert ID.fullmatch(container)
    assert kubelet.create(pod, wish, config) == container
    created = kubelet.status(container)
    assert (created.state, created.started_at, created.finished_at) == (api.CONTAINER_CREATED, 0, 0)
    kubelet.start(container)
    with pytest.raises(grpc.RpcError, match="only a created container can be started"):
        kubelet.start(container)
    running = kubelet.status(container)
    assert running.state == api.CONTAINER_RUNNING
    assert (running.image.image, running.image_id) == (kubelet.image, image_id)
    repository, digest = running.image_ref.split("@")  # what kubectl shows as imageID
    assert kubelet.image.startswith(f"{repository}:") and DIGEST.fullmatch(digest)
    assert (running.metadata, running.labels, running.annotations) == (wish.metadata, wish.labels, wish.annotations)
    assert running.log_path == f"{config.log_directory}/{wish.log_path}"
    assert running.created_at <= running.started_at
    (listed,) = call(api.ListContainersRequest()).containers
    assert (listed.id, listed.pod_sandbox_id, listed.image_ref, listed.image_id) == (container, pod, image_id, image_id)
    assert listed.state == api.CONTAINER_RUNNING and listed.created_at == running.created_at

    wait.until(lambda: len(kubelet.lines(container)) == 3)
    assert kubelet.lines(container, "stdout") == ["out", config.hostname]
    assert kubelet.lines(container, "stderr") == ["err"]
    assert all(ENTRY.fullmatch(entry) for entry in Path(running.log_path).read_text().splitlines())
    answer = kubelet.execute(container, "sh", "-c", "echo one; echo two >&2; hostname -i; exit 3")
    assert (answer.stdout.split(), answer.stderr, answer.exit_code) == ([b"one", status.network.ip.encode()], b"two\n", 3)

    kubelet.stop(container, 0)
    kubelet.stop(container, 10)
    exited = kubelet.status(container)
    assert (exited.state, exited.exit_code, exited.reason) == (api.CONTAINER_EXITED, 137, "Error")
    assert exited.finished_at >= exited.started_at == running.started_at
    kubelet.stop_pod(pod)
    kubelet.stop_pod(pod)
    stopped = kubelet.pod_status(pod)
    assert (stopped.state, stopped.network.ip, stopped.created_at) == (api.SANDBOX_NOTREADY, "", status.created_at)
    assert [each.id for each in call(api.ListContainersRequest()).containers] == [container]
    kubelet.remove(container)
    kubelet.remove(container)
    assert not call(api.ListContainersRequest()).containers
    assert contents(Path(running.log_path))[0] == "out"  # logs are the kubelet's to remove
    kubelet.remove_pod(pod)
    kubelet.remove_pod(pod)
    assert not call(api.ListPodSandboxRequest()).items


def test_lists_answer_what_they_are_asked(kubelet: Kubelet, call: Client) -> None:
    one, other = kubelet.run_pod(kubelet.pod_config(labels={"n": "1"})), kubelet.run_pod(kubelet.pod_config(labels={"n": "2"}))
    running = kubelet.run(one, "exec sleep 100", labels={"c": "1"})
    created = kubelet.create(other, kubelet.container_config(["true"], labels={"c": "2"}))
    kubelet.stop_pod(one)

    def pods(**fields: object) -> list[str]:
        return [pod.id for pod in call(api.ListPodSandboxRequest(filter=api.PodSandboxFilter(**fields))).items]

    def containers(**fields: object) -> list[str]:
        return [each.id for each in call(api.ListContainersRequest(filter=api.ContainerFilter(**fields))).containers]

    assert set(pods()) == {one, other}
    assert pods(id=one) == pods(id=one[:12]) == pods(label_selector={"n": "1"}) == [one]
    assert pods(state=api.PodSandboxStateValue(state=api.SANDBOX_READY)) == [other]
    assert pods(id=one, label_selector={"n": "2"}) == pods(id="0" * 64) == []
    assert containers(pod_sandbox_id=one) == containers(label_selector={"c": "1"}) == [running]
    assert containers(state=api.ContainerStateValue(state=api.CONTAINER_CREATED)) == [created]
    assert containers(id=created, pod_sandbox_id=one) == []


def test_an_image_in_use_may_be_removed_and_its_container_runs_on(kubelet: Kubelet, call: Client) -> None:
    container = kubelet.run(kubelet.run_pod(), "exec sleep 100")
    call(api.RemoveImageRequest(image=api.ImageSpec(image=kubelet.image)))
    assert kubelet.execute(container, "ls", "/bin/busybox").exit_code == 0
    assert kubelet.status(container).image.image == kubelet.image


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def a_life(kubelet: Kubelet) -> tuple[int, str]:
    """A pod and a container from beginning to end; its exit code and what it wrote."""
    config = kubelet.pod_config()
    pod = kubelet.run_pod(config)
    container = kubelet.run(pod, "hostname; exit 7")
    code, lines = kubelet.finish(container), kubelet.lines(container)
    kubelet.stop_pod(pod)
    kubelet.remove_pod(pod)
    assert lines == [config.hostname]
    return code, lines[0]


def test_twenty_at_once_and_a_hundred_in_a_row_leave_what_was_there(kubelet: Kubelet, daemon: Daemon, call: Client) -> None:
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: a_life(kubelet), range(20)))  # threads are made, modules imported
        before = leaks.take()
        files = descriptors(daemon.pid), descriptors(daemon.monitor_pid())
        lives = list(pool.map(lambda _: a_life(kubelet), range(20)))
        assert {code for code, _ in lives} == {7} and len({name for _, name in lives}) == 20
        for _ in range(100):
            assert a_life(kubelet)[0] == 7
        assert not call(api.ListPodSandboxRequest()).items and not call(api.ListContainersRequest()).containers
        leaks.settle(before)
        wait.until(lambda: (descriptors(daemon.pid), descriptors(daemon.monitor_pid())) == files, 5, f"{files} descriptors")


def test_a_full_node_under_the_usual_limit_of_descriptors(kubelet: Kubelet, daemon: Daemon, call: Client) -> None:
    assert daemon.stop() == 0
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limit[1]))
    try:
        daemon.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    kubelet.reconnect(daemon)
    pod = kubelet.run_pod()
    with ThreadPoolExecutor(8) as pool:
        containers = list(pool.map(lambda _: kubelet.run(pod, "exec sleep 1000"), range(150)))
        assert {kubelet.status(each).state for each in containers} == {api.CONTAINER_RUNNING}
        assert kubelet.execute(containers[-1], "echo", "here").stdout == b"here\n"
        daemon.kill()
        os.kill(daemon.monitor_pid(), signal.SIGKILL)
        daemon.start()
        kubelet.reconnect(daemon)
        assert {kubelet.status(each).state for each in containers} == {api.CONTAINER_RUNNING}
        assert kubelet.execute(containers[0], "echo", "here").stdout == b"here\n"
        kubelet.remove_pod(pod)


def test_twenty_pods_run_side_by_side(kubelet: Kubelet) -> None:
    def up(_: int) -> tuple[str, str]:
        pod = kubelet.run_pod()
        return pod, kubelet.run(pod, "exec sleep 1000")

    with ThreadPoolExecutor(20) as pool:
        pods = dict(pool.map(up, range(20)))
        addresses = set(pool.map(lambda pod: kubelet.pod_status(pod).network.ip, pods))
        assert len(addresses) == 20 and "" not in addresses
        assert {kubelet.status(container).state for container in pods.values()} == {api.CONTAINER_RUNNING}
        some = next(iter(pods.values()))
        assert all(kubelet.execute(some, "ping", "-c", "1", "-W", "5", address).exit_code == 0 for address in list(addresses)[:3])
        list(pool.map(kubelet.remove_pod, pods))


def test_a_port_of_the_host_leads_to_the_pod_and_ends_with_it(daemon: Daemon, kubelet: Kubelet) -> None:
    before = leaks.take()
    pod = kubelet.run_pod(kubelet.pod_config(port_mappings=[api.PortMapping(container_port=80, host_port=12000)]))
    kubelet.run(pod, "mkdir /web; echo served > /web/index.html; exec httpd -f -p 80 -h /web")

    def page() -> bytes:
        with urllib.request.urlopen("http://127.0.0.1:12000/", timeout=5) as answer:
            return bytes(answer.read())

    wait.until(lambda: _connects(12000), 10, "the web server to listen")
    assert page() == b"served\n"
    daemon.kill()
    assert page() == b"served\n"
    daemon.start()
    kubelet.reconnect(daemon)
    assert page() == b"served\n"
    kubelet.stop_pod(pod)
    assert not _connects(12000)
    kubelet.remove_pod(pod)
    left = {each for each in leaks.take() - before if each[0] == "table"}
    assert not any("pod" in str(each) for each in left)


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
