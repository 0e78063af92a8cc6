"""A container's root: read-only layers of its image under a writable directory of its own (overlayfs).

The overlay is mounted *detached*: a descriptor that no mount table shows, given to the container's
init to attach in its own namespace.  When the last holder is gone, so is the mount; after a crash
there is nothing to unmount.

It is mounted ``volatile`` (Linux 5.10): no sync of the upper file system at every fsync(2) or unmount,
which a container's root does not need, since Kubernetes never starts a container twice.  overlayfs
leaves a mark while such a mount lives and refuses to mount the same upper again, as after a power cut
its content cannot be trusted.  So ``prepare`` makes a fresh upper, and clears the mark of one that
the daemon, which knows that it was shut down in order, wants to use again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel import filesystem, overlay
from kernel import mount as mounts
from kernel.errors import call_of
from kernel.fd import Fd, open_path
from kernel.program import Flags
from kernel.workshop import clone_inside
from runtime.container import userns
from runtime.errors import InvalidArgument, KerneletError, Unsupported
from runtime.paths import Paths
from runtime.spec.schema import IdMapping

UPPER, WORK = "upper", "work"
#: An empty directory, below the layers of an image that is mounted as it is.
NOTHING = "nothing"
#: The mark of a volatile mount, below the work directory.
VOLATILE_MARK = ("work", "incompat", "volatile")


@dataclass(frozen=True, slots=True)
class Users:
    """The user namespace of whoever sees the files, and its maps."""

    namespace: Fd
    uids: Sequence[IdMapping]
    gids: Sequence[IdMapping]


def prepare(paths: Paths, container_id: str) -> None:
    """Make the writable directories of a container, or make those it has mountable again.

    Only for what is not mounted: the mark of a volatile mount is what keeps a second one away.
    """
    home = os.fspath(paths.container(container_id))
    work = f"{home}/{WORK}"
    for directory in (home, f"{home}/{UPPER}"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
    try:
        os.mkdir(work, 0o700)
    except FileExistsError:
        with open_path(work, os.O_RDONLY | os.O_DIRECTORY) as used:
            _remove_below(used, VOLATILE_MARK)


def mount(
    paths: Paths,
    container_id: str,
    lower: Sequence[Path],
    *,
    read_only: bool = False,
    volatile: bool = True,
    users: Users | None = None,
    label: str = "",
) -> Fd:
    """The container's root as a detached mount: *lower*, topmost first, under its writable directory.

    Its root has the owner and mode of the topmost layer's.  With *read_only* nothing can be written
    through this mount.  With *users* all files are theirs; *label* is SELinux's for all of them.
    Raises OSError naming the option that overlayfs refused, Unsupported where the layers cannot be id-mapped.
    """
    if not lower:
        raise InvalidArgument("mount a container's root: the image has no layers")
    home = paths.container(container_id)
    if not (home / WORK / "work").exists():
        _copy_owner(lower[0], home / UPPER, users)
    options: list[overlay.Option] = ["volatile"] if volatile else []
    root = _mount_overlay(lower, (home / UPPER, home / WORK), [*options, *_context(label)], users)
    if read_only:
        mounts.set_attributes(root, add=Flags(("MOUNT_ATTR_RDONLY",)).value())
    return root


def _context(label: str) -> list[overlay.Option]:
    return [("context", label)] if label else []


def _mount_overlay(
    lower: Sequence[Path], writable: tuple[Path, Path] | None, options: Sequence[overlay.Option], users: Users | None
) -> Fd:
    namespace = None if users is None else users.namespace
    try:
        return overlay.mount_overlay(lower, writable, options=options, user_namespace=namespace)
    except OSError as error:
        if users is not None and call_of(error) == "mount_setattr":
            raise Unsupported(
                f"user namespace: {error.filename} cannot be id-mapped: its file system does not know how; "
                "move the root dir of kernelet.toml to one that does (ext4, xfs, btrfs; tmpfs since Linux 6.3)"
            ) from error
        raise


def can_map_ids(paths: Paths) -> bool:
    """Whether a pod can have users of its own here: namespaces for them can be made, and layers be stacked through one."""
    ids = [IdMapping(container_id=0, host_id=65536, size=65536)]
    try:
        with userns.make(ids, ids) as namespace:
            overlay.mount_overlay([paths.layers, paths.containers], None, user_namespace=namespace).close()
    except (OSError, KerneletError):
        return False
    return True


def mount_image(
    paths: Paths, container_id: str, lower: Sequence[Path], path: str, *, users: Users | None = None, label: str = ""
) -> Fd:
    """The directory *path* of an image as a detached mount that nobody can write through, whatever his rights.

    An overlay without a writable directory is read-only as a file system, not just where it is mounted.  It takes two
    layers, so there is an empty one below.  Raises InvalidArgument when there is no such directory in the image.
    """
    nothing = paths.container(container_id) / NOTHING
    nothing.mkdir(mode=0o755, exist_ok=True)
    whole = _mount_overlay([*lower, nothing], None, _context(label), users)
    mounts.set_attributes(whole, add=Flags(("MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV")).value())
    if not path.strip("/"):
        return whole
    with whole:
        try:
            return clone_inside(whole, path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise
            raise InvalidArgument(f"image_sub_path {path!r}: no such directory in the image") from None


def remove(paths: Paths, container_id: str) -> None:
    """Remove a container's writable directories and all that is in them; nothing happens if there are none.

    Raises OSError (EXDEV) rather than delete what is mounted inside.
    """
    with open_path(paths.containers, os.O_RDONLY | os.O_DIRECTORY) as containers:
        filesystem.remove_tree(containers, container_id)


def _copy_owner(source: Path, target: Path, users: Users | None) -> None:
    """overlayfs shows the upper directory's own owner and mode as those of "/"."""
    status = source.stat()
    uid, gid = status.st_uid, status.st_gid
    if users is not None:  # an owner that is not mapped is nobody's, which the upper directory has no number for
        uid = userns.host_id(users.uids, uid) or userns.host_id(users.uids, 0) or 0
        gid = userns.host_id(users.gids, gid) or userns.host_id(users.gids, 0) or 0
    os.chown(target, uid, gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))


def _remove_below(directory: Fd, names: Sequence[str]) -> None:
    """Remove the last of *names*, each a directory in the one before; no error if one is missing."""
    *above, last = names
    here = directory.duplicate()
    try:
        for name in above:
            with here:
                here = open_path(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, directory=here)
        filesystem.remove_tree(here, last)
    except FileNotFoundError:
        pass
    finally:
        here.close()
