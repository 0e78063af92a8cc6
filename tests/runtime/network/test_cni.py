"""The plugins' side of a pod's network: what they are told, in which order, and what becomes of their failures."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import InvalidArgument, NetworkFailed, NotReady
from runtime.network import Addresses, Network
from runtime.network.cni import CniNetwork
from runtime.sandbox.config import PortMapping, SandboxConfig
from runtime.sandbox.state import Sandbox
from runtime.store import Store
from tests.support import wait
from tests.support.cni import RESULT, Recorder

ID = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "state.db")
    yield store
    store.close()


@pytest.fixture
def plugins(tmp_path: Path) -> Recorder:
    """The plugins "first" and "second", of which the second gives an address."""
    recorder = Recorder(tmp_path, "first", "second")
    recorder.configure()
    recorder.answer("first", "ADD", say=json.dumps({"cniVersion": "1.1.0", "ips": []}))
    recorder.answer("second", "ADD", say=json.dumps(RESULT))
    return recorder


@pytest.fixture
def cni(store: Store, plugins: Recorder) -> CniNetwork:
    return of(store, plugins)


def of(store: Store, plugins: Recorder, seconds: float = 20) -> CniNetwork:
    return CniNetwork(store, directory=plugins.configurations, programs=[plugins.programs], timeout_seconds=seconds)


def pod(sandbox_id: str = ID, **fields: object) -> Sandbox:
    config = SandboxConfig(**({"name": "web", "namespace": "default", "uid": "uid-1"} | fields))  # type: ignore[arg-type]
    return Sandbox(id=sandbox_id, config=config, cgroup_parent="/kubepods/pod1")


def names(plugins: Recorder) -> list[tuple[str, str]]:
    return [(call.command, call.type) for call in plugins.calls()]


def test_add_and_del_go_through_the_list_and_back(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    kept: Network = cni
    assert kept.addresses(ID) is None
    netns = tmp_path / "netns"
    assert kept.attach(pod(), netns) == Addresses("10.9.0.7", gateway="10.9.0.1")
    assert kept.addresses(ID) == Addresses("10.9.0.7", gateway="10.9.0.1")
    kept.detach(ID)
    assert kept.addresses(ID) is None
    kept.detach(ID)
    assert names(plugins) == [("ADD", "first"), ("ADD", "second"), ("DEL", "second"), ("DEL", "first")]
    first, second, undone, _ = plugins.calls()
    assert "prevResult" not in first.read
    assert second.read["prevResult"] == {"cniVersion": "1.1.0", "ips": []}
    assert undone.read["prevResult"] == RESULT
    assert (first.read["name"], first.read["cniVersion"]) == ("pods", "1.1.0")


def test_the_environment_is_kubernetes_own(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    os.symlink("/proc/self/ns/net", tmp_path / "no pin")
    cni.attach(pod(), tmp_path / "no pin")
    assert plugins.calls()[0].variables == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": ID,
        "CNI_NETNS": "",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugins.programs),
        "CNI_ARGS": (
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={ID};K8S_POD_UID=uid-1"
        ),
    }
    with pytest.raises(InvalidArgument, match="K8S_POD_NAME 'a;CNI=b': "):
        cni.attach(pod("cd" * 32, name="a;CNI=b"), tmp_path / "netns")


def test_a_plugin_is_told_what_it_is_capable_of(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    wanted = ("portMappings", "bandwidth", "dns", "ipRanges", "cgroupPath", "io.kubernetes.cri.pod-annotations")
    capable = {"type": "second", "capabilities": dict.fromkeys(wanted, True)}
    plugins.configure(plugins=[{"type": "first"}, capable])
    annotations = {"kubernetes.io/ingress-bandwidth": "1.5M", "kubernetes.io/egress-bandwidth": "2Ki"}
    cni.set_pod_subnets(["10.1.0.0/24", "fd00::/64"])
    port = PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1")
    cni.attach(pod(annotations=annotations, port_mappings=[port], dns_servers=["9.9.9.9"]), tmp_path / "netns")
    first, second = plugins.calls()
    assert "runtimeConfig" not in first.read
    burst = (1 << 32) - 1
    assert second.read["runtimeConfig"] == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}],
        "bandwidth": {"ingressRate": 1_500_000, "ingressBurst": burst, "egressRate": 2048, "egressBurst": burst},
        "dns": {"servers": ["9.9.9.9"], "searches": [], "options": []},
        "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "cgroupPath": "/kubepods/pod1",
        "io.kubernetes.cri.pod-annotations": annotations,
    }
    plugins.forget()
    cni.detach(ID)
    assert plugins.calls()[0].read["runtimeConfig"] == second.read["runtimeConfig"]


@pytest.mark.parametrize("text", ["fast", "", "-1M", "1", "2E", "1e99"])
def test_a_bandwidth_that_is_none_is_refused(cni: CniNetwork, tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"annotation kubernetes\.io/ingress-bandwidth: "):
        cni.attach(pod(annotations={"kubernetes.io/ingress-bandwidth": text}), tmp_path / "netns")


def test_del_says_what_add_said_though_the_list_is_another(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    cni.attach(pod(), tmp_path / "netns")
    plugins.forget()
    plugins.configure(name="other", plugins=[{"type": "first"}])
    cni.detach(ID)
    assert names(plugins) == [("DEL", "second"), ("DEL", "first")]
    assert plugins.calls()[0].read["name"] == "pods"


def test_a_failure_is_told_with_code_message_and_details_and_undone(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    error = {"cniVersion": "1.1.0", "code": 11, "msg": "no room", "details": "subnet 10.9.0.0/24 is full"}
    plugins.answer("second", "ADD", exit=1, say=json.dumps(error))
    with pytest.raises(
        NetworkFailed, match=r"^CNI plugin second \(ADD\): no room: subnet .* is full \(code 11, try again later\)$"
    ) as e:
        cni.attach(pod(), tmp_path / "netns")
    assert e.value.code == 11
    assert names(plugins) == [("ADD", "first"), ("ADD", "second"), ("DEL", "second"), ("DEL", "first")]
    assert cni.addresses(ID) is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"exit": 3, "error": "panic: oh"}, r"CNI plugin second \(ADD\): failed \(exit code 3\) and did not say why: panic: oh"),
        ({"say": "{"}, r"CNI plugin second \(ADD\): its answer is not JSON: .*: \{"),
        ({"say": "{}"}, "CNI network pods: its plugins gave the pod no address on eth0"),
        ({"say": '{"ips": [{"address": "10.9.0.7"}]}'}, None),
        ({"say": '{"ips": [{"address": "x"}]}'}, "CNI network pods: its answer to ADD is not a result: "),
        ({"say": '{"ips": [{"address": "10.0.0.1/8", "interface": 4}], "interfaces": [{}]}'}, "there is no interface 4"),
        ({"say": '["a"]'}, "is not a result"),
    ],
)
def test_what_plugins_may_answer(
    cni: CniNetwork, plugins: Recorder, tmp_path: Path, answer: dict[str, object], message: str | None
) -> None:
    plugins.answer("second", "ADD", **answer)
    if message is None:
        assert cni.attach(pod(), tmp_path / "netns").ip == "10.9.0.7"
        return
    with pytest.raises(NetworkFailed, match=message):
        cni.attach(pod(), tmp_path / "netns")
    assert cni.addresses(ID) is None


def test_addresses_of_the_pods_interface_in_their_order(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    interfaces = [{"name": "veth1"}, {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}]
    ips = [
        {"address": "192.0.2.1/24", "interface": 0},
        {"address": "fd00::7/64", "interface": 1, "gateway": "fd00::1"},
        {"address": "10.9.0.7/24", "interface": 1},
        {"address": "10.8.0.7/24", "interface": 2},
    ]
    plugins.answer("second", "ADD", say=json.dumps({"interfaces": interfaces, "ips": ips}))
    assert cni.attach(pod(), tmp_path / "netns") == Addresses("fd00::7", ("10.9.0.7",), "fd00::1")


def test_a_plugin_that_hangs_is_killed_with_what_it_started(store: Store, plugins: Recorder, tmp_path: Path) -> None:
    plugins.answer("second", "ADD", sleep=1000)
    plugins.configure(plugins=[{"type": "second"}])
    begun = time.monotonic()
    with pytest.raises(NetworkFailed, match=r"CNI plugin second \(ADD\): not done after \d+ s, killed"):
        of(store, plugins, seconds=0.4).attach(pod(), tmp_path / "netns")
    assert time.monotonic() - begun < 10

    def is_over() -> bool:
        return not any(str(plugins.programs).encode() in line for line in command_lines())

    wait.until(is_over, 5, "the plugin's child to end with it")


def command_lines() -> Iterator[bytes]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield Path(f"/proc/{name}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue


def test_del_is_repeated_until_it_works_over_a_restart(store: Store, plugins: Recorder, tmp_path: Path) -> None:
    of(store, plugins).attach(pod(), tmp_path / "netns")
    plugins.answer("first", "DEL", exit=1, say=json.dumps({"code": 100, "msg": "not now"}))
    for _ in range(2):
        with pytest.raises(NetworkFailed, match=r"CNI plugin first \(DEL\): not now \(code 100\)"):
            of(store, plugins).detach(ID)
    of(store, plugins).sweep([])  # a warning; the daemon goes on
    assert store.rows("SELECT id FROM attachments") == [(ID,)]
    plugins.answer("first", "DEL")
    of(store, plugins).sweep([])
    assert store.rows("SELECT id FROM attachments") == []


def test_a_daemon_that_died_in_the_middle_of_add_takes_it_back(store: Store, plugins: Recorder, tmp_path: Path) -> None:
    for command in ("ADD", "DEL"):
        plugins.answer("second", command, exit=1)
    with pytest.raises(NetworkFailed) as caught:
        of(store, plugins).attach(pod(), tmp_path / "netns")
    assert "and undoing it: CNI plugin second (DEL)" in caught.value.__notes__[0]
    plugins.answer("second", "DEL")
    plugins.forget()
    of(store, plugins).sweep([])
    assert names(plugins) == [("DEL", "second"), ("DEL", "first")]
    assert all("prevResult" not in call.read for call in plugins.calls())


def test_a_sweep_keeps_the_living_and_lets_plugins_collect(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    dead = "cd" * 32
    cni.attach(pod(), tmp_path / "netns")
    cni.attach(pod(dead), tmp_path / "netns")
    plugins.forget()
    cni.sweep([pod()])
    calls = plugins.calls(without=())
    assert [(call.command, call.type) for call in calls] == [
        ("DEL", "second"),
        ("DEL", "first"),
        ("GC", "first"),
        ("GC", "second"),
    ]
    assert calls[0].variables["CNI_CONTAINERID"] == dead
    assert calls[2].read["cni.dev/valid-attachments"] == [{"containerID": ID, "ifname": "eth0"}]
    plugins.forget()
    plugins.configure(disableGC=True)
    cni.sweep([pod()])
    plugins.configure(version="1.0.0")
    cni.sweep([pod()])
    assert plugins.calls(without=()) == []


def test_check_asks_in_order_and_tells_who_says_no(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    cni.check(ID)
    cni.attach(pod(), tmp_path / "netns")
    plugins.forget()
    cni.check(ID)
    assert names(plugins) == [("CHECK", "first"), ("CHECK", "second")]
    assert plugins.calls()[0].read["prevResult"] == RESULT
    plugins.answer("first", "CHECK", exit=1, say=json.dumps({"code": 101, "msg": "the link is gone"}))
    with pytest.raises(NetworkFailed, match="the link is gone"):
        cni.check(ID)


def test_all_are_checked_after_a_restart_and_the_log_says_who_is_not_well(
    cni: CniNetwork, plugins: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = pod("cd" * 32, name="other")
    for each in (pod(), other):
        cni.attach(each, tmp_path / "netns")
    plugins.answer("first", "CHECK", exit=1, say=json.dumps({"code": 101, "msg": "the link is gone"}))
    plugins.forget()
    closing = threading.Event()
    cni.check_all([pod(), other, pod("ef" * 32)], closing)
    wait.until(lambda: len(caplog.records) == 2, 10, "both to be checked")
    assert names(plugins) == [("CHECK", "first"), ("CHECK", "first")]
    assert [record.message.partition(": ")[0] for record in caplog.records] == ["pod default/web", "pod default/other"]
    closing.set()
    cni.check_all([pod()], closing)
    wait.until(lambda: "check networks" not in [thread.name for thread in threading.enumerate()], 10)
    assert len(plugins.calls()) == 2


def test_why_the_network_is_not_ready(store: Store, tmp_path: Path) -> None:
    plugins = Recorder(tmp_path, "only")
    cni = of(store, plugins)
    assert not cni.is_configured()
    assert cni.problem() == f"no CNI configuration in {plugins.configurations}: the cluster's network is not installed yet"
    with pytest.raises(NotReady, match="no CNI configuration"):
        cni.attach(pod(), tmp_path / "netns")
    file = plugins.configure()
    assert cni.is_configured() and cni.problem() is None
    file.write_text("{")
    assert str(cni.problem()).startswith(f"{file}: not JSON")
    plugins.configure(plugins=[{"type": "absent"}])
    assert cni.problem() == f"CNI plugin absent: there is no such program in {plugins.programs}; install it there"
    plugins.answer("only", "VERSION", say='{"supportedVersions": ["0.4.0"]}')
    plugins.configure()
    assert cni.problem() == "CNI plugin only knows 0.4.0, not 1.1.0"
    plugins.answer("only", "VERSION")
    plugins.answer("only", "STATUS", exit=1, say=json.dumps({"code": 50, "msg": "the agent is starting"}))
    plugins.configure(name="again")
    assert cni.problem() == "CNI plugin only (STATUS): the agent is starting (code 50, the plugin is not available)"


def test_a_program_that_cannot_be_executed_is_named(cni: CniNetwork, plugins: Recorder, tmp_path: Path) -> None:
    (plugins.programs / "first").write_text("#!/nonexistent\n")
    with pytest.raises(NetworkFailed, match=r"CNI plugin /.*/first: cannot be executed: no such file"):
        cni.attach(pod(), tmp_path / "netns")
