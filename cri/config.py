"""kernelet.toml to frozen dataclasses.  Every value has a default: an absent file is an empty one.

# Kernelet's configuration: every key, with its default.  A key that is not here is an error.
#
# Files in kernelet.toml.d/ beside this one whose names end in .toml are read too, in the order of their names;
# what a later one says takes the place of what an earlier one said, key by key.
# "kernelet config check" reads all of it as the daemon would, and names what is wrong.
# After "systemctl reload kernelet" (SIGHUP), the keys marked "reload" apply at once; the daemon's log says
# which others changed and wait for a restart.  Containers run on over a restart.

root_dir = "/var/lib/kernelet"            # images, writable layers, the database: what survives a reboot
run_dir = "/run/kernelet"                 # namespaces, sockets, what runs now: what does not
# socket = "/run/kernelet/kernelet.sock"  # where a kubelet finds the daemon; by default in run_dir
cgroup_driver = "cgroupfs"                # who makes pods' cgroups: cgroupfs (we do) or systemd; a kubelet asks which
cgroup_parent = "/kernelet"               # for pods that name no cgroup of their own; with systemd it is kernelet.slice
cdi_dirs = ["/etc/cdi", "/var/run/cdi"]   # reload.  vendors' descriptions of devices; the last that knows a device counts

[log]
level = "info"                            # reload.  debug, info, warning or error; debug: also what is asked every second
format = "text"                           # reload.  text: name=value; json: one object a line

[network]
kind = "auto"                             # auto: the cluster's CNI network once it is configured, the built-in one before;
                                          # cni: wait for it, as a node of a cluster should; built-in: never
bridge = "kernelet0"                      # of the built-in network: the link that the pods of this node are on
subnet = "10.85.0.0/16"                   # and their addresses
cni_config_dir = "/etc/cni/net.d"         # the first .conflist or .conf here counts; changes are noticed at once
cni_plugin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]

[streaming]
address = "127.0.0.1"                     # where a kubelet finds exec, attach and port-forward; a token is all it takes
port = 0                                  # 0: any that is free
tls_cert_file = ""                        # a chain of certificates (PEM), for https; plain http without
tls_key_file = ""                         # its key; empty: in the same file

[metrics]
address = ""                              # as "127.0.0.1:9464": the daemon's own account of itself, for Prometheus, at
                                          # http://ADDRESS/metrics; empty is off.  Nobody is asked who he is

[registry]
insecure = []                             # reload.  hosts asked by plain http, as "registry.lan:5000"; localhost needs no entry

[registry.mirrors]                        # reload.  who is asked first, by the host in an image's name, or "*"; names keep it
# "docker.io" = "https://mirror.lan"
# "registry.k8s.io" = ["http://127.0.0.1:5000", "https://mirror.lan"]             # in order, then the registry itself
# "quay.io" = { urls = ["https://mirror.lan/quay"], fall_back = false }           # the registry itself never

[handlers]                                # reload.  further ways to run a pod, by the handler that its RuntimeClass names
# [handlers.gpu]
# cdi_devices = ["nvidia.com/gpu=all"]    # what each container gets without asking
# seccomp = "runtime/default"             # for containers that ask for no profile: unconfined, runtime/default, or a path
# privileged_without_host_devices = true  # a privileged container gets the devices that it names, not all of the host's
"""

from __future__ import annotations

import ipaddress
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import urlsplit

from cri import config_files, toml
from cri.toml import Reader
from runtime import cdi, cgroups
from runtime.errors import InvalidArgument
from runtime.image.mirrors import Mirrors
from runtime.network.cni import CONFIG_DIRECTORY, PROGRAM_DIRECTORIES
from runtime.network.selection import Kind
from runtime.paths import Paths

#: IFNAMSIZ without the closing NUL.
LINK_NAME_LIMIT = 15
#: As Kubernetes checks it (a DNS label).
HANDLER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
KINDS = get_args(Kind)

_SUBNET = ipaddress.IPv4Network("10.85.0.0/16")


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    kind: Kind = "auto"
    bridge: str = "kernelet0"
    subnet: ipaddress.IPv4Network = _SUBNET
    cni_config_dir: Path = CONFIG_DIRECTORY
    cni_plugin_dirs: tuple[Path, ...] = PROGRAM_DIRECTORIES


