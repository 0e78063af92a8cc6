"""Kernel settings of a container's own namespaces (sysctl(8)); one of the node's is refused by name (CVE-2022-0811)."""

from __future__ import annotations

import re
from collections.abc import Collection

from kernel.program import Program
from runtime.container import procfs as procfs_steps
from runtime.errors import InvalidSpec
from runtime.spec import schema

#: By namespace: which settings are its own.
_OWNERS = {
    "network": re.compile(r"net\..*"),
    "ipc": re.compile(r"kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\..*"),
    "uts": re.compile(r"kernel\.(hostname|domainname)"),
    "user": re.compile(r"user\..*"),
}
#: With a user namespace: what the node's root may write, and what its own root may.
OF_THE_NODES_ROOT, OF_ITS_ROOT = ("uts",), ("network", "ipc", "user")
#: Names between dots; a slash within one is a dot of the name (``net.ipv4.conf.eth0/100.forwarding``), never two together.
_NAME = r"[A-Za-z0-9_:@+-]+(/[A-Za-z0-9_:@+-]+)*"
_KEY = re.compile(rf"{_NAME}(\.{_NAME})+", re.ASCII)
_SWAP = str.maketrans("./", "/.")


def set_sysctls(steps: Program, spec: schema.Spec, procfs: int | None, owners: Collection[str] = tuple(_OWNERS)) -> None:
    """Write those of the spec's settings that belong to *owners*: procfs shows those of the namespaces that the writer is in."""
    namespaces = {namespace.type for namespace in spec.linux.namespaces}
    wanted = {key: value for key, value in spec.linux.sysctl.items() if check(key, namespaces) in owners}
    _check_names(spec)
    if wanted:
        steps.heading("kernel settings")
    for key, value in wanted.items():
        procfs_steps.write(
            steps,
            procfs,
            "sys/" + _dotted(key).translate(_SWAP),
            value,
            store="setting",
            why=f"set {key} to {value}",
            absent=f"linux.sysctl {key}: this kernel has no such setting, or it is the node's",
            hint=f"linux.sysctl {key}: the value is out of range, or the setting is the node's",
        )


def check(key: str, namespaces: Collection[str]) -> str:
    """The type of the namespace that *key* belongs to; raises InvalidSpec unless it is one of *namespaces*."""
    name = _dotted(key)
    if not _KEY.fullmatch(name):
        raise InvalidSpec(f"linux.sysctl {key!r}: not the name of a setting")
    owner = next((kind for kind, names in _OWNERS.items() if names.fullmatch(name)), None)
    if owner is None:
        raise InvalidSpec(f"linux.sysctl {key}: belongs to the node, not to a namespace")
    if owner not in namespaces:
        raise InvalidSpec(f"linux.sysctl {key}: the container is in the node's {owner} namespace, which is not changed for it")
    return owner


def _check_names(spec: schema.Spec) -> None:
    """Raise InvalidSpec for a name of the machine that is given twice and not the same."""
    for key, value in spec.linux.sysctl.items():
        for field, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
            if name and _dotted(key) == f"kernel.{field}" and value != name:
                raise InvalidSpec(f"linux.sysctl {key}: {value!r} conflicts with the field for it: {field} says {name!r}")


def _dotted(key: str) -> str:
    """*key* with dots between names; the first separator tells which of the two spellings it is in (sysctl(8))."""
    separator = next((mark for mark in key if mark in "./"), ".")
    return key.translate(_SWAP) if separator == "/" else key
