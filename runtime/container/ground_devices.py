"""Devices that are seen to beforehand: those on file systems that are there, and those that no process inside may make.

A node on the image's own file system is made here and looked at, for other containers may work on the same files; one
that is there already must be the device that the spec says (if only the runtime wants one, what is there is left).
In a user namespace nobody may make one, so it is made here, on a file system of the node's that nobody else sees, and
bound into its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Callable
from functools import lru_cache

from kernel import mount as kernel_mount
from kernel.capability import CAPABILITIES, sets_of
from kernel.fd import Fd
from kernel.program import Flags
from kernel.resolve import open_in_root
from kernel.user_namespace import is_initial
from kernel.workshop import Workshop
from runtime.container import userns
from runtime.container.ground_binds import open_device
from runtime.container.ground_tree import Layer, Tree
from runtime.container.rootfs_devices import has_own_dev, mode_of, number_of, wanted_devices
from runtime.errors import InvalidSpec, Unsupported
from runtime.spec import schema, standard_dev


def see_to(
    spec: schema.Spec, tree: Tree, keep: Callable[[Fd], int], ready: Layer | None = None, *, in_user_namespace: bool
) -> dict[str, int | None]:
    """What ``Facts.devices`` says; *keep* takes over a descriptor and numbers it, *ready* is a /dev with the standard devices.

    Raises InvalidSpec when something else is in a device's place, Unsupported when it can neither be made nor bound.
    """
    if has_own_dev(spec):
        _require_dev(tree)
    with contextlib.closing(_Nodes(spec, tree, keep, in_user_namespace=in_user_namespace)) as nodes:
        wanted = wanted_devices(spec)
        there = {path for path, _, _ in standard_dev.DEVICES if ready is not None and tree.on_top(path) is ready}
        found = {path: None if path in there else nodes.see_to(path, device) for path, device in wanted.items()}
        return {path: number for path, number in found.items() if number is not False}


def _require_dev(tree: Tree) -> None:
    """A directory for devices.  Where the image's own is a link, they would come among its other files (CVE-2026-41579)."""
    place = tree.find("/dev", follow=False)
    if place is not None and place.is_directory is False and tree.make("/dev", directory=True).layer is tree.root:
        raise InvalidSpec("linux.devices: /dev of the image is a link, and no mount of the spec covers what it leads to")
    tree.make("/dev", directory=True)


