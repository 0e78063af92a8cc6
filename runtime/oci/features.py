"""``features``: what this runtime can do, from the tables by which it does it (the specification's features.md).

containerd reads ``mountExtensions.idmap`` and "rro" from it to know what it may offer to a kubelet.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from kernel.capability import CAPABILITIES, last_capability
from kernel.seccomp import FLAGS as SECCOMP_FLAGS
from kernel.seccomp import is_supported
from runtime.container.hooks import ANNOTATIONS, STATUS
from runtime.container.namespaces import KINDS
from runtime.container.options import known_options
from runtime.container.seccomp import ACTIONS, OPERATORS
from runtime.container.syscalls import FOREIGN, MACHINES
from runtime.oci.request import Request
from runtime.oci.unit_annotations import PREFIX as UNIT_PROPERTIES
from runtime.spec.linux_checks import MEMORY_FLAGS, MEMORY_MODES

FLAGS: dict[str, str] = {}
USAGE = ""
OLDEST, NEWEST = "1.0.0", "1.3.0"


def run(request: Request) -> int:
    request.check_count(0)
    sys.stdout.write(json.dumps(features(), indent=4) + "\n")
    return 0


def features() -> dict[str, Any]:
    """The document."""
    return {
        "ociVersionMin": OLDEST,
        "ociVersionMax": NEWEST,
        "hooks": list(STATUS),
        "mountOptions": known_options(),
        "linux": {
            "namespaces": sorted(KINDS),
            "capabilities": [name for name, number in CAPABILITIES.items() if number <= last_capability()],
            "cgroup": {"v1": False, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(ACTIONS),
                "operators": sorted(OPERATORS),
                "archs": sorted({each.name for machine in MACHINES.values() for each in machine} | FOREIGN),
                "knownFlags": list(SECCOMP_FLAGS),
                "supportedFlags": [flag for flag in SECCOMP_FLAGS if is_supported(flag)],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {"modes": sorted(MEMORY_MODES), "flags": sorted(MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {"org.opencontainers.runc.checkpoint.enabled": "false"},
        "potentiallyUnsafeConfigAnnotations": sorted([*ANNOTATIONS.values(), UNIT_PROPERTIES]),
    }
