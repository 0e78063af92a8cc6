"""Which namespaces a container's init makes, which it joins, and in which of the two processes."""

from __future__ import annotations

import re

from kernel.program import Flags, Program, Slot, Words
from runtime.container.facts import Facts
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema

KINDS = {
    "pid": "CLONE_NEWPID",
    "network": "CLONE_NEWNET",
    "mount": "CLONE_NEWNS",
    "ipc": "CLONE_NEWIPC",
    "uts": "CLONE_NEWUTS",
    "cgroup": "CLONE_NEWCGROUP",
    "user": "CLONE_NEWUSER",
    "time": "CLONE_NEWTIME",
}
#: By namespace: which settings are its own.
_SYSCTLS = {
    "network": re.compile(r"net\..*"),
    "ipc": re.compile(r"kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\..*"),
}
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+", re.ASCII)
_IFREQ = b"lo".ljust(16, b"\0")


def new_kinds(spec: schema.Spec) -> tuple[str, ...]:
    """The kinds that the spec asks to be made: named without a path."""
    kinds = []
    for namespace in spec.linux.namespaces:
        if namespace.type not in KINDS:
            raise InvalidSpec(f"linux.namespaces: unknown type {namespace.type!r}")
        if namespace.type in ("user", "time"):
            raise Unsupported(f"linux.namespaces: {namespace.type} namespaces are not supported yet")
        if not namespace.path:
            kinds.append(KINDS[namespace.type])
    if "CLONE_NEWNS" not in kinds:
        raise Unsupported("linux.namespaces: a container needs a mount namespace of its own")
    return tuple(kinds)


def clone(steps: Program, spec: schema.Spec, facts: Facts, cgroup: int | None) -> None:
    """Make the new process, in its cgroup and namespaces at once.

    Two things cannot be done in that one call: a pid namespace is joined by whoever clones, before
    it; a cgroup namespace is rooted where its maker *is*, so it is made after.
    """
    steps.heading("the new process")
    for join in facts.joins:
        if join.kind == "CLONE_NEWPID":
            steps.call(
                "setns",
                join.descriptor,
                Flags((join.kind,)),
                why="children of this process are born into the shared pid namespace",
            )
    kinds = tuple(kind for kind in new_kinds(spec) if kind != "CLONE_NEWCGROUP")
    steps.clone(
        kinds if facts.has_reaper else (*kinds, "CLONE_PARENT"),
        cgroup=cgroup,
        why="the new process, with its namespaces, in its cgroup",
        hint="the kernel lacks one of these namespaces, a limit of /proc/sys/user is reached, or the cgroup refuses processes",
    )


def enter(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """In the new process: enter the namespaces that are shared, and finish those that are new."""
    steps.heading("namespaces")
    for join in facts.joins:
        if join.kind != "CLONE_NEWPID":
            steps.call(
                "setns",
                join.descriptor,
                Flags((join.kind,)),
                why=f"enter the {join.kind.removeprefix('CLONE_NEW').lower()} namespace",
            )
    kinds = new_kinds(spec)
    if "CLONE_NEWCGROUP" in kinds:
        steps.call(
            "unshare", Flags(("CLONE_NEWCGROUP",)), why="the cgroup that this process is in becomes the top of the tree it sees"
        )
    if "CLONE_NEWNET" in kinds:
        steps.call(
            "socket", Flags(("AF_INET",)), Flags(("SOCK_DGRAM", "SOCK_CLOEXEC")), 0, store="socket", why="to speak of interfaces"
        )
        request = Words(1, tuple(_IFREQ + Flags(("IFF_UP",)).value().to_bytes(2, "little") + bytes(22)), label='{"lo", IFF_UP}')
        steps.call(
            "ioctl", Slot("socket"), Flags(("SIOCSIFFLAGS",)), request, why="a new network namespace has its loopback down"
        )
    if spec.hostname:
        steps.call("sethostname", spec.hostname, len(spec.hostname.encode()), why="the container's host name")
    if spec.domainname:
        steps.call("setdomainname", spec.domainname, len(spec.domainname.encode()), why="the container's domain name")


def set_sysctls(steps: Program, spec: schema.Spec) -> None:
    """Namespaced kernel settings, written through the host's own /proc, which shows the writer's namespaces."""
    steps.heading("kernel settings")
    for key, value in spec.linux.sysctl.items():
        path = "/proc/sys/" + key.replace(".", "/")
        _check_sysctl(key, {namespace.type for namespace in spec.linux.namespaces})
        steps.call(
            "openat",
            Flags(("AT_FDCWD",)),
            path,
            Flags(("O_WRONLY", "O_CLOEXEC")),
            0,
            store="setting",
            why=f"find {key}",
            hint="this kernel has no such setting",
        )
        steps.call(
            "write", Slot("setting"), value, len(value.encode()), why=f"set {key} to {value}", hint="the value is out of range"
        )


def _check_sysctl(key: str, namespaces: set[str]) -> None:
    """Raises InvalidSpec unless *key* is of a namespace that is not the node's (CVE-2022-0811)."""
    if not _KEY.fullmatch(key):
        raise InvalidSpec(f"linux.sysctl {key!r}: not the name of a setting")
    owner = next((kind for kind, names in _SYSCTLS.items() if names.fullmatch(key)), None)
    if owner is None:
        raise InvalidSpec(f"linux.sysctl {key}: belongs to the node, not to a namespace")
    if owner not in namespaces:
        raise InvalidSpec(f"linux.sysctl {key}: the container is in the node's {owner} namespace, which is not changed for it")
