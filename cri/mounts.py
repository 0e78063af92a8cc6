"""A container's mounts and devices, from the request and the defaults (pure).

What the request brings wins over a default at the same place, and parents come before children: a
mount would hide what was mounted below it earlier.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Sequence

from cri.api import api_pb2 as api
from runtime.errors import InvalidArgument
from runtime.spec import defaults, schema

_PROPAGATION = {
    api.PROPAGATION_PRIVATE: "rprivate",
    api.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    api.PROPAGATION_BIDIRECTIONAL: "rshared",
}
#: (uid_t) -1 is no id.
MAX_IDS = (1 << 32) - 1
_EXTRA_OPTIONS = frozenset({"noexec", "nodev", "nosuid"})


def mounts(wishes: Iterable[api.Mount], *, privileged: bool, find_image: Callable[[str], str]) -> list[schema.Mount]:
    """All mounts of the container but the sandbox's files and /dev/shm, in the order of mounting.

    *find_image* gives the id of an image by name or id; it raises ImageNotFound.
    """
    wanted = [image(wish, find_image) if wish.image.image else bind(wish) for wish in wishes]
    taken = {mount.destination for mount in wanted}
    usual = [mount for mount in defaults.mounts(privileged=privileged) if mount.destination not in taken]
    # sorted() is stable: mounts at one place keep the order they were asked for in.
    return sorted([*usual, *wanted], key=lambda mount: mount.destination.count("/"))


def bind(wish: api.Mount) -> schema.Mount:
    """One mount of something of the host's.  Raises InvalidArgument for what contradicts itself."""
    where = _where(wish)
    if wish.image_sub_path:
        raise InvalidArgument(f"{where}: image_sub_path is given, and no image")
    destination = _destination(wish, where)
    if not wish.host_path.startswith("/") or "\0" in wish.host_path:
        raise InvalidArgument(f"{where}: host_path {wish.host_path!r} must be absolute, without a NUL")
    return schema.Mount(
        destination=destination,
        type="bind",
        source=wish.host_path,
        options=["rbind", *_options(wish, where)],
        uid_mappings=id_mappings(wish.uidMappings, f"{where}: uidMappings"),
        gid_mappings=id_mappings(wish.gidMappings, f"{where}: gidMappings"),
    )


def image(wish: api.Mount, find_image: Callable[[str], str]) -> schema.Mount:
    """An image as a volume, in the words of runtime/image_files.py.

    Raises InvalidArgument, whose text begins as a kubelet's metrics know it.
    """
    where = f"ImageVolumeMountFailed: {_where(wish)}"
    destination = _destination(wish, where)
    if wish.host_path:
        raise InvalidArgument(f"{where}: host_path and image are both given")
    if not wish.readonly:
        raise InvalidArgument(f"{where}: an image can only be mounted readonly")
    if wish.propagation != api.PROPAGATION_PRIVATE:
        raise InvalidArgument(f"{where}: an image takes PROPAGATION_PRIVATE alone")
    path = wish.image_sub_path
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise InvalidArgument(f"{where}: image_sub_path {path!r} is not a relative path without '..'")
    # Owners are seen through the pod's users anyway: uidMappings can say nothing else.
    source = f"{find_image(wish.image.image)}/{posixpath.normpath(path) if path else ''}"
    return schema.Mount(destination=destination, type="image", source=source, options=["ro", *_extra_options(wish, where)])


def id_mappings(wishes: Sequence[api.IDMapping], where: str) -> list[schema.IdMapping]:
    """The maps *wishes* in the spec's words.  Raises InvalidArgument for ids that there are none of."""
    for wish in wishes:
        if not wish.length or max(wish.host_id, wish.container_id) + wish.length > MAX_IDS:
            raise InvalidArgument(f"{where}: {wish.length} ids from {wish.host_id} on: ids end at {MAX_IDS - 1}")
    return [schema.IdMapping(container_id=wish.container_id, host_id=wish.host_id, size=wish.length) for wish in wishes]


