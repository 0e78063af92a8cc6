"""User namespaces of containers and of id-mapped mounts: made beforehand, from the maps of a spec, held by descriptor.

One that is joined by path is a descriptor too, so the rest of a start knows one way.  Whoever may not
write a map asks newuidmap(1) and newgidmap(1), which look into /etc/subuid and /etc/subgid.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from kernel import user_namespace
from kernel.fd import Fd
from kernel.user_namespace import IdRange, MapKind
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema

#: What a helper may take: it reads two files and writes one.
HELPER_SECONDS = 10


def make(uid_mappings: Sequence[schema.IdMapping], gid_mappings: Sequence[schema.IdMapping], *, where: str = "linux") -> Fd:
    """A new user namespace with these maps; *where* is the part of the document that they stand in, for messages.

    Raises InvalidSpec for maps that the kernel refuses or that this user may not have, Unsupported when there can be
    no (further) user namespace here.
    """
    for field, mappings in (("uidMappings", uid_mappings), ("gidMappings", gid_mappings)):
        if not mappings:
            raise InvalidSpec(f"{where}.{field}: a user namespace needs a mapping of users and one of groups")

    def write_maps(pid: int) -> None:
        _write_map(pid, "gid", gid_mappings, f"{where}.gidMappings")
        _write_map(pid, "uid", uid_mappings, f"{where}.uidMappings")

    try:
        return user_namespace.new_user_namespace(write_maps)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EUSERS, errno.EPERM, errno.EINVAL):
            raise Unsupported(
                f"{where}.uidMappings: no user namespace can be made here: {(error.strerror or '').lower()}; "
                "look at /proc/sys/user/max_user_namespaces and what else forbids it to this user"
            ) from error
        raise


def maps_of(namespace: Fd) -> tuple[list[schema.IdMapping], list[schema.IdMapping]]:
    """The maps of users and of groups of one that is there already, as a spec would have them."""
    uids, gids = user_namespace.read_maps(namespace)
    return [_mapping(each) for each in uids], [_mapping(each) for each in gids]


def _mapping(ids: IdRange) -> schema.IdMapping:
    return schema.IdMapping(container_id=ids.inside, host_id=ids.outside, size=ids.size)


def host_id(mappings: Sequence[schema.IdMapping], inside: int) -> int | None:
    """The id outside that *inside* stands for; None when it is not mapped."""
    for mapping in mappings:
        if mapping.container_id <= inside < mapping.container_id + mapping.size:
            return mapping.host_id + inside - mapping.container_id
    return None


def _write_map(pid: int, kind: MapKind, mappings: Sequence[schema.IdMapping], where: str) -> None:
    ranges = [IdRange(mapping.container_id, mapping.host_id, mapping.size) for mapping in mappings]
    try:
        if _is_own_id(kind, ranges) and os.geteuid():
            if kind == "gid":
                user_namespace.deny_setgroups(pid)  # what an unprivileged map of groups takes (CVE-2014-8989)
            user_namespace.write_map(pid, kind, ranges)
            return
        user_namespace.write_map(pid, kind, ranges)
    except PermissionError as error:
        _ask_helper(pid, kind, ranges, where, error)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InvalidSpec(f"{where}: the kernel refuses this map: ranges overlap, or there are more than 340") from error
        raise


def _is_own_id(kind: MapKind, ranges: list[IdRange]) -> bool:
    own = os.geteuid() if kind == "uid" else os.getegid()
    return [(each.outside, each.size) for each in ranges] == [(own, 1)]


def _ask_helper(pid: int, kind: MapKind, ranges: list[IdRange], where: str, refused: OSError) -> None:
    """Let the set-user-id helper write the map, if there is one and /etc/sub*id gives this user the ids."""
    import shutil
    import subprocess  # of no use to whoever may write maps, and slow to import

    name = f"new{kind}map"
    helper = shutil.which(name, path=os.environ.get("PATH", os.defpath))
    if helper is None:
        raise InvalidSpec(
            f"{where}: this user may map its own id alone; for more install {name} (package uidmap) "
            f"and give the user a range in /etc/sub{kind}"
        ) from refused
    command = [helper, str(pid), *(str(number) for each in ranges for number in each)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={}, timeout=HELPER_SECONDS, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
        raise InvalidSpec(f"{where}: {name} refuses it: {said}; look into /etc/sub{kind}") from refused
