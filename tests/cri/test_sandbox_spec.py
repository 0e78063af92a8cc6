"""A pod's request in the runtime's words; what would touch the host is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cri.api import api_pb2 as api
from cri.sandbox_spec import NETWORK_SYSCTLS, sandbox_config
from runtime import document
from runtime.errors import InvalidArgument
from runtime.sandbox.config import NamespaceModes, PortMapping, SandboxConfig
from runtime.spec import schema


def pod(**fields: Any) -> api.PodSandboxConfig:
    metadata = api.PodSandboxMetadata(name="web", namespace="default", uid="u-1", attempt=2)
    return api.PodSandboxConfig(**({"metadata": metadata, "hostname": "web"} | fields))


def secured(**fields: Any) -> api.PodSandboxConfig:
    context = api.LinuxSandboxSecurityContext(**fields)
    return pod(linux=api.LinuxPodSandboxConfig(security_context=context))


def in_namespaces(**fields: Any) -> api.PodSandboxConfig:
    return secured(namespace_options=api.NamespaceOption(**fields))


def with_sysctls(sysctls: dict[str, str], **modes: Any) -> api.PodSandboxConfig:
    context = api.LinuxSandboxSecurityContext(namespace_options=api.NamespaceOption(**modes))
    return pod(linux=api.LinuxPodSandboxConfig(security_context=context, sysctls=sysctls))


def test_a_plain_pod() -> None:
    config = pod(log_directory="/var/log/pods/x", labels={"a": "b"})
    result = sandbox_config(config, "")
    assert result == SandboxConfig(
        name="web",
        namespace="default",
        uid="u-1",
        attempt=2,
        hostname="web",
        log_directory="/var/log/pods/x",
        sysctls=NETWORK_SYSCTLS,
        attachment=config.SerializeToString(),
    )
    assert document.decode(document.encode(result), SandboxConfig) == result


@pytest.mark.parametrize("field", ["name", "namespace", "uid"])
def test_metadata_is_needed(field: str) -> None:
    config = pod()
    config.metadata.ClearField(field)
    with pytest.raises(InvalidArgument, match=rf"metadata\.{field} is empty"):
        sandbox_config(config, "")


def test_the_handler_is_remembered() -> None:
    assert sandbox_config(pod(), "kata").runtime_handler == "kata"


def test_absent_dns_differs_from_empty() -> None:
    assert sandbox_config(pod(), "").dns_servers is None
    empty = sandbox_config(pod(dns_config=api.DNSConfig()), "")
    assert (empty.dns_servers, empty.dns_searches, empty.dns_options) == ([], [], [])
    given = api.DNSConfig(servers=["10.0.0.1"], searches=["a.b"], options=["ndots:5"])
    result = sandbox_config(pod(dns_config=given), "")
    assert (result.dns_servers, result.dns_searches, result.dns_options) == (["10.0.0.1"], ["a.b"], ["ndots:5"])


def test_namespaces() -> None:
    assert sandbox_config(in_namespaces(pid=api.CONTAINER, ipc=api.NODE), "").namespaces == NamespaceModes(
        pid="container", ipc="node"
    )
    for fields in ({"network": api.CONTAINER}, {"ipc": api.TARGET}, {"pid": api.TARGET}):
        with pytest.raises(InvalidArgument, match="is not possible for a sandbox"):
            sandbox_config(in_namespaces(**fields), "")


def test_a_user_namespace_of_the_pods_own() -> None:
    whole, other = api.IDMapping(length=65536, host_id=100000), api.IDMapping(length=65536, host_id=200000)
    wish = api.UserNamespace(uids=[whole], gids=[other])
    config = sandbox_config(in_namespaces(userns_options=wish), "")
    assert config.uid_mappings == [schema.IdMapping(container_id=0, host_id=100000, size=65536)]
    assert config.gid_mappings == [schema.IdMapping(container_id=0, host_id=200000, size=65536)]
    assert config.sysctls == {}  # the runtime knows how many groups may ping
    assert sandbox_config(in_namespaces(userns_options=wish, network=api.NODE), "").uid_mappings
    assert sandbox_config(in_namespaces(userns_options=api.UserNamespace(mode=api.NODE)), "").uid_mappings == []
    for kind in ("pid", "ipc"):
        with pytest.raises(InvalidArgument, match="no rights over the host's pid and ipc namespaces"):
            sandbox_config(in_namespaces(userns_options=wish, **{kind: api.NODE}), "")


def test_user_namespaces_are_refused_by_what_is_wrong() -> None:
    whole = api.IDMapping(length=65536, host_id=100000)
    far, none = api.IDMapping(length=2, host_id=(1 << 32) - 2), api.IDMapping(host_id=5)
    for uids, gids, message in (
        ([whole], [], "exactly one"),
        ([whole, whole], [whole], "exactly one"),
        ([whole], [api.IDMapping(container_id=1, length=9)], "begin with the container's id 0"),
        ([far], [whole], "userns_options.uids: 2 ids from 4294967294 on"),
        ([whole], [none], "userns_options.gids: 0 ids"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            sandbox_config(in_namespaces(userns_options=api.UserNamespace(uids=uids, gids=gids)), "")
    for mode in (api.CONTAINER, api.TARGET):
        with pytest.raises(InvalidArgument, match="mode must be POD or NODE"):
            sandbox_config(in_namespaces(userns_options=api.UserNamespace(mode=mode)), "")


def test_the_hosts_network_brings_the_hosts_name_and_no_port_mapping() -> None:
    config = in_namespaces(network=api.NODE)
    config.port_mappings.add(container_port=80, host_port=8080)
    result = sandbox_config(config, "")
    assert (result.hostname, result.port_mappings, result.sysctls) == ("", [], {})


def test_port_mappings_are_those_with_a_host_port() -> None:
    wishes = [
        api.PortMapping(container_port=80),
        api.PortMapping(container_port=53, host_port=5353, protocol=api.UDP, host_ip="::0001"),
    ]
    assert sandbox_config(pod(port_mappings=wishes), "").port_mappings == [
        PortMapping(protocol="udp", container_port=53, host_port=5353, host_ip="::1")
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"container_port": 80, "host_port": 65536}, r"port_mappings\[0\]\.host_port: 65536"),
        ({"container_port": 0, "host_port": 80}, "container_port: 0"),
        ({"container_port": 80, "host_port": 80, "host_ip": "x"}, "'x' is not an address"),
    ],
)
def test_a_wrong_port_mapping_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        sandbox_config(pod(port_mappings=[api.PortMapping(**fields)]), "")


def test_sysctls_of_the_pods_namespaces() -> None:
    wishes = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "1024", "fs.mqueue.msg_max": "10"}
    assert sandbox_config(with_sysctls(wishes), "").sysctls == NETWORK_SYSCTLS | wishes


@pytest.mark.parametrize(
    ("name", "modes", "message"),
    [
        ("vm.swappiness", {}, "would change the host"),
        ("kernel.panic", {}, "would change the host"),
        ("net.core.somaxconn", {"network": api.NODE}, "uses the host's network namespace"),
        ("kernel.sem", {"ipc": api.NODE}, "uses the host's ipc namespace"),
        ("net..ipv4", {}, "neither name nor value"),
        ("net./../../x", {}, "neither name nor value"),
    ],
)
def test_sysctls_of_the_host_are_refused(name: str, modes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        sandbox_config(with_sysctls({name: "1"}, **modes), "")


def test_a_group_needs_a_user() -> None:
    with pytest.raises(InvalidArgument, match="run_as_group needs run_as_user"):
        sandbox_config(secured(run_as_group=api.Int64Value(value=5)), "")


@pytest.mark.parametrize("path", ["kubepods", "/kubepods/../../x"])
def test_a_cgroup_parent_is_an_absolute_path(path: str) -> None:
    with pytest.raises(InvalidArgument, match="cgroup_parent"):
        sandbox_config(pod(linux=api.LinuxPodSandboxConfig(cgroup_parent=path)), "")


def test_a_hostname_the_kernel_would_refuse() -> None:
    with pytest.raises(InvalidArgument, match="hostname"):
        sandbox_config(pod(hostname="x" * 65), "")