class _Nodes:
    def __init__(self, spec: schema.Spec, tree: Tree, keep: Callable[[Fd], int], *, in_user_namespace: bool) -> None:
        self._linux, self._tree, self._keep = spec.linux, tree, keep
        self._binds = in_user_namespace or not may_make_nodes()
        self._listed = {posixpath.normpath(device.path) for device in spec.linux.devices}
        self._workshop: Workshop | None = None

    def close(self) -> None:
        if self._workshop is not None:
            self._workshop.close()

    def see_to(self, path: str, device: schema.Device) -> int | bool | None:
        """None: it is in its place; a number: it is to be bound; False: init makes it."""
        if not self._binds and self._is_on_new(path):  # the ordinary case: a new /dev
            return False
        place = self._tree.find(path, follow=False)
        if place is not None and place.is_directory is not None:
            if path in self._listed:
                self._require(path, device)
            return None
        above = self._tree.make(os.path.dirname(path), directory=True)
        if self._binds and device.type != "p":
            self._tree.make(path, directory=False)
            return self._keep(self._node(path, device))
        if above.layer.file is None:
            above.layer.made[path] = False
            return False
        try:
            with open_in_root(above.layer.file, above.layer.inner(above.path), os.O_PATH | os.O_DIRECTORY) as parent:
                self._make(parent, path, device)
        except PermissionError:
            self._tree.make(path, directory=False)
            return self._keep(self._node(path, device))
        return None

    def _is_on_new(self, path: str) -> bool:
        """Whether it comes on the top of a file system that init makes, and nothing else does there."""
        layer = self._tree.on_top(path)
        if layer.type != "tmpfs" or layer.file is not None or os.path.dirname(path) != layer.prefix[:-1] or path in layer.made:
            return False
        layer.made[path] = False
        return True

    def _require(self, path: str, device: schema.Device) -> None:
        """Raises InvalidSpec unless that device is in its place (config-linux.md, "Devices")."""
        place = self._tree.find(path, follow=False)
        if place is None or place.layer.file is None:
            raise InvalidSpec(f"linux.devices {path}: something else of this spec stands there")
        if place.path == place.layer.prefix[:-1]:
            status = os.fstat(place.layer.file.fileno())
        else:
            with open_in_root(place.layer.file, place.layer.inner(place.path), follow=False) as file:
                status = os.fstat(file.fileno())
        if not _is(status, device):
            raise InvalidSpec(
                f"linux.devices {path}: something else stands there, not the device {device.type} {device.major}:{device.minor}"
            )

    def _make(self, parent: Fd, path: str, device: schema.Device) -> None:
        name = os.path.basename(path)
        try:
            os.mknod(name, mode_of(device), number_of(device), dir_fd=parent.fileno())
        except OSError as error:
            if error.errno == errno.EROFS:
                raise InvalidSpec(f"linux.devices {path}: nothing stands there, and what is below is read-only") from error
            raise
        with open_in_root(parent, name, follow=False) as node:
            if not _is(os.fstat(node.fileno()), device):
                raise InvalidSpec(f"linux.devices {path}: something else was put in its place")
            os.chown(f"/proc/self/fd/{node.fileno()}", device.uid, device.gid)
            os.chmod(f"/proc/self/fd/{node.fileno()}", stat.S_IMODE(mode_of(device)))  # whatever the umask is

    def _node(self, path: str, device: schema.Device) -> Fd:
        """A detached mount of the device: of a node of our own, or else of one that the node has."""
        try:
            return _without_use(self._own_node(device))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise
            refused = error
        kind, number = stat.S_IFMT(mode_of(device)), number_of(device)
        directory = "block" if device.type == "b" else "char"
        for candidate in (path, f"/dev/{directory}/{device.major}:{device.minor}"):
            with contextlib.suppress(OSError):
                return _without_use(open_device(candidate, kind, number))
        raise Unsupported(
            f"linux.devices {path}: the device {device.type} {device.major}:{device.minor} may not be made here, "
            f"and the node has none at {path} to be bound"
        ) from refused

    def _own_node(self, device: schema.Device) -> Fd:
        """A node on a file system that nobody else sees.  EPERM without the right."""
        if self._workshop is None:
            self._workshop = Workshop()
        where, name = (
            self._workshop.fileno(),
            f"{device.type}{device.major}.{device.minor}.{device.file_mode}.{device.uid}.{device.gid}",
        )
        with contextlib.suppress(FileExistsError):
            os.mknod(name, mode_of(device), number_of(device), dir_fd=where)
            maps = ((self._linux.uid_mappings, device.uid), (self._linux.gid_mappings, device.gid))
            owner = [userns.host_id(mappings, inside) if mappings else inside for mappings, inside in maps]
            os.chown(name, *(0 if number is None else number for number in owner), dir_fd=where)
            os.chmod(name, stat.S_IMODE(mode_of(device)), dir_fd=where)
        return self._workshop.clone(name)


def _without_use(file: Fd) -> Fd:
    """*file*, a mount that nothing else is to be done with than to open it as a device."""
    kernel_mount.set_attributes(file, add=Flags(("MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NOEXEC")).value())
    return file


def may_make_nodes() -> bool:
    """Whether mknod(2) is permitted for devices: in the initial user namespace, and with the right to."""
    return _may_make_nodes(os.getpid())


@lru_cache(1)
def _may_make_nodes(_pid: int) -> bool:
    """Remembered, as long as we are the same process: to read one's rights takes longer than to prepare a mount."""
    return is_initial() and bool(sets_of().effective >> CAPABILITIES["CAP_MKNOD"] & 1)


def _is(status: os.stat_result, device: schema.Device) -> bool:
    """Whether that is *device*; a FIFO has no numbers."""
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(mode_of(device)):
        return False
    return device.type == "p" or status.st_rdev == number_of(device)