@dataclass(frozen=True, slots=True)
class StreamingConfig:
    address: str = "127.0.0.1"
    port: int = 0
    tls_cert_file: str = ""
    tls_key_file: str = ""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    address: str = ""

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Of an address that is given: ``127.0.0.1:9464``, ``[::1]:9464``."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    mirrors: Mapping[str, Mirrors] = field(default_factory=dict)
    insecure: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HandlerConfig:
    """A way to run a pod; that without a name has these defaults."""

    cdi_devices: tuple[str, ...] = ()
    #: unconfined, runtime/default, or the absolute path of a profile.
    seccomp: str = "unconfined"
    privileged_without_host_devices: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    root_dir: Path = Paths().root_dir
    run_dir: Path = Paths().run_dir
    socket: Path = Paths().socket
    cgroup_driver: cgroups.Name = "cgroupfs"
    cgroup_parent: str = "/kernelet"
    cdi_dirs: tuple[Path, ...] = tuple(map(Path, cdi.DIRECTORIES))
    log: LogConfig = LogConfig()
    network: NetworkConfig = NetworkConfig()
    streaming: StreamingConfig = StreamingConfig()
    metrics: MetricsConfig = MetricsConfig()
    registry: RegistryConfig = RegistryConfig()
    handlers: Mapping[str, HandlerConfig] = field(default_factory=dict)

    @property
    def paths(self) -> Paths:
        return Paths(root_dir=self.root_dir, run_dir=self.run_dir)


def document() -> str:
    """The text of a configuration file that says what is the default anyway, each key with a comment."""
    assert __doc__ is not None
    return textwrap.dedent(__doc__.partition("\n\n")[2])


def load(path: Path | None) -> Config:
    """The configuration in the file at *path* and its drop-ins; without one, in the default file if that is there.

    Raises InvalidArgument, naming file and key.
    """
    chosen = path or config_files.DEFAULT_PATH
    merged: dict[str, Any] = {}
    for file in config_files.files(chosen, required=path is not None):
        try:
            table = config_files.read(file)
            build(table)  # alone, so that what is wrong in it is told with its name
        except InvalidArgument as error:
            raise InvalidArgument(f"{file}: {error}") from None
        merged = toml.merge(merged, table)
    try:
        return build(merged)
    except InvalidArgument as error:
        raise InvalidArgument(f"{chosen} with its drop-ins: {error}") from None


def parse(text: str) -> Config:
    """The configuration in *text* (TOML).  Raises InvalidArgument, naming the key."""
    return build(config_files.parsed(text))


def build(table: Mapping[str, Any]) -> Config:
    """The configuration that *table* says."""
    read, default = Reader(table, Config), Config()
    run_dir = read.path("run_dir", default.run_dir)
    return Config(
        root_dir=read.path("root_dir", default.root_dir),
        run_dir=run_dir,
        # The socket goes with the run dir unless it is given.
        socket=read.path("socket", run_dir / default.socket.name),
        cgroup_driver=read.choice("cgroup_driver", default.cgroup_driver, cgroups.DRIVERS),
        cgroup_parent=_cgroup(read, "cgroup_parent", default.cgroup_parent),
        log=_log(Reader(read.table("log"), LogConfig, "log.")),
        network=_network(Reader(read.table("network"), NetworkConfig, "network.")),
        streaming=_streaming(Reader(read.table("streaming"), StreamingConfig, "streaming.")),
        metrics=_metrics(Reader(read.table("metrics"), MetricsConfig, "metrics.")),
        registry=_registry(Reader(read.table("registry"), RegistryConfig, "registry.")),
        cdi_dirs=_directories(read, "cdi_dirs", default.cdi_dirs),
        handlers={name: _handler(name, table) for name, table in read.table("handlers").items()},
    )


def _log(read: Reader) -> LogConfig:
    default = LogConfig()
    return LogConfig(level=read.choice("level", default.level, LEVELS), format=read.choice("format", default.format, FORMATS))


