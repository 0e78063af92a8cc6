"""Which namespaces a container's init makes, which it joins, and in which of the two processes."""

from __future__ import annotations

from kernel.program import Flags, Program, Slot, Words
from runtime.container import procfs, rlimits
from runtime.container.facts import Facts, Join
from runtime.errors import InvalidSpec
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
_IFREQ = b"lo".ljust(16, b"\0")


def new_kinds(spec: schema.Spec) -> tuple[str, ...]:
    """The kinds that the spec asks to be made: named without a path."""
    kinds = []
    for namespace in spec.linux.namespaces:
        if namespace.type not in KINDS:
            raise InvalidSpec(f"linux.namespaces: unknown type {namespace.type!r}")
        if not namespace.path:
            kinds.append(KINDS[namespace.type])
    return tuple(kinds)


def has(spec: schema.Spec, kind: str) -> bool:
    """Whether the container has a namespace of type *kind* (``uts``) that is not simply the node's."""
    return any(namespace.type == kind for namespace in spec.linux.namespaces)


def clone(steps: Program, spec: schema.Spec, facts: Facts, cgroup: int | None) -> None:
    """Make the new process, in its cgroup and namespaces at once.

    What cannot be done in that one call: pid, time and user namespaces are for the children of whoever
    enters them, so that is before; a cgroup namespace is rooted where its maker *is*, so it is made after.
    The user namespace owns all that are made in it, and takes away the rights over those that are not its own.
    """
    for join in facts.joins:
        if join.is_outside:
            _join(steps, join)
    if facts.user_namespace is not None:
        if spec.process is not None:
            rlimits.prepare(steps, spec.process, facts.procfs, facts.raised_limits)
        why = "root of this user namespace alone from now on, which owns what is made next"
        steps.call("setns", facts.user_namespace, Flags(("CLONE_NEWUSER",)), why=why)
    kinds = new_kinds(spec)
    if "CLONE_NEWTIME" in kinds:
        _make_time(steps, spec, facts)
    steps.heading("the new process")
    for join in facts.joins:
        if join.kind == "CLONE_NEWPID" and not join.is_outside:
            _join(steps, join)
    elsewhere = ("CLONE_NEWCGROUP", "CLONE_NEWTIME", "CLONE_NEWUSER", *(("CLONE_NEWNS",) if facts.begins_empty else ()))
    made = tuple(kind for kind in kinds if kind not in elsewhere)
    steps.clone(
        made if facts.has_reaper else (*made, "CLONE_PARENT"),
        cgroup=cgroup,
        why="the new process, with its namespaces, in its cgroup",
        hint="the kernel lacks one of these namespaces, a limit of /proc/sys/user is reached, or the cgroup refuses processes",
    )


def _join(steps: Program, join: Join) -> None:
    if join.kind == "CLONE_NEWPID":
        why = "children of this process are born into the shared pid namespace"
    else:
        why = f"enter the {join.kind.removeprefix('CLONE_NEW').lower()} namespace"
    steps.call("setns", join.descriptor, Flags((join.kind,)), why=why)


def _make_time(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """A time namespace for the children of this process, whose clocks can be set until the first one is born."""
    steps.heading("clocks")
    steps.call("unshare", Flags(("CLONE_NEWTIME",)), why="a time namespace for the process to come")
    for clock, offset in spec.linux.time_offsets.items():
        procfs.write(
            steps,
            facts.procfs,
            "self/timens_offsets",
            f"{clock} {offset.secs} {offset.nanosecs}\n",
            store="offsets",
            why=f"its {clock} clock is {offset.secs}.{offset.nanosecs:09} s ahead",
            hint="the clock would stand before zero, or too far in the future",
        )


def enter(steps: Program, spec: schema.Spec, facts: Facts) -> None:
    """In the new process: enter the namespaces that are shared, and finish those that are new."""
    steps.heading("namespaces")
    for join in facts.joins:
        if join.kind != "CLONE_NEWPID" and not join.is_outside:
            _join(steps, join)
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
    for field, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if name and not has(spec, "uts"):
            raise InvalidSpec(f"{field}: the container is in the node's uts namespace, which is not renamed for it")
    if spec.hostname:
        steps.call("sethostname", spec.hostname, len(spec.hostname.encode()), why="the container's host name")
    if spec.domainname:
        steps.call("setdomainname", spec.domainname, len(spec.domainname.encode()), why="the container's domain name")
