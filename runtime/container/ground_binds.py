"""What a container gets of the node's own tree: bind mounts, made ready as detached mounts.

Opened here, with the node's rights: a container in a user namespace need not be able to reach them.  What is for one
is taken from a copy of the mount namespace that belongs to it, so that it cannot undo what the node's mounts are:
read-only, nosuid, nodev (mount_namespaces(7)).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from kernel import foreign_mount
from kernel import mount as kernel_mount
from kernel.fd import Fd
from kernel.mountinfo import load_mountinfo
from kernel.program import Flags
from runtime.container.options import Options, parse_options
from runtime.errors import HostPathNotFound, InvalidSpec, Unsupported
from runtime.spec import schema

#: A user namespace whose maps are those of a mount; whoever asks owns it.
FindNamespace = Callable[[schema.Mount], Fd]


def open_bind(
    mount: schema.Mount,
    find_namespace: FindNamespace | None = None,
    within: Fd | None = None,
    *,
    is_copied: bool = False,
    exactly: bool = False,
) -> Fd:
    """A detached mount of *mount*'s source with its options applied; *find_namespace* is asked when ids are mapped.

    *within* is a mount namespace from which it is taken, in place of our own; *is_copied*: it is going to be; *exactly*:
    it gets the flags that are said and loses the others, else it keeps what its source has.

    Raises HostPathNotFound when the source is absent: making it silently hides a typing error, and a
    kubelet makes what it needs.
    """
    options = parse_options(mount.options)
    check_bind(mount, options)
    try:
        file = clone(mount.source, within, recursive=options.is_recursive or mount.type == "rbind")
    except FileNotFoundError as error:
        raise HostPathNotFound(f"mount {mount.destination}: host path {mount.source}: no such file or directory") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # an unbindable mount; or it would show what mounts of the node's cover
            hint = "" if within is None else ", or has mounts below: in a user namespace these come along (rbind)"
            raise InvalidSpec(
                f"mount {mount.destination}: host path {mount.source}: is on a mount that cannot be bound{hint}"
            ) from error
        raise
    try:
        if is_id_mapped(mount, options):
            if find_namespace is None:
                raise InvalidSpec(f"mount {mount.destination}: uidMappings: there is no user namespace to take them from")
            with find_namespace(mount) as namespace:
                _map_ids(file, mount, options, namespace)
        apply_attributes(file, mount, options, exactly=exactly)
        propagate(file, options, is_copied=is_copied)
    except BaseException:
        file.close()
        raise
    return file


def clone(path: Path | str, within: Fd | None, *, recursive: bool) -> Fd:
    """A detached copy of the mount at *path*, in the mount namespace *within* if that is given."""
    if within is None:
        return kernel_mount.clone_tree(path, recursive=recursive)
    return foreign_mount.clone_tree(within, path, recursive=recursive)


def open_root(path: Path, propagation: str = "", within: Fd | None = None) -> Fd:
    """A detached mount of a root file system in a directory of the node's, with all that is mounted below.

    *propagation* is linux.rootfsPropagation: a slave goes on following the node's mount; any other is apart from it, so
    that nothing which is mounted in the container shows on the node.
    """
    root = clone(path, within, recursive=True)
    try:
        kind = "slave" if propagation in ("slave", "rslave") else "private"
        kernel_mount.set_attributes(root, propagation=kind, recursive=True)
    except BaseException:
        root.close()
        raise
    return root


def check_bind(mount: schema.Mount, options: Options) -> None:
    """Raise InvalidSpec for what a bind mount cannot be asked.

    Options with a value, that a file system would take, are nothing to a bind mount, and mount(2) passes them over: so
    do documents that give every mount the same ones.  A word that nothing knows is a typing error.
    """
    unknown = next((key for key, value in options.data if value is None and key), None)
    if unknown is not None:
        raise InvalidSpec(f"mount {mount.destination}: unknown option {unknown!r} for a bind mount")
    if options.copies_up:
        raise InvalidSpec(f"mount {mount.destination}: options: tmpcopyup is for tmpfs")


def is_id_mapped(mount: schema.Mount, options: Options) -> bool:
    """Whether owners are to be seen through maps.  Raises InvalidSpec for half of a map."""
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        raise InvalidSpec(f"mount {mount.destination}: uidMappings and gidMappings: one goes with the other")
    return bool(options.id_mapping or mount.uid_mappings)


def _map_ids(file: Fd, mount: schema.Mount, options: Options, namespace: Fd) -> None:
    try:
        kernel_mount.set_attributes(file, user_namespace=namespace, recursive=options.id_mapping == "ridmap")
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EPERM):
            raise Unsupported(
                f"mount {mount.destination}: uidMappings: host path {mount.source} cannot be id-mapped: "
                "its file system does not know how, it is mapped already, or this user may not"
            ) from error
        raise


def apply_attributes(file: Fd, mount: schema.Mount, options: Options, *, exactly: bool = False) -> None:
    """Set and clear what *options* say on the detached *file*; with the "r" family, on all below it.

    *exactly*: what they do not say is cleared, but for what is locked, because it comes from a more privileged mount
    namespace.  Raises Unsupported when that should be cleared by name.
    """
    if not (exactly and _set_exactly(file, options)):
        clear = (*options.clear, *(name for name in options.exactly[1] if exactly and name == "MOUNT_ATTR_NOSYMFOLLOW"))
        _set(file, mount, options.add, clear, recursive=False)
    _set(file, mount, options.recursive_add, options.recursive_clear, recursive=True)


def _set_exactly(file: Fd, options: Options) -> bool:
    add, clear = options.exactly
    try:
        kernel_mount.set_attributes(file, add=Flags(add).value(), clear=Flags(clear).value())
    except PermissionError:
        return False
    return True


def _set(file: Fd, mount: schema.Mount, add: tuple[str, ...], clear: tuple[str, ...], *, recursive: bool) -> None:
    if not add and not clear:
        return
    try:
        kernel_mount.set_attributes(file, add=Flags(add).value(), clear=Flags(clear).value(), recursive=recursive)
    except PermissionError as error:
        raise Unsupported(
            f"mount {mount.destination}: options: cannot clear locked flags: operation not permitted: "
            f"{mount.source} has them from a mount namespace that this user does not own"
        ) from error


def propagate(file: Fd, options: Options, *, is_copied: bool = False) -> None:
    """Private unless something else is asked, which is set on the mount as it is: a slave has a group to follow then.

    What is mounted below and not spoken of may follow the node's mounts, but nothing goes back: only "shared" asks for
    that.  What is going to be copied (*is_copied*) cannot be unbindable yet.
    """
    if not options.propagation:
        kernel_mount.set_attributes(file, propagation="private", recursive=True)
        return
    if not any(name == "shared" or recursive for name, recursive in options.propagation):
        kernel_mount.set_attributes(file, propagation="slave", recursive=True)
    for name, recursive in options.propagation:
        as_yet = "private" if name == "unbindable" and is_copied else name
        kernel_mount.set_attributes(file, propagation=as_yet, recursive=recursive)


def require_shared(mount: schema.Mount) -> None:
    """Raise InvalidSpec if *mount* is to hand mounts back to the node, and its source is on no shared mount.

    The runtime spec does not ask that, a kubelet's "Bidirectional" is not to be promised in vain.
    """
    if not any(name == "shared" for name, _ in parse_options(mount.options).propagation):
        return
    path = os.path.realpath(mount.source)
    below = [row for row in load_mountinfo() if path == row.target or path.startswith(row.target.rstrip("/") + "/")]
    if not below or not max(below, key=lambda row: (len(row.target), row.mount_id)).is_shared:
        raise InvalidSpec(f"mount {mount.destination}: host path {mount.source} is not on a shared mount, which rshared needs")


def open_null_device() -> Fd:
    """A detached mount of the host's /dev/null, seen to be the null device (CVE-2025-31133).

    Read-only, which a device that is written to does not mind: "chmod 0 /proc/kcore" in a container must
    not change the mode of the host's.
    """
    file = open_device("/dev/null", stat.S_IFCHR, os.makedev(1, 3))
    kernel_mount.set_attributes(file, add=Flags(("MOUNT_ATTR_RDONLY",)).value())
    return file


def open_device(path: str, kind: int, number: int) -> Fd:
    """A detached mount of the host's device at *path*; OSError (ENODEV) if that is another device, or none."""
    file = kernel_mount.clone_tree(path)
    status = os.fstat(file.fileno())
    if stat.S_IFMT(status.st_mode) != kind or status.st_rdev != number:
        file.close()
        what = "the null device" if number == os.makedev(1, 3) else f"the device {os.major(number)}:{os.minor(number)}"
        raise OSError(errno.ENODEV, f"not {what}", path)
    return file
