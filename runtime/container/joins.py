"""The namespaces of a spec that are there already: opened by path, seen to be what the spec says, put in their order."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kernel import namespace
from kernel.fd import Fd, open_path
from runtime.container import sysctls, userns
from runtime.container.namespaces import KINDS
from runtime.errors import HostPathNotFound, InvalidSpec, Unsupported
from runtime.spec import schema

_NAMES: dict[str, namespace.Kind] = {"network": "net", "mount": "mnt"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A namespace to enter: its constant, its descriptor, and whether that is before the container's user namespace."""

    kind: str
    file: Fd
    is_outside: bool


def open_user(linux: schema.Linux) -> Fd | None:
    """The container's user namespace: made from the spec's maps, or joined by path; None without one.

    One that is joined and is our own is none: there is nothing to enter.  The maps of another are written into *linux*,
    where there are none: who is root of the container is then known to everybody.  Raises InvalidSpec where they differ.
    """
    for index, wanted in enumerate(linux.namespaces):
        if wanted.type == "user":
            if not wanted.path:
                return userns.make(linux.uid_mappings, linux.gid_mappings)
            file = _open(wanted, f"linux.namespaces[{index}]")
            try:
                if not _is_ours(file, "user"):
                    _take_maps(linux, file)
                    return file
            except BaseException:
                file.close()
                raise
            file.close()
    return None


def _take_maps(linux: schema.Linux, user: Fd) -> None:
    uids, gids = userns.maps_of(user)
    for field, given, found in (("uidMappings", linux.uid_mappings, uids), ("gidMappings", linux.gid_mappings, gids)):
        if given and given != found:
            raise InvalidSpec(f"linux.{field}: not the map that the user namespace of linux.namespaces has")
    linux.uid_mappings, linux.gid_mappings = uids, gids


def open_others(linux: schema.Linux, user: Fd | None) -> list[Opened]:
    """The other namespaces that *linux* names by path, in its order; *user* is the container's user namespace.

    Raises InvalidSpec naming the entry: for a path that is no namespace or one of another type, for the node's own mount
    namespace, for a setting of the node's; HostPathNotFound for a path that is not there.
    """
    found: list[Opened] = []
    try:
        for index, wanted in enumerate(linux.namespaces):
            if not wanted.path or wanted.type == "user":
                continue
            where = f"linux.namespaces[{index}]"
            file = _open(wanted, where)
            found.append(Opened(KINDS[wanted.type], file, user is not None and not _is_within(file, user)))
            if _is_ours(file, _NAMES.get(wanted.type, wanted.type)):  # type: ignore[arg-type]
                _refuse_ours(linux, wanted, where)
    except BaseException:
        for opened in found:
            opened.file.close()
        raise
    return found


def _open(wanted: schema.Namespace, where: str) -> Fd:
    """The namespace at the path, opened only once it is seen to be one: a fifo would block, a device do something."""
    try:
        place = open_path(wanted.path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise HostPathNotFound(f"{where}.path {wanted.path}: no such file or directory") from error
    with place:
        if not namespace.is_namespace(place):
            raise InvalidSpec(f"{where}.path {wanted.path}: not a namespace")
        file = open_path(f"/proc/self/fd/{place.fileno()}")
    kind = namespace.kind_of(file)
    if kind != _NAMES.get(wanted.type, wanted.type):
        file.close()
        raise InvalidSpec(f"{where}.path {wanted.path}: a {kind} namespace, not one of type {wanted.type}")
    return file


def _is_within(file: Fd, user: Fd) -> bool:
    """Whether the owner of the namespace is *user* or below it: then root of *user* may enter."""
    wanted = namespace.identity(user)
    owner = namespace.owner_of(file)
    while owner is not None:
        with owner:
            if namespace.identity(owner) == wanted:
                return True
            above = namespace.parent_of(owner)
        owner = above
    return False


def _is_ours(file: Fd, kind: namespace.Kind) -> bool:
    with namespace.open_namespace("thread-self", kind) as ours:
        return namespace.identity(file) == namespace.identity(ours)


def _refuse_ours(linux: schema.Linux, wanted: schema.Namespace, where: str) -> None:
    """Refuse what would change the node, in whose namespace the container would be."""
    if wanted.type == "mount":
        raise Unsupported(f"{where}.path {wanted.path}: the node's own mount namespace, whose root is nobody's to change")
    others = {each.type for each in linux.namespaces} - {wanted.type}
    for key in linux.sysctl:
        sysctls.check(key, others)
