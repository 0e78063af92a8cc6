"""What a CNI plugin is told of a pod, if it says that it is capable of it (containernetworking/cni, CONVENTIONS.md)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from runtime.errors import InvalidArgument
from runtime.sandbox.config import PortMapping, SandboxConfig
from runtime.sandbox.state import Sandbox

#: kubectl's annotations, in bits per second; what Kubernetes itself allows (pkg/util/bandwidth).
INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
LEAST_RATE, MOST_RATE = 10**3, 10**15
#: How much may come at once, in bits: the most that the bandwidth plugin takes is 4 GB.
BURST = (1 << 32) - 1

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d{1,2})?")
_DECIMAL = {"m": Decimal("0.001"), "": Decimal(1)} | {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)}
_BINARY = {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}


def of(sandbox: Sandbox, pod_subnets: Sequence[str] = ()) -> dict[str, Any]:
    """By the names of capabilities, all that there is to tell; a plugin gets those that it names.

    Raises InvalidArgument, naming the annotation, for a bandwidth that is none.
    """
    config = sandbox.config
    told: dict[str, Any] = {
        "portMappings": [_port(mapping) for mapping in config.port_mappings],
        "bandwidth": _bandwidth(config.annotations),
        "dns": _dns(config),
        "ipRanges": [[{"subnet": subnet}] for subnet in pod_subnets],
        "cgroupPath": sandbox.cgroup_parent,
        "io.kubernetes.cri.pod-annotations": config.annotations,
    }
    return {name: value for name, value in told.items() if value}


def _port(mapping: PortMapping) -> dict[str, Any]:
    return {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol,
        "hostIP": mapping.host_ip,
    }


def _dns(config: SandboxConfig) -> dict[str, Any]:
    if config.dns_servers is None:
        return {}
    return {"servers": config.dns_servers, "searches": config.dns_searches or [], "options": config.dns_options or []}


def _bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for way, annotation in (("ingress", INGRESS), ("egress", EGRESS)):
        if annotation in annotations:
            limits |= {f"{way}Rate": _rate(annotation, annotations[annotation]), f"{way}Burst": BURST}
    return limits


def _rate(annotation: str, text: str) -> int:
    """A Kubernetes quantity, in bits per second."""
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument(f"annotation {annotation}: {text!r} is no quantity, as 10M is")
    number, suffix = found[1], found[2] or ""
    scale = (_DECIMAL | _BINARY).get(suffix) or Decimal(f"1{suffix}")
    rate = int(Decimal(number) * scale)
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise InvalidArgument(f"annotation {annotation}: {text} is not between 1k and 1P (bits per second)")
    return rate


def subnets(pod_cidr: str) -> tuple[str, ...]:
    """The node's pod subnets, as a kubelet says them: one, or one of each family with a comma.  Raises InvalidArgument."""
    try:
        return tuple(str(ipaddress.ip_network(part.strip())) for part in pod_cidr.split(",") if part.strip())
    except ValueError as error:
        raise InvalidArgument(f"pod_cidr: {error}") from None
