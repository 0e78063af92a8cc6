"""Started by a user who is not root: the launcher goes into the container's user namespace first, and is root from there on.

Everything else then is as for root, but that some of it is refused by the kernel: device nodes (host's are bound
instead), more of any limit, groups where only the user's own is mapped, and the node's cgroups.
"""

from __future__ import annotations

import os

from kernel import mount, namespace
from kernel.fd import Fd
from kernel.program import Flags
from runtime.container import joins, userns
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema

_MOUNTS = Flags(("CLONE_NEWNS",))


def enter(spec: schema.Spec) -> bool:
    """Become root of the user namespace of *spec*'s container, in a mount namespace of our own, if we are not root yet.

    Whether that was done; the namespace is struck from *spec* then, for it is ours now.  Only for a process of one thread.
    Raises InvalidSpec for a spec that an ordinary user cannot run, Unsupported where there can be no user namespace.
    """
    if os.geteuid() == 0:
        return False
    linux = spec.linux
    wanted = next((each for each in linux.namespaces if each.type == "user"), None)
    if wanted is None:
        raise InvalidSpec(
            "linux.namespaces: a container that is not started by root needs a user namespace; add one, and mappings of ids"
        )
    for field, mappings, own in (("uid", linux.uid_mappings, os.geteuid()), ("gid", linux.gid_mappings, os.getegid())):
        if not wanted.path and userns.host_id(mappings, 0) != own:
            raise InvalidSpec(f"linux.{field}Mappings: 0 must stand for {own}, the {field} of the user who starts the container")
    users = joins.open_user(linux)
    if users is None:
        raise Unsupported(f"linux.namespaces: {wanted.path} is the user namespace that we are in, without being its root")
    with users:
        _become_root_of(users)
    namespace.unshare(_MOUNTS.value())
    mount.set_propagation("/", "slave", recursive=True)
    linux.namespaces = [each for each in linux.namespaces if each.type != "user"]
    linux.uid_mappings, linux.gid_mappings = [], []
    return True


def follow(pid: int) -> bool:
    """Become root of the user namespace that *pid*, a container's init, is in, if we are not root yet; whether that was done.

    For what is done to a container later: it is the namespace's root that may send signals and enter.
    """
    if os.geteuid() == 0:
        return False
    with namespace.open_namespace(pid, "user") as users, namespace.open_namespace("thread-self", "user") as ours:
        if namespace.identity(users) == namespace.identity(ours):
            return False
        _become_root_of(users)
    return True


def needs_cgroup(linux: schema.Linux) -> bool:
    """Whether the spec asks for something that only a cgroup gives: a place of its own, or a limit.

    Without, a user who may make no cgroup has none made, as with runc; device rules are not counted, for what a
    user may open is limited by what it may open.
    """
    resources = linux.resources
    if linux.cgroups_path:
        return True
    if resources is None:
        return False
    fields = ("memory", "cpu", "pids", "block_io", "hugepage_limits", "network", "rdma", "unified")
    return any(_is_a_limit(getattr(resources, field)) for field in fields)


def _is_a_limit(value: object) -> bool:
    return value not in (None, [], {}, schema.Memory(), schema.Cpu(), schema.Pids(), schema.BlockIo(), schema.Network())


def _become_root_of(users: Fd) -> None:
    """Enter *users*; our own ids are mapped to 0 there, so that what we had we have still."""
    namespace.set_namespace(users, "user")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
