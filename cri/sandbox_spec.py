"""Pod sandbox config -> what the runtime is asked for (pure).

The sandbox's own security context (user, read-only root, profiles) is about its pause process.
There is none, or one that can do nothing (runtime/container/init.py), so only ``privileged`` and
the namespaces matter.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

from cri.api import api_pb2 as api
from cri.spec import MODES, user_namespace
from runtime.errors import InvalidArgument
from runtime.sandbox.config import NamespaceModes, PortMapping, SandboxConfig

#: With a network of its own a pod needs no privilege for low ports and ping, as in containerd.
NETWORK_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

#: What HOST_NAME_MAX allows; a kubelet cuts at 63.
HOSTNAME_LIMIT = 64

_PROTOCOLS: dict[int, Literal["tcp", "udp", "sctp"]] = {api.TCP: "tcp", api.UDP: "udp", api.SCTP: "sctp"}
_SYSCTL = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)+")
_IPC_SYSCTLS = re.compile(r"kernel\.(shm|msg)[a-z_]*|kernel\.sem|fs\.mqueue\..*")


def sandbox_config(config: api.PodSandboxConfig, runtime_handler: str) -> SandboxConfig:
    """The request *config* in the runtime's words.  Raises InvalidArgument and Unsupported, naming the field."""
    metadata, context = config.metadata, config.linux.security_context
    for name, value in (("name", metadata.name), ("namespace", metadata.namespace), ("uid", metadata.uid)):
        if not value:
            raise InvalidArgument(f"metadata.{name} is empty")
    if context.HasField("run_as_group") and not context.HasField("run_as_user"):
        raise InvalidArgument("run_as_group needs run_as_user")
    modes = namespace_modes(context.namespace_options)
    uids, gids = user_namespace(context.namespace_options)
    if uids and (modes.pid == "node" or modes.ipc == "node"):
        raise InvalidArgument("userns_options: a pod with a user namespace has no rights over the host's pid and ipc namespaces")
    dns = config.dns_config if config.HasField("dns_config") else None
    return SandboxConfig(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        attempt=metadata.attempt,
        hostname=_hostname(config, modes),
        log_directory=_absolute(config.log_directory, "log_directory"),
        dns_servers=None if dns is None else list(dns.servers),
        dns_searches=None if dns is None else list(dns.searches),
        dns_options=None if dns is None else list(dns.options),
        port_mappings=_port_mappings(config, modes),
        cgroup_parent=_cgroup_parent(config.linux.cgroup_parent),
        sysctls=_sysctls(config, modes, has_users=bool(uids)),
        namespaces=modes,
        uid_mappings=uids,
        gid_mappings=gids,
        privileged=context.privileged,
        runtime_handler=runtime_handler,
        annotations=dict(config.annotations),
        # Deterministic: the runtime tells a repeated request by its equality.
        attachment=config.SerializeToString(deterministic=True),
    )


def namespace_modes(options: api.NamespaceOption) -> NamespaceModes:
    """The sandbox's namespaces; its network and ipc are its own or the host's, its pid not another container's."""
    for name, value, allowed in (
        ("network", options.network, (api.POD, api.NODE)),
        ("ipc", options.ipc, (api.POD, api.NODE)),
        ("pid", options.pid, (api.POD, api.CONTAINER, api.NODE)),
    ):
        if value not in allowed:
            known = api.NamespaceMode.Name(value) if value in MODES else str(value)
            raise InvalidArgument(f"namespace_options.{name}: {known} is not possible for a sandbox")
    return NamespaceModes(network=MODES[options.network], pid=MODES[options.pid], ipc=MODES[options.ipc])


def _hostname(config: api.PodSandboxConfig, modes: NamespaceModes) -> str:
    """The pod's name for itself; with the host's network comes the host's name."""
    if modes.network == "node":
        return ""
    if len(config.hostname.encode()) > HOSTNAME_LIMIT or "\0" in config.hostname:
        raise InvalidArgument(f"hostname: {config.hostname!r} is longer than {HOSTNAME_LIMIT} bytes or holds a NUL byte")
    return config.hostname


def _port_mappings(config: api.PodSandboxConfig, modes: NamespaceModes) -> list[PortMapping]:
    """The ports that are to answer on the host; a pod on the host's network has them there anyway."""
    if modes.network == "node":
        return []
    mappings = []
    for index, wish in enumerate(config.port_mappings):
        where = f"port_mappings[{index}]"
        if wish.host_port == 0:
            continue
        for name, port in (("host_port", wish.host_port), ("container_port", wish.container_port)):
            if not 0 < port < 65536:
                raise InvalidArgument(f"{where}.{name}: {port} is not between 1 and 65535")
        if wish.protocol not in _PROTOCOLS:
            raise InvalidArgument(f"{where}.protocol: unknown protocol {wish.protocol}")
        mappings.append(
            PortMapping(
                protocol=_PROTOCOLS[wish.protocol],
                container_port=wish.container_port,
                host_port=wish.host_port,
                host_ip=_address(wish.host_ip, where),
            )
        )
    return mappings


def _sysctls(config: api.PodSandboxConfig, modes: NamespaceModes, *, has_users: bool) -> dict[str, str]:
    """Settings of the pod's own namespaces; any other would be the host's.

    The runtime gives a pod with users of its own what it begins with: all of these may ping.
    """
    wishes = dict(NETWORK_SYSCTLS) if modes.network == "pod" and not has_users else {}
    for name, value in config.linux.sysctls.items():
        if not _SYSCTL.fullmatch(name) or "\0" in value:
            raise InvalidArgument(f"sysctl {name!r}: neither name nor value may hold anything but what sysctl(8) takes")
        if name.startswith("net."):
            mode, owner = modes.network, "network"
        elif _IPC_SYSCTLS.fullmatch(name):
            mode, owner = modes.ipc, "ipc"
        else:
            raise InvalidArgument(f"sysctl {name} is not of a namespace and would change the host")
        if mode == "node":
            raise InvalidArgument(f"sysctl {name} would change the host: the pod uses the host's {owner} namespace")
        wishes[name] = value
    return wishes


def _cgroup_parent(parent: str) -> str:
    """A path, or for systemd the name of a slice alone."""
    is_name = parent.endswith(".slice") and "/" not in parent and "\0" not in parent
    return parent if is_name else _absolute(parent, "linux.cgroup_parent")


def _absolute(path: str, where: str) -> str:
    if path and (not path.startswith("/") or ".." in path.split("/") or "\0" in path):
        raise InvalidArgument(f"{where}: {path!r} is not an absolute path without '..'")
    return path


def _address(text: str, where: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise InvalidArgument(f"{where}.host_ip: {text!r} is not an address") from None