def _network(read: Reader) -> NetworkConfig:
    default = NetworkConfig()
    bridge = read.string("bridge", default.bridge)
    if not 0 < len(bridge) <= LINK_NAME_LIMIT or not bridge.replace("-", "").replace("_", "").isalnum():
        raise read.wrong("bridge", f"{bridge!r} is not the name of a link ({LINK_NAME_LIMIT} letters at most)")
    subnet = read.string("subnet", str(default.subnet))
    try:
        parsed = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        raise read.wrong("subnet", str(error)) from None
    if parsed.prefixlen > 29:
        raise read.wrong("subnet", f"{subnet} has no room for pods")
    return NetworkConfig(
        kind=cast(Kind, read.choice("kind", default.kind, KINDS)),
        bridge=bridge,
        subnet=parsed,
        cni_config_dir=read.path("cni_config_dir", default.cni_config_dir),
        cni_plugin_dirs=_directories(read, "cni_plugin_dirs", default.cni_plugin_dirs),
    )


def _directories(read: Reader, key: str, default: tuple[Path, ...]) -> tuple[Path, ...]:
    directories = read.strings(key, tuple(map(str, default)), "directories")
    if not all(Path(directory).is_absolute() and ":" not in directory for directory in directories):
        raise read.wrong(key, "each must be an absolute path without ':'")
    return tuple(map(Path, directories))


def _handler(name: str, table: object) -> HandlerConfig:
    """What the runtime handler *name* differs in."""
    where = f"handlers.{name}"
    if not HANDLER_NAME.fullmatch(name):
        raise InvalidArgument(f"{where}: {name!r} is not the name of a handler: small letters, digits and '-', 63 at most")
    if not isinstance(table, dict):
        raise InvalidArgument(f"{where}: not a table")
    read, default = Reader(table, HandlerConfig, f"{where}."), HandlerConfig()
    seccomp = read.string("seccomp", default.seccomp)
    if seccomp not in ("unconfined", "runtime/default") and not seccomp.startswith("/"):
        raise read.wrong("seccomp", f"{seccomp!r} is none of unconfined, runtime/default, and the absolute path of a profile")
    return HandlerConfig(
        cdi_devices=read.strings("cdi_devices", default.cdi_devices, "names of devices"),
        seccomp=seccomp,
        privileged_without_host_devices=read.boolean("privileged_without_host_devices", False),
    )


def _streaming(read: Reader) -> StreamingConfig:
    default = StreamingConfig()
    address = read.string("address", default.address)
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise read.wrong("address", f"{address!r} is not an IP address") from None
    files = {key: read.string(key, "") for key in ("tls_cert_file", "tls_key_file")}
    for key, path in files.items():
        if path and not path.startswith("/"):
            raise read.wrong(key, f"{path!r} is not an absolute path")
    return StreamingConfig(address, read.integer("port", default.port, least=0, most=0xFFFF), **files)


def _metrics(read: Reader) -> MetricsConfig:
    address = read.string("address", "")
    host, _, port = address.rpartition(":")
    try:
        # An IPv6 address is in brackets: its colons would be the port's.
        is_right = not address or ((":" in host) == host.startswith("[") and bool(ipaddress.ip_address(host.strip("[]"))))
    except ValueError:
        is_right = False
    if not is_right or (address and not (port.isdecimal() and port.isascii() and int(port) < 1 << 16)):
        raise read.wrong("address", f"{address!r} is not an IP address and a port, as 127.0.0.1:9464")
    return MetricsConfig(address)


def _registry(read: Reader) -> RegistryConfig:
    mirrors = {host: _mirrors(host, entry) for host, entry in read.table("mirrors").items()}
    return RegistryConfig(mirrors=mirrors, insecure=read.strings("insecure", (), "hosts"))


def _mirrors(host: str, entry: object) -> Mirrors:
    """The mirrors of *host*: one URL, several, or a table that says whether the registry itself is asked after them."""
    where = f"registry.mirrors.{host!r}"
    table = entry if isinstance(entry, dict) else {"urls": [entry] if isinstance(entry, str) else entry}
    read = Reader(table, Mirrors, f"{where}.")
    urls = read.strings("urls", (), "http or https addresses")
    for url in urls:
        if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
            raise InvalidArgument(f"{where}: {url!r} is not an http or https address")
    if not urls:
        raise InvalidArgument(f"{where}: names no mirror")
    return Mirrors(urls, fall_back=read.boolean("fall_back", True))


def _cgroup(read: Reader, key: str, default: str) -> str:
    path = read.string(key, default)
    if not path.startswith("/") or path == "/" or ".." in path.split("/"):
        raise read.wrong(key, f"{path!r} is not the absolute path of a cgroup below the root")
    return path.rstrip("/")