def root_propagation(wishes: Iterable[api.Mount]) -> str:
    """What the container's root must be for mounts to travel as its mounts ask: the widest of them."""
    kinds = {wish.propagation for wish in wishes}
    if api.PROPAGATION_BIDIRECTIONAL in kinds:
        return "rshared"
    return "rslave" if api.PROPAGATION_HOST_TO_CONTAINER in kinds else ""


def devices(
    wishes: Iterable[api.Device], *, privileged: bool, find: Callable[[str], list[schema.Device]]
) -> tuple[list[schema.Device], list[schema.DeviceRule]]:
    """Device nodes, and the cgroup's rules for opening them; *find* looks nodes of the host up.

    A *privileged* container has all of the host's and may open any.
    """
    nodes = {device.path: device for device in defaults.devices()}
    rules = defaults.device_rules(privileged=privileged)
    if privileged:
        nodes = {device.path: device for device in find("/dev")} | nodes
    for wish in wishes:
        access = _access(wish)
        for device in find(wish.host_path):
            device.path = _moved(device.path, wish)
            nodes[device.path] = device
            rule = schema.DeviceRule(allow=True, type=device.type, major=device.major, minor=device.minor, access=access)
            rules.append(rule)
    return list(nodes.values()), rules


def _options(wish: api.Mount, where: str) -> list[str]:
    if wish.propagation not in _PROPAGATION:
        raise InvalidArgument(f"{where}: unknown propagation {wish.propagation}")
    if wish.recursive_read_only and not wish.readonly:
        raise InvalidArgument(f"{where}: recursive_read_only needs readonly")
    if wish.recursive_read_only and wish.propagation != api.PROPAGATION_PRIVATE:
        raise InvalidArgument(f"{where}: recursive_read_only needs PROPAGATION_PRIVATE")
    access = "ro" if wish.readonly else "rw"
    recursive = ["rro"] if wish.recursive_read_only else []
    if bool(wish.uidMappings) != bool(wish.gidMappings):
        raise InvalidArgument(f"{where}: uidMappings and gidMappings: one goes with the other")
    # With everything below, as the mount itself: what is seen there unmapped would be nobody's.
    mapped = ["ridmap"] if wish.uidMappings else []
    return [_PROPAGATION[wish.propagation], access, *recursive, *_extra_options(wish, where), *mapped]


def _extra_options(wish: api.Mount, where: str) -> list[str]:
    if unknown := sorted(set(wish.mount_options) - _EXTRA_OPTIONS):
        raise InvalidArgument(f"{where}: unknown mount option {unknown[0]!r}")
    return list(wish.mount_options)


def _where(wish: api.Mount) -> str:
    return f"mount {wish.container_path or '(no container_path)'}"


def _destination(wish: api.Mount, where: str) -> str:
    if not wish.container_path.startswith("/"):
        raise InvalidArgument(f"{where}: container_path must be absolute")
    # normpath keeps two leading slashes, as POSIX lets it.
    destination = "/" + posixpath.normpath(wish.container_path).lstrip("/")
    if destination == "/":
        raise InvalidArgument(f"{where}: a mount cannot take the place of the container's root")
    return destination


def _access(wish: api.Device) -> str:
    access = wish.permissions or "rwm"
    if not wish.host_path.startswith("/") or "\0" in wish.host_path:
        raise InvalidArgument(f"device {wish.host_path!r}: host_path must be absolute, without a NUL")
    if wish.container_path and not wish.container_path.startswith("/"):
        raise InvalidArgument(f"device {wish.host_path}: container_path {wish.container_path!r} must be absolute")
    if set(access) - set("rwm"):
        raise InvalidArgument(f"device {wish.host_path}: permissions {access!r} are not of r, w, m")
    return access


def _moved(path: str, wish: api.Device) -> str:
    """Where the host's *path*, found at or below the device's host_path, is in the container."""
    source = wish.host_path.rstrip("/")
    target = (wish.container_path or wish.host_path).rstrip("/")
    return target + path[len(source) :]
