"""kernelet.toml to frozen dataclasses.  Every value has a default: an absent file is an empty one.

root_dir = "/var/lib/kernelet"
run_dir = "/run/kernelet"
socket = "/run/kernelet/kernelet.sock"
cgroup_parent = "/kernelet"          # for pods that name no cgroup of their own

[network]
bridge = "kernelet0"
subnet = "10.85.0.0/16"

[registry]
insecure = ["registry.lan:5000"]     # plain http; localhost needs no entry

[registry.mirrors]
"docker.io" = "https://mirror.lan"
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from runtime.errors import InvalidArgument
from runtime.paths import Paths

DEFAULT_PATH = Path("/etc/kernelet/kernelet.toml")

#: IFNAMSIZ without the closing NUL.
LINK_NAME_LIMIT = 15

_SUBNET = ipaddress.IPv4Network("10.85.0.0/16")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    bridge: str = "kernelet0"
    subnet: ipaddress.IPv4Network = _SUBNET


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    mirrors: Mapping[str, str] = field(default_factory=dict)
    insecure: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    root_dir: Path = Paths().root_dir
    run_dir: Path = Paths().run_dir
    socket: Path = Paths().socket
    cgroup_parent: str = "/kernelet"
    network: NetworkConfig = NetworkConfig()
    registry: RegistryConfig = RegistryConfig()

    @property
    def paths(self) -> Paths:
        return Paths(root_dir=self.root_dir, run_dir=self.run_dir)


def load(path: Path | None) -> Config:
    """The configuration in the file at *path*; without one, in the default file if that is there.

    Raises InvalidArgument, naming file and key.
    """
    chosen = path or DEFAULT_PATH
    try:
        text = chosen.read_text()
    except FileNotFoundError:
        if path is not None:
            raise InvalidArgument(f"{path}: no such file") from None
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{chosen}: {error}") from None
    try:
        return parse(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{chosen}: {error}") from None


def parse(text: str) -> Config:
    """The configuration in *text* (TOML).  An unknown key is an error: it is a typing error that would do nothing."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"not TOML: {error}") from None
    _known(table, Config, "")
    default = Config()
    run_dir = _path(table, "run_dir", default.run_dir)
    return Config(
        root_dir=_path(table, "root_dir", default.root_dir),
        run_dir=run_dir,
        # The socket goes with the run dir unless it is given.
        socket=_path(table, "socket", run_dir / default.socket.name),
        cgroup_parent=_cgroup(_string(table, "cgroup_parent", "", default.cgroup_parent)),
        network=_network(_table(table, "network")),
        registry=_registry(_table(table, "registry")),
    )


def _network(table: dict[str, Any]) -> NetworkConfig:
    _known(table, NetworkConfig, "network.")
    default = NetworkConfig()
    bridge = _string(table, "bridge", "network.", default.bridge)
    if not 0 < len(bridge) <= LINK_NAME_LIMIT or not bridge.replace("-", "").replace("_", "").isalnum():
        raise InvalidArgument(f"network.bridge: {bridge!r} is not the name of a link ({LINK_NAME_LIMIT} letters at most)")
    subnet = _string(table, "subnet", "network.", str(default.subnet))
    try:
        parsed = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        raise InvalidArgument(f"network.subnet: {error}") from None
    if parsed.prefixlen > 30:
        raise InvalidArgument(f"network.subnet: {subnet} has no room for pods")
    return NetworkConfig(bridge=bridge, subnet=parsed)


def _registry(table: dict[str, Any]) -> RegistryConfig:
    _known(table, RegistryConfig, "registry.")
    mirrors = _table(table, "mirrors")
    for host, url in mirrors.items():
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidArgument(f"registry.mirrors.{host!r}: {url!r} is not an http or https address")
    insecure = table.get("insecure", [])
    if not isinstance(insecure, list) or not all(isinstance(host, str) for host in insecure):
        raise InvalidArgument("registry.insecure: not a list of hosts")
    return RegistryConfig(mirrors=mirrors, insecure=tuple(insecure))


def _known(table: Mapping[str, Any], kind: type[Any], where: str) -> None:
    unknown = sorted(set(table) - {known.name for known in fields(kind)})
    if unknown:
        raise InvalidArgument(f"{where}{unknown[0]}: unknown key")


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise InvalidArgument(f"{key}: not a table")
    return value


def _string(table: Mapping[str, Any], key: str, where: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise InvalidArgument(f"{where}{key}: not a string")
    return value


def _path(table: Mapping[str, Any], key: str, default: Path) -> Path:
    path = Path(_string(table, key, "", str(default)))
    if not path.is_absolute():
        raise InvalidArgument(f"{key}: {str(path)!r} is not an absolute path")
    return path


def _cgroup(path: str) -> str:
    if not path.startswith("/") or path == "/" or ".." in path.split("/"):
        raise InvalidArgument(f"cgroup_parent: {path!r} is not the absolute path of a cgroup below the root")
    return path.rstrip("/")
