"""Sandboxes over a real socket: idempotence, echoes, filters, and a retry."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from cri.api import api_pb2 as api
from runtime.errors import StartFailed
from tests.cri.conftest import Daemon
from tests.support.wait import until

NODE_NETWORK = api.LinuxPodSandboxConfig(
    security_context=api.LinuxSandboxSecurityContext(
        namespace_options=api.NamespaceOption(
            network=api.NODE, pid=api.CONTAINER, userns_options=api.UserNamespace(mode=api.NODE)
        )
    )
)


def listed(daemon: Daemon, **fields: object) -> list[str]:
    request = api.ListPodSandboxRequest(filter=api.PodSandboxFilter(**fields))
    return [item.id for item in daemon.client.call(request, api.ListPodSandboxResponse).items]


def status(daemon: Daemon, sandbox_id: str) -> api.PodSandboxStatus:
    request = api.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    return daemon.client.call(request, api.PodSandboxStatusResponse).status


def stop(daemon: Daemon, sandbox_id: str) -> None:
    daemon.client.call(api.StopPodSandboxRequest(pod_sandbox_id=sandbox_id), api.StopPodSandboxResponse)


def test_the_status_echoes_the_request(daemon: Daemon) -> None:
    sandbox_id = daemon.pod(linux=NODE_NETWORK, labels={"a": "ä"}, annotations={"k" * 300: "v"})
    answer = status(daemon, sandbox_id)
    assert answer.linux.namespaces.options == NODE_NETWORK.security_context.namespace_options
    assert (answer.metadata.name, answer.metadata.uid, answer.metadata.namespace) == ("web", "uid-web", "default")
    assert (dict(answer.labels), dict(answer.annotations)) == ({"a": "ä"}, {"k" * 300: "v"})
    assert answer.state == api.SANDBOX_READY and answer.created_at > 0


def test_an_address_is_told_while_it_is_the_pods_own(daemon: Daemon) -> None:
    assert status(daemon, daemon.pod("host", linux=NODE_NETWORK)).network.ip == ""
    sandbox_id = daemon.pod()
    assert status(daemon, sandbox_id).network.ip == "10.85.0.2"
    stop(daemon, sandbox_id)
    stopped = status(daemon, sandbox_id)
    assert (stopped.state, stopped.network.ip) == (api.SANDBOX_NOTREADY, "")


def test_verbose_status_has_the_record(daemon: Daemon) -> None:
    request = api.PodSandboxStatusRequest(pod_sandbox_id=daemon.pod(), verbose=True)
    answer = daemon.client.call(request, api.PodSandboxStatusResponse)
    assert json.loads(answer.info["info"])["config"]["name"] == "web"


def test_stop_and_remove_of_an_unknown_sandbox_succeed(daemon: Daemon) -> None:
    stop(daemon, "f" * 64)
    daemon.client.call(api.RemovePodSandboxRequest(pod_sandbox_id="f" * 64), api.RemovePodSandboxResponse)
    assert daemon.node.calls == []


def test_status_of_an_unknown_sandbox_is_not_found(daemon: Daemon) -> None:
    assert daemon.refused(lambda: status(daemon, "f" * 64)) == (
        grpc.StatusCode.NOT_FOUND,
        f"sandbox {'f' * 64}: not found",
    )


def test_filters_are_anded(daemon: Daemon) -> None:
    web, db = daemon.pod("web", labels={"app": "a", "tier": "1"}), daemon.pod("db", labels={"app": "b", "tier": "1"})
    stop(daemon, db)
    ready, not_ready = (api.PodSandboxStateValue(state=state) for state in (api.SANDBOX_READY, api.SANDBOX_NOTREADY))
    assert listed(daemon) == [web, db]
    assert listed(daemon, state=ready) == [web]
    assert listed(daemon, state=not_ready) == [db]
    assert listed(daemon, label_selector={"tier": "1"}) == [web, db]
    assert listed(daemon, label_selector={"tier": "1", "app": "b"}) == [db]
    assert listed(daemon, label_selector={"tier": "1", "app": ""}) == []
    assert listed(daemon, id=web, label_selector={"app": "b"}) == []
    assert listed(daemon, id=web) == listed(daemon, id=web[:64]) == [web]
    assert listed(daemon, id="e") == []


def test_a_list_shows_a_change_at_once(daemon: Daemon) -> None:
    sandbox_id = daemon.pod()
    ready = api.PodSandboxStateValue(state=api.SANDBOX_READY)
    assert listed(daemon, state=ready) == [sandbox_id]
    stop(daemon, sandbox_id)
    assert listed(daemon, state=ready) == []


def test_a_sandbox_is_finished_when_the_caller_has_gone_away(daemon: Daemon) -> None:
    opened = threading.Event()
    daemon.node.gate = lambda name: opened.wait(10) and None
    metadata = api.PodSandboxMetadata(name="web", namespace="default", uid="uid-web")
    request = api.RunPodSandboxRequest(config=api.PodSandboxConfig(metadata=metadata))
    code, _ = daemon.refused(lambda: daemon.client.call(request, api.RunPodSandboxResponse, timeout_seconds=0.05))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    opened.set()
    until(lambda: listed(daemon))
    # the retry, after the end of the first, gets the same sandbox
    assert [daemon.pod()] == listed(daemon)


def test_another_request_with_the_same_name_does_not_join(daemon: Daemon) -> None:
    opened = threading.Event()
    daemon.node.gate = lambda name: opened.wait(10) and None
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(daemon.pod)
        until(lambda: daemon.node.calls)
        code, message = daemon.refused(lambda: daemon.pod(labels={"other": "1"}))
        opened.set()
        first.result(10)
    assert (code, message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "sandbox default/web/uid-web/0: another request for the same attempt is being worked on, and says something else; "
        "wait for it, or use another attempt number",
    )


def test_a_failed_start_is_told_and_can_be_tried_again(daemon: Daemon) -> None:
    def fail(name: str) -> None:
        raise StartFailed("step 3 of 9: no such device")

    daemon.node.gate = fail
    assert daemon.refused(daemon.pod) == (grpc.StatusCode.UNKNOWN, "step 3 of 9: no such device")
    daemon.node.gate = lambda name: None
    assert daemon.pod()


def test_a_wrong_request_is_refused_before_the_node_is_asked(daemon: Daemon) -> None:
    code, message = daemon.refused(lambda: daemon.pod(log_directory="relative"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and message.startswith("log_directory: 'relative'")
    assert daemon.node.calls == []


def test_the_status_has_those_of_all_its_containers_and_says_when(daemon: Daemon) -> None:
    pod = daemon.pod()
    containers = [daemon.container(pod, name) for name in ("one", "two")]
    daemon.container(daemon.pod("other"), "elsewhere")
    answer = daemon.client.call(api.PodSandboxStatusRequest(pod_sandbox_id=pod), api.PodSandboxStatusResponse)
    assert [each.id for each in answer.containers_statuses] == containers
    assert answer.containers_statuses[0].metadata.name == "one"
    assert answer.timestamp > 0
