"""What a CNI plugin answers to ADD: the addresses in it (CNI specification 0.3 to 1.1, section 5, "ADD Success")."""

from __future__ import annotations

import ipaddress
from typing import Any

from runtime.errors import NetworkFailed
from runtime.network import Addresses


def addresses_in(result: Any, network: str, interface: str) -> Addresses:
    """The addresses of the pod's *interface* in *result*, in its order; other interfaces that plugins made are theirs.

    Raises NetworkFailed, naming the *network*, for an answer without one: a pod without an address is made anew for ever.
    """
    try:
        entries = [(entry, ipaddress.ip_interface(entry["address"])) for entry in result.get("ips") or []]
        interfaces = result.get("interfaces") or []
        mine = [(entry, address) for entry, address in entries if _belongs(entry, interfaces, interface)]
        gateway = next((entry["gateway"] for entry, _ in mine if entry.get("gateway")), None)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NetworkFailed(f"CNI network {network}: its answer to ADD is not a result: {error}") from None
    if not mine:
        raise NetworkFailed(f"CNI network {network}: its plugins gave the pod no address on {interface}")
    first, *others = (str(address.ip) for _, address in mine)
    return Addresses(first, tuple(others), None if gateway is None else str(gateway))


def _belongs(entry: dict[str, Any], interfaces: list[dict[str, Any]], name: str) -> bool:
    """Without an index, or where nothing is told of interfaces, an address is the pod's."""
    index = entry.get("interface")
    if index is None or not interfaces:
        return True
    if not isinstance(index, int) or not 0 <= index < len(interfaces):
        raise ValueError(f"there is no interface {index!r}")
    found = interfaces[index]
    return bool(found.get("sandbox")) and found.get("name") == name
